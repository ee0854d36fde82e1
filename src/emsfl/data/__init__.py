"""Data sets, and how they are divided over clusters and devices."""

from emsfl.data.config import DataConfig
from emsfl.data.datasets import FederatedData, Samples, load_data

__all__ = ["DataConfig", "FederatedData", "Samples", "load_data"]
