"""Data sets, and how they are divided over clusters and devices."""

from emsfl.data.config import (
    DataConfig,
    MnistLabelsConfig,
    MnistRotatedConfig,
    SentimentConfig,
    SplitConfig,
    TableConfig,
)
from emsfl.data.datasets import load_data
from emsfl.data.pool import Encode, Tokenise
from emsfl.data.samples import FederatedData, Holdings, Samples

__all__ = [
    "DataConfig",
    "Encode",
    "FederatedData",
    "Holdings",
    "MnistLabelsConfig",
    "MnistRotatedConfig",
    "Samples",
    "SentimentConfig",
    "SplitConfig",
    "TableConfig",
    "Tokenise",
    "load_data",
]
