"""Driver 1, virtual time: event queue, cost model, and an executor for the real training work."""

from emsfl.simulate.arm import Arm, Elsewhere, arms_of
from emsfl.simulate.config import SimulateConfig
from emsfl.simulate.executor import open_executor
from emsfl.simulate.feasibility import Expectation, expectations
from emsfl.simulate.outcome import Outcome
from emsfl.simulate.prepare import prepare
from emsfl.simulate.progress import show_progress
from emsfl.simulate.simulate import Scenario, Simulation

__all__ = [
    "Arm",
    "Elsewhere",
    "Expectation",
    "Outcome",
    "Scenario",
    "SimulateConfig",
    "Simulation",
    "arms_of",
    "expectations",
    "open_executor",
    "prepare",
    "show_progress",
]
