"""Pure numerics, arrays in and arrays out: who owns which experts, and what convergence costs."""

from emsfl.planning.assignment import (
    NOBODY,
    Assignment,
    Objective,
    assign_experts,
    mass_kept,
    random_assignment,
)

__all__ = [
    "NOBODY",
    "Assignment",
    "Objective",
    "assign_experts",
    "mass_kept",
    "random_assignment",
]
