"""Does each term of the theory respond as stated? python -m benchmarks.theory_trends

One quantity at a time is varied on random quadratics, where expectations are exact. The table shows
the exponent that docs/theory.md predicts, and the slope (log against log) of what is measured, as
mean and 95% confidence interval over random instances. A second table shows how tight the bounds
are where noise dominates. Both go into benchmarks/results/theory_trends.json. Takes about two
minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from tests.planning.quadratics import (
    Quadratics,
    constants_of,
    exact_trace,
    positive_definite,
    random_plan,
    random_problem,
)
from tests.planning.replay import replay

from emsfl.errors import DataError
from emsfl.files import write_json
from emsfl.planning import (
    Exchange,
    Scenario,
    Schedule,
    asynchronous,
    gap_bound,
    gate_bound,
    gradient_bound,
    leak_floor,
    merged_loss,
)

RESULT = Path(__file__).parent / "results" / "theory_trends.json"
NUM_INSTANCES = 8
Generator = np.random.Generator
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One row: what is varied, what is measured, and the exponent that the theory states."""

    term: str
    varied: str
    values: Sequence[float]
    exponent: float
    measure: Callable[[Generator, float], float]


def problem(
    rng: Generator,
    *,
    counts: Sequence[int],
    noise: tuple[float, float] = (0.0, 0.0),
    device_spread: float = 0.0,
    cluster_spread: float = 0.0,
    common_hessian: bool = False,
    coupled: bool = True,
) -> Quadratics:
    """Return a problem of equal clusters and devices that starts at its own minimum.

    `device_spread` and `cluster_spread` scale the distances between the devices' minima within a
    cluster and between the clusters' means.
    """
    size = 4
    hessian = positive_definite(rng, size, 0.3, 1.0)
    hessian[:2, 2:] *= coupled
    hessian[2:, :2] *= coupled
    hessians, minima = [], []
    for count in counts:
        center = cluster_spread * rng.normal(size=size)
        own = hessian if common_hessian else positive_definite(rng, size, 0.3, 1.0)
        hessians.append(
            np.stack(
                [
                    own if common_hessian else positive_definite(rng, size, 0.3, 1.0)
                    for _ in range(count)
                ]
            )
        )
        minima.append(center + device_spread * rng.normal(size=(count, size)))
    made = Quadratics(
        weights=np.full(len(counts), 1 / len(counts)),
        shares=[np.full(count, 1 / count) for count in counts],
        hessians=hessians,
        minima=minima,
        num_shared=2,
        noise_shared=noise[0],
        noise_expert=noise[1],
        start=[np.zeros(2)] + [np.zeros(2) for _ in counts],
    )
    best, _ = made.minimum(made.weights)
    made.start = [best[0][:2]] + [point[2:] for point in best]
    return made


def regular(num_clusters: int, gap: float, num_ticks: int) -> tuple[list[list[Exchange]], Schedule]:
    """Return exchanges without transfer times, every `gap` ticks, evenly staggered."""
    plans = []
    for c in range(num_clusters):
        first = gap * (c + 1) / num_clusters
        times = [float(np.ceil(t)) for t in np.arange(first, num_ticks, gap)]
        plans.append([Exchange(snapshot_s=t, arrival_s=t, read_s=t, reception_s=t) for t in times])
    return plans, asynchronous(plans, step_s=1.0, horizon_s=num_ticks)


