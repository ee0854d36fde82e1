"""The `simulate` section of a configuration: what computing costs, and how runs are judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emsfl.config import ConfigModel

Speed = Annotated[float, Field(gt=0, le=1e18)]


class SimulateConfig(ConfigModel):
    """Device speed and energy, the common cap on local steps, and the grid of evaluations."""

    device_flops_per_s: Speed | dict[str, Speed] = 1e9
    """Floating-point operations per second of every device, or of each site's devices."""
    max_local_steps_per_contact: int = Field(default=1000, ge=1)
    """Cap on the steps of a device between two contacts, the same for every method."""
    bootstrap: Literal["preinstalled", "over_the_air"] = "preinstalled"
    """`preinstalled`: devices hold the pre-trained model at the epoch and have scored it.
    `over_the_air`: the first download, scoring and the upload of scores happen in contacts."""
    evaluation_points: int = Field(default=24, ge=1, le=10_000)
    """Equal intervals of virtual time after which the merged model is judged."""
    judged_on: Literal["test", "validation"] = "test"
    """`validation` is for tuning; results are reported on `test`."""
    compute_power_W: float = Field(default=10.0, ge=0)
    """Drawn by a device while it trains."""
    transmit_power_W: float = Field(default=20.0, ge=0)
    """Drawn by a site's terminal while it sends."""
    receive_power_W: float = Field(default=5.0, ge=0)
    """Drawn by a site's terminal while it receives."""
    checkpoint_interval_s: float = Field(default=15.0, gt=0)
    """Wall time between checkpoints."""
