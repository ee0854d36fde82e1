"""ION and dtn-tvg-util files load in parsers that are not ours, with the same contacts and units.

ION: `pons-dtn` (`pip install --no-deps pons-dtn simpy`, for its version pins are narrow).
Time-varying graphs: `dtn-tvg-util`, the package that defines the format.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from emsfl.config import load_config
from emsfl.orbit import ContactPlan, OrbitConfig, make_plan
from emsfl.orbit.formats import to_ion, to_tvg


@pytest.fixture(scope="module")
def plan() -> ContactPlan:
    return make_plan(
        load_config(
            OrbitConfig,
            {
                "start": datetime(2026, 6, 21, tzinfo=UTC),
                "hours": 12,
                "constellation": {
                    "walker": {
                        "num_satellites": 6,
                        "num_planes": 3,
                        "altitude_km": 600,
                        "inclination_deg": 80,
                    }
                },
                "sites": [
                    {"name": "Svalbard", "latitude_deg": 78.2, "longitude_deg": 15.6},
                    {"name": "Suva", "latitude_deg": -18.1, "longitude_deg": 178.4},
                ],
                "link": {"preset": "tr38821-vsat-leo600"},
            },
        )
    )


def test_dtn_tvg_util_reads_every_contact_and_its_profile(plan: ContactPlan):
    tvg = pytest.importorskip("tvgutil.tvg", reason="dtn-tvg-util is not installed")
    graph = tvg.from_serializable(json.loads(to_tvg(plan)))
    assert set(graph.vertices) == set(plan.nodes)
    read = tvg.to_contact_plan(graph)
    assert len(read) == len(plan) > 20
    carried = {
        (c.tx_node, c.rx_node, c.start_time): (
            c.end_time,
            sum(
                (end - start) * properties.bit_rate
                for start, end, properties in c.characteristics_in_time_frame(
                    c.start_time, c.end_time
                )
            ),
            c.get_characteristics_at(c.start_time).delay,
        )
        for c in read
    }
    for row in range(len(plan)):
        source, destination = plan.nodes[plan.source[row]], plan.nodes[plan.destination[row]]
        end_s, bits, delay_s = carried[source, destination, plan.start_s[row]]
        assert end_s == plan.end_s[row]
        assert delay_s == plan.delay_s[plan.offset[row]]
        link = plan.capacity(source, destination)
        expected = link.bits_until(end_s) - link.bits_until(plan.start_s[row])
        assert bits == pytest.approx(expected)


def test_pons_reads_every_ion_contact_in_bytes_per_second(plan: ContactPlan, tmp_path: Path):
    pons = pytest.importorskip("pons", reason="pons-dtn, or simpy, is not installed")
    path = tmp_path / "contacts.ion"
    path.write_text(to_ion(plan))
    read = pons.IonContactPlan.from_file(path)
    contacts = [entry for entry in read.contacts if entry[0] == "contact"]
    ranges = [entry for entry in read.contacts if entry[0] == "range"]
    assert len(contacts) == len(plan) > 20
    assert len(ranges) * 2 == len(plan)
    for row, (_, (start, end), source, destination, rate) in enumerate(contacts):
        assert (source - 1, destination - 1) == (plan.source[row], plan.destination[row])
        assert start == np.ceil(plan.start_s[row])
        assert end == np.floor(plan.end_s[row])
        link = plan.capacity(plan.nodes[source - 1], plan.nodes[destination - 1])
        bits = link.bits_until(plan.end_s[row]) - link.bits_until(plan.start_s[row])
        mean = bits / (plan.end_s[row] - plan.start_s[row]) / 8
        assert mean - 1 < rate <= mean
    for _, _, source, destination, metres in ranges:
        assert source < destination
        assert metres == 299_792_458  # one light second: delays are rounded up
