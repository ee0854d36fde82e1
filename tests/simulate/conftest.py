"""A plan made by hand, and a scenario with two clusters of two devices on it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from emsfl.data import FederatedData, Samples
from emsfl.orbit import ContactPlan
from emsfl.simulate import Scenario, SimulateConfig
from emsfl.training import TrainingConfig

HOUR_S = 3600.0
Passes = dict[str, list[tuple[float, float]]]
PASSES_S: Passes = {
    "north": [(1 * HOUR_S, 1 * HOUR_S + 300), (4 * HOUR_S, 4 * HOUR_S + 300)],
    "south": [(2 * HOUR_S, 2 * HOUR_S + 300), (5 * HOUR_S, 5 * HOUR_S + 300)],
}
"""Two passes of five minutes a site."""


def make_plan(
    rate_bps: float, duration_s: float = 6 * HOUR_S, passes_s: Passes = PASSES_S
) -> ContactPlan:
    """Return a plan with passes at one rate up and down, over one satellite."""
    rows = sorted(
        (start, end, source, destination)
        for site, passes in enumerate(passes_s.values())
        for start, end in passes
        for source, destination in ((site, 2), (2, site))
    )
    starts = np.array([row[0] for row in rows])
    return ContactPlan(
        epoch_utc=datetime(2026, 6, 21, tzinfo=UTC),
        duration_s=duration_s,
        sites=("north", "south"),
        satellites=("sat",),
        source=np.array([row[2] for row in rows], dtype=np.int32),
        destination=np.array([row[3] for row in rows], dtype=np.int32),
        start_s=starts,
        end_s=np.array([row[1] for row in rows]),
        offset=np.arange(len(rows) + 1, dtype=np.int32),
        segment_start_s=starts,
        rate_bps=np.full(len(rows), rate_bps),
        delay_s=np.zeros(len(rows)),
    )


@pytest.fixture
def data() -> FederatedData:
    generator = np.random.default_rng(5)

    def samples(count: int) -> Samples:
        return Samples(
            inputs=generator.random((count, 8, 8), dtype=np.float32),
            labels=generator.integers(0, 3, count),
        )

    return FederatedData(
        num_classes=3,
        public=samples(8),
        shards={"north": (samples(20), samples(40)), "south": (samples(30), samples(30))},
        domain_of={"north": "a", "south": "b"},
        validation={"a": samples(10), "b": samples(10)},
        test={"a": samples(50), "b": samples(50)},
    )


@pytest.fixture
def scenario(spec, federation, data) -> Scenario:
    config = SimulateConfig(device_flops_per_s=100.0, evaluation_points=6)
    return Scenario(
        plan=make_plan(rate_bps=1e6),
        server_delay_s=0.5,
        data=data,
        model=spec,
        federation=federation,
        training=TrainingConfig(batch_size=8),
        config=config,
    )
