"""Federated methods: they react to what happened and decide what comes next."""

from emsfl.methods.catalogue import METHODS, MethodEntry
from emsfl.methods.cluster import Bootstrap, Cluster, Device
from emsfl.methods.config import MethodSettings
from emsfl.methods.ems_fl import EmsFl
from emsfl.methods.fedasync import FedAsync
from emsfl.methods.fedavg import FedAvg
from emsfl.methods.method import (
    Activity,
    Federation,
    MergedModel,
    Method,
    Receive,
    Update,
    Upload,
    Work,
    num_trained_parameters,
)

__all__ = [
    "METHODS",
    "Activity",
    "Bootstrap",
    "Cluster",
    "Device",
    "EmsFl",
    "FedAsync",
    "FedAvg",
    "Federation",
    "MergedModel",
    "Method",
    "MethodEntry",
    "MethodSettings",
    "Receive",
    "Update",
    "Upload",
    "Work",
    "num_trained_parameters",
]
