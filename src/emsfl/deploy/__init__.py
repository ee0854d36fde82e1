"""Driver 2, real time: the same methods between real machines, over Flower (extra `deploy`)."""

from emsfl.deploy.clock import Clock, Windows
from emsfl.deploy.config import DeployConfig
from emsfl.deploy.node import Node, NodeSettings
from emsfl.deploy.notes import Notes
from emsfl.deploy.server import Server, ServerSettings
from emsfl.deploy.status import Status
from emsfl.deploy.worker import Duty

__all__ = [
    "Clock",
    "DeployConfig",
    "Duty",
    "Node",
    "NodeSettings",
    "Notes",
    "Server",
    "ServerSettings",
    "Status",
    "Windows",
]
