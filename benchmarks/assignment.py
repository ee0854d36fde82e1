"""Time the assignment of experts and compare it with its bound: python benchmarks/assignment.py.

Prints one row per kind of constraint for 64 clusters x 32 layers x 128 experts.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emsfl.planning import assign_experts, random_assignment

NUM_CLUSTERS, NUM_LAYERS, NUM_EXPERTS = 64, 32, 128


def main() -> None:
    """Solve and print."""
    generator = np.random.default_rng(0)
    mass = generator.dirichlet(np.full(NUM_EXPERTS, 0.3), size=(NUM_CLUSTERS, NUM_LAYERS))
    weights = generator.dirichlet(np.full(NUM_CLUSTERS, 5.0))
    share = NUM_LAYERS * NUM_EXPERTS / NUM_CLUSTERS
    budgets = share * generator.uniform(0.8, 1.2, size=NUM_CLUSTERS)
    sizes = generator.uniform(0.5, 2.0, size=(NUM_LAYERS, NUM_EXPERTS))
    cases: dict[str, dict[str, Any]] = {
        "uniform k = 2": {"min_experts_per_layer": 2},
        "at least 1, no budget": {"min_experts_per_layer": 1, "uniform": False},
        "at least 1, budgets, equal sizes": {
            "min_experts_per_layer": 1,
            "uniform": False,
            "budget_bytes": budgets,
        },
        "at least 1, budgets, unequal sizes": {
            "min_experts_per_layer": 1,
            "uniform": False,
            "budget_bytes": budgets * sizes.mean(),
            "bytes_per_expert": sizes,
        },
    }
    table = Table(title=f"{NUM_CLUSTERS} clusters x {NUM_LAYERS} layers x {NUM_EXPERTS} experts")
    for heading in ("constraints", "time (s)", "mean mass kept", "at random", "gap to bound"):
        table.add_column(heading, justify="left" if heading == "constraints" else "right")
    for name, settings in cases.items():
        start_s = time.perf_counter()
        best = assign_experts(mass, cluster_weights=weights, **settings)
        elapsed_s = time.perf_counter() - start_s
        blind = random_assignment(
            np.random.default_rng(1), mass=mass, cluster_weights=weights, **settings
        )
        table.add_row(
            name,
            f"{elapsed_s:.2f}",
            f"{weights @ best.mass_kept.mean(axis=1):.4f}",
            f"{weights @ blind.mass_kept.mean(axis=1):.4f}",
            f"{(best.value_bound - best.value) / best.value:.1e}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
