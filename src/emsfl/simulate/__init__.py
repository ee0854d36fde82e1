"""Driver 1, virtual time: event queue, cost model, and an executor for the real training work."""

from emsfl.simulate.arm import Arm, Elsewhere, arms_of
from emsfl.simulate.bound import MethodBound, Prediction, Row, bound_of, predict, starting_point
from emsfl.simulate.config import SimulateConfig
from emsfl.simulate.contact_log import COVERED, untrained_events
from emsfl.simulate.executor import ExecutorKind, open_executor
from emsfl.simulate.feasibility import Expectation, expectations
from emsfl.simulate.outcome import Outcome
from emsfl.simulate.prepare import prepare
from emsfl.simulate.progress import show_progress
from emsfl.simulate.simulate import Scenario, Simulation
from emsfl.simulate.theory_subject import Subject, subject_of

__all__ = [
    "COVERED",
    "Arm",
    "Elsewhere",
    "ExecutorKind",
    "Expectation",
    "MethodBound",
    "Outcome",
    "Prediction",
    "Row",
    "Scenario",
    "SimulateConfig",
    "Simulation",
    "Subject",
    "arms_of",
    "bound_of",
    "expectations",
    "open_executor",
    "predict",
    "prepare",
    "show_progress",
    "starting_point",
    "subject_of",
    "untrained_events",
]
