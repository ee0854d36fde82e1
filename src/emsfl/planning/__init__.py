"""Pure numerics, arrays in and arrays out: who owns which experts, and what convergence costs."""

from emsfl.planning.assignment import (
    NOBODY,
    Assignment,
    Objective,
    assign_experts,
    mass_kept,
    random_assignment,
    uniform_count,
)
from emsfl.planning.bound import (
    TERMS,
    GapBound,
    GradientBound,
    Scenario,
    best_step_size,
    gap_bound,
    gradient_bound,
)
from emsfl.planning.deviation import Constants, Rates, rates
from emsfl.planning.first_come import assign_next
from emsfl.planning.forecast import Forecast, ticks_to_gradient, ticks_to_loss
from emsfl.planning.gate_bound import (
    MergedBound,
    gate_bound,
    leak_floor,
    merged_loss,
    soft_gate_bound,
)
from emsfl.planning.schedule import (
    Exchange,
    Rounds,
    Schedule,
    Transfer,
    asynchronous,
    exchanges_in_contacts,
    fedavg_rounds,
    link_time,
    synchronous,
)
from emsfl.planning.terms import gap_terms

__all__ = [
    "NOBODY",
    "TERMS",
    "Assignment",
    "Constants",
    "Exchange",
    "Forecast",
    "GapBound",
    "GradientBound",
    "MergedBound",
    "Objective",
    "Rates",
    "Rounds",
    "Scenario",
    "Schedule",
    "Transfer",
    "assign_experts",
    "assign_next",
    "asynchronous",
    "best_step_size",
    "exchanges_in_contacts",
    "fedavg_rounds",
    "gap_bound",
    "gap_terms",
    "gate_bound",
    "gradient_bound",
    "leak_floor",
    "link_time",
    "mass_kept",
    "merged_loss",
    "random_assignment",
    "rates",
    "soft_gate_bound",
    "synchronous",
    "ticks_to_gradient",
    "ticks_to_loss",
    "uniform_count",
]