def late_gradient(made: Quadratics, gap: float, num_ticks: int, step_size: float) -> float:
    """Return the mean squared gradient over the second half of a run."""
    exchanges, schedule = regular(len(made.weights), gap, num_ticks)
    trace = exact_trace(made, exchanges, schedule, step_size)
    return float(trace.gradient_sq[num_ticks // 2 : -1].mean())


def late_deviation(made: Quadratics, gap: float, num_ticks: int, step_size: float) -> float:
    """Return the weighted mean squared deviation of local models over the second half."""
    exchanges, schedule = regular(len(made.weights), gap, num_ticks)
    trace = exact_trace(made, exchanges, schedule, step_size)
    return float((trace.deviation_sq[num_ticks // 2 : -1] @ made.weights).mean())


def initial_gap(rng: Generator, num_ticks: float) -> float:
    """Return the mean squared gradient of a run without noise that starts off the minimum."""
    made = problem(rng, counts=[1, 1])
    made.start = [point + rng.normal(size=2) for point in made.start]
    exchanges, schedule = regular(2, 4, int(num_ticks))
    return float(exact_trace(made, exchanges, schedule, 0.1).gradient_sq[:-1].mean())


def contacts_under_cap(rng: Generator, gap: float) -> float:
    """Return the weight of cluster 0, relative to cluster 1's, that the fixed point reveals."""
    num_ticks = 6000
    made = problem(rng, counts=[1, 1], cluster_spread=1.0, common_hessian=True, coupled=False)
    plans = []
    for every in (gap, 32.0):
        times = np.arange(every, num_ticks, every).tolist()
        plans.append([Exchange(snapshot_s=t, arrival_s=t, read_s=t, reception_s=t) for t in times])
    schedule = asynchronous(plans, step_s=1.0, horizon_s=num_ticks, max_steps_per_contact=4)
    visited = []

    def observe(tick: int, z: list[FloatArray], *_: object) -> None:
        if tick > num_ticks // 2:
            visited.append(z[0][:2, 0])

    replay(
        weights=made.weights,
        shares=made.shares,
        start_shared=made.start[0][:, None],
        start_experts=[e[:, None] for e in made.start[1:]],
        exchanges=plans,
        schedule=schedule,
        step_size=0.05,
        gradient=lambda _, c, k, x: made.gradient(c, k, x),
        observe=observe,
    )
    s = np.mean(visited, axis=0)
    # With a common block Hessian the minimiser is the weighted mean of the clusters' minima.
    first, second = made.minima[0][0][:2], made.minima[1][0][:2]
    share = float((s - second) @ (first - second) / np.sum((first - second) ** 2))
    return share / (1 - share)


def gate_error(rng: Generator, error: float) -> float:
    """Return what a hard gate's error adds to random losses, and check it against its bound."""
    weights = rng.dirichlet(np.full(3, 3.0))
    loss = rng.uniform(1, 3, size=(3, 3)) + 2 - 2 * np.eye(3)
    sent = (1 - error) * np.eye(3) + error / 2 * (1 - np.eye(3))
    excess = merged_loss(weights, sent, loss) - merged_loss(weights, np.eye(3), loss)
    bound = gate_bound(weights, np.diag(loss), np.full(3, error), float(np.ptp(loss))).excess
    if excess > bound * (1 + 1e-12):
        raise AssertionError("Theorem 3(a) is violated")
    return excess


def leaked_mass(rng: Generator, mass: float) -> float:
    """Return what leaked mass adds to a squared loss, and check that it is the floor."""
    own, foreign, label = rng.normal(size=(3, 400, 4))
    label = np.concatenate([own + label, own - label])  # calibrated: the mean label is own
    own, foreign = np.tile(own, (2, 1)), np.tile(foreign, (2, 1))
    leaked = own + mass * (foreign - own)
    excess = 0.5 * np.mean(
        np.sum((leaked - label) ** 2, axis=1) - np.sum((own - label) ** 2, axis=1)
    )
    floor = leak_floor(np.full(len(own), mass), np.linalg.norm(foreign - own, axis=1), 1.0)
    if abs(excess - floor) > 1e-9 * floor:
        raise AssertionError("Theorem 3(e) is not an equality for squared loss")
    return float(excess)


TRENDS = (
    Trend(
        term="optimisation",
        varied="ticks T",
        values=(200, 400, 800, 1600),
        exponent=-1,
        measure=initial_gap,
    ),
    Trend(
        term="noise floor",
        varied="step size",
        values=(0.02, 0.04, 0.08),
        exponent=1,
        measure=lambda rng, eta: late_gradient(
            problem(rng, counts=[1], noise=(1.0, 1.0)), 4, int(8 / eta), eta
        ),
    ),
    Trend(
        term="noise floor",
        varied="devices K",
        values=(1, 2, 4, 8),
        exponent=-1,
        measure=lambda rng, k: late_gradient(
            problem(rng, counts=[int(k)], noise=(1.0, 1.0), common_hessian=True), 4, 100, 0.1
        ),
    ),
    Trend(
        term="noise floor, shared",
        varied="clusters C",
        values=(1, 2, 4, 8),
        exponent=-1,
        measure=lambda rng, c: late_gradient(
            problem(rng, counts=[1] * int(c), noise=(1.0, 0.0), common_hessian=True, coupled=False),
            2,
            100,
            0.1,
        ),
    ),
    Trend(
        term="deviation, noise",
        varied="local steps tau",
        values=(4, 8, 16, 32),
        exponent=1,
        measure=lambda rng, tau: late_deviation(
            problem(rng, counts=[3], noise=(1.0, 1.0)), tau, 128, 0.005
        ),
    ),
    Trend(
        term="deviation, device heterogeneity",
        varied="local steps tau",
        values=(8, 16, 32, 64),
        exponent=2,
        measure=lambda rng, tau: late_deviation(
            problem(rng, counts=[3], device_spread=1.0), tau, 256, 0.002
        ),
    ),
    Trend(
        term="gradient, device heterogeneity",
        varied="local steps tau",
        values=(8, 16, 32),
        exponent=2,
        measure=lambda rng, tau: late_gradient(
            problem(rng, counts=[3], device_spread=1.0), tau, 2400, 0.003
        ),
    ),
    Trend(
        term="gradient, device heterogeneity",
        varied="zeta",
        values=(0.25, 0.5, 1, 2),
        exponent=2,
        measure=lambda rng, spread: late_gradient(
            problem(rng, counts=[3], device_spread=spread), 16, 400, 0.01
        ),
    ),
    Trend(
        term="deviation, noise",
        varied="contact gap, 3 clusters",
        values=(6, 12, 24, 48),
        exponent=1,
        measure=lambda rng, gap: late_deviation(
            problem(rng, counts=[1, 1, 1], noise=(1.0, 1.0)), gap, 144, 0.004
        ),
    ),
    Trend(
        term="deviation, cluster heterogeneity",
        varied="contact gap, 3 clusters",
        values=(12, 24, 48, 96),
        exponent=2,
        measure=lambda rng, gap: late_deviation(
            problem(rng, counts=[1, 1, 1], cluster_spread=1.0), gap, 384, 0.001
        ),
    ),
    Trend(
        term="gradient, cluster heterogeneity",
        varied="contact gap, 3 clusters",
        values=(12, 24, 48),
        exponent=2,
        measure=lambda rng, gap: late_gradient(
            problem(rng, counts=[1, 1, 1], cluster_spread=1.0), gap, 2400, 0.003
        ),
    ),
    Trend(
        term="gradient, cluster heterogeneity",
        varied="gamma",
        values=(0.25, 0.5, 1, 2),
        exponent=2,
        measure=lambda rng, spread: late_gradient(
            problem(rng, counts=[1, 1, 1], cluster_spread=spread), 12, 400, 0.01
        ),
    ),
    Trend(
        term="weight in the objective, capped",
        varied="contact gap of one cluster",
        values=(8, 16, 32, 64),
        exponent=-1,
        measure=contacts_under_cap,
    ),
    Trend(
        term="merged model, gate",
        varied="gate error",
        values=(0.02, 0.05, 0.1, 0.2),
        exponent=1,
        measure=gate_error,
    ),
    Trend(
        term="merged model, no gate",
        varied="leaked mass",
        values=(0.1, 0.2, 0.4, 0.8),
        exponent=2,
        measure=leaked_mass,
    ),
)


def slope(trend: Trend, seed: int) -> float:
    """Return the slope of one random instance, the same for all values of what is varied."""
    measured = [trend.measure(np.random.default_rng(seed), value) for value in trend.values]
    return float(np.polyfit(np.log(trend.values), np.log(measured), 1)[0])


def tightness(num_instances: int, longest_window: float) -> dict[str, list[float]]:
    """Return bound / exact value where noise makes up most of the bound.

    Args:
        num_instances: how many random instances.
        longest_window: most of step size x L x |K| that is let in; Corollary 1 allows 1/2.
    """
    rng = np.random.default_rng(0)
    ratios: dict[str, list[float]] = {name: [] for name in ("gradient", "gap of z", "server's gap")}
    while len(ratios["gradient"]) < num_instances:
        made = random_problem(rng, num_clusters=2, noise=30.0, spread=0.05, start=0.1)
        exchanges, schedule = random_plan(rng, 2, num_ticks=60, mean_gap=3.0)
        step_size = 10 ** rng.uniform(-2, -1)
        trace = exact_trace(made, exchanges, schedule, step_size)
        scenario = Scenario(constants_of(made, schedule, trace), schedule)
        window = made.smoothness * scenario.deviation.coupling_norm[-1]
        try:
            gradient = gradient_bound(scenario, step_size)
        except DataError:
            continue
        noise = gradient.terms["noise"] + gradient.terms["drift"]
        if noise < 0.5 * gradient.value or step_size * window > longest_window:
            continue
        gaps = gap_bound(scenario, step_size)
        ratios["gradient"].append(gradient.value / float(trace.gradient_sq[:-1].mean()))
        ratios["gap of z"].append(float(gaps.virtual[-1] / trace.virtual_gap[-1]))
        ratios["server's gap"].append(float(gaps.server[-1] / trace.server_gap[-1]))
    return ratios


def main() -> None:
    """Measure and print both tables."""
    console = Console(width=120)
    found: dict[str, Any] = {"slopes": [], "bound_over_exact": []}
    table = Table(title=f"Slopes over {NUM_INSTANCES} random instances (95% confidence)")
    for heading in ("term", "varied", "predicted", "measured", "half-width"):
        table.add_column(heading)
    for trend in track(TRENDS, console=console):
        slopes = [slope(trend, seed) for seed in range(NUM_INSTANCES)]
        spread = stats.sem(slopes) * stats.t.ppf(0.975, NUM_INSTANCES - 1)
        found["slopes"].append(
            {
                "term": trend.term,
                "varied": trend.varied,
                "values": list(trend.values),
                "predicted": trend.exponent,
                "measured": float(np.mean(slopes)),
                "half_width_95": float(spread),
                "instances": NUM_INSTANCES,
            }
        )
        table.add_row(
            trend.term,
            f"{trend.varied}: {trend.values[0]:g}..{trend.values[-1]:g}",
            f"{trend.exponent:g}",
            f"{np.mean(slopes):.3f}",
            f"{spread:.3f}",
        )
    console.print(table)
    table = Table(title="Bound / exact value where noise dominates, 60 random instances each")
    for heading in ("bound", "eta L |K| up to", "5%", "median", "95%"):
        table.add_column(heading)
    for window in (0.5, 1.0):
        for name, ratios in tightness(60, window).items():
            quantiles = [float(np.quantile(ratios, q)) for q in (0.05, 0.5, 0.95)]
            row = dict(zip(("5%", "median", "95%"), quantiles, strict=True))
            found["bound_over_exact"].append({"bound": name, "window": window} | row)
            table.add_row(name, f"{window:g}", *(f"{quantile:.2f}" for quantile in quantiles))
    console.print(table)
    write_json(RESULT, found)


if __name__ == "__main__":
    main()
