"""Federated methods: they react to what happened and decide what comes next."""

from emsfl.methods.catalogue import METHODS, MethodEntry, Venue, local_settings
from emsfl.methods.central import Central
from emsfl.methods.cluster import Bootstrap, Cluster, Device
from emsfl.methods.config import MethodSettings
from emsfl.methods.cost import CostModel
from emsfl.methods.devices import make_cluster, measure_cluster, take_results, training_tasks
from emsfl.methods.ems_fl import EmsFl
from emsfl.methods.esft import Esft
from emsfl.methods.fedasync import FedAsync
from emsfl.methods.fedavg import FedAvg
from emsfl.methods.fedavg_experts import FedAvgExperts
from emsfl.methods.fedbuff import FedBuff
from emsfl.methods.fedmoe import FedMoE
from emsfl.methods.fedprox import FedProx
from emsfl.methods.local import Local
from emsfl.methods.memory import DeviceMemory, device_memory, moments
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
from emsfl.methods.packing import pack, unpack
from emsfl.methods.scenario import make_federation, scored

__all__ = [
    "METHODS",
    "Activity",
    "Bootstrap",
    "Central",
    "Cluster",
    "CostModel",
    "Device",
    "DeviceMemory",
    "EmsFl",
    "Esft",
    "FedAsync",
    "FedAvg",
    "FedAvgExperts",
    "FedBuff",
    "FedMoE",
    "FedProx",
    "Federation",
    "Local",
    "MergedModel",
    "Method",
    "MethodEntry",
    "MethodSettings",
    "Receive",
    "Update",
    "Upload",
    "Venue",
    "Work",
    "device_memory",
    "local_settings",
    "make_cluster",
    "make_federation",
    "measure_cluster",
    "moments",
    "num_trained_parameters",
    "pack",
    "scored",
    "take_results",
    "training_tasks",
    "unpack",
]
