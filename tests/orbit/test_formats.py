"""Plans in other programs' formats; ION is read back."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from emsfl.errors import DataError
from emsfl.orbit.czml import to_czml
from emsfl.orbit.formats import iso_utc, read_ion, to_csv, to_ion, to_tvg
from emsfl.orbit.satellite import new_satellite
from emsfl.orbit.sites import Site
from tests.orbit.test_plan import EPOCH, make

PLAN = make(
    [
        (0, 2, 0.4, 100.6, [8000.0, 16000.0]),
        (2, 0, 0.4, 100.6, [80_000.0]),
        (1, 3, 200.0, 300.0, [801.0]),
        (1, 3, 400.2, 400.9, [801.0]),
    ],
    sites=("A site", "B"),
)


def test_ion_counts_whole_seconds_and_bytes_and_never_promises_too_much():
    lines = to_ion(PLAN).splitlines()
    assert "# node 1 site A site" in lines
    assert "@ 2026/06/21-00:00:00" in lines
    assert [line for line in lines if line.startswith("a contact")] == [
        "a contact +1 +100 1 3 1500",
        "a contact +1 +100 3 1 10000",
        "a contact +200 +300 2 4 100",
    ]
    # Light seconds, rounded up, once a pair.
    assert [line for line in lines if line.startswith("a range")] == [
        "a range +1 +100 1 3 1",
        "a range +200 +300 2 4 1",
    ]


def test_ion_is_read_back(tmp_path: Path):
    path = tmp_path / "plan.ion"
    path.write_text(to_ion(PLAN))
    plan = read_ion(path)
    assert plan.sites == PLAN.sites
    assert plan.satellites == PLAN.satellites
    assert (plan.epoch_utc, plan.duration_s) == (EPOCH, 1000.0)
    assert plan.start_s.tolist() == [1, 1, 200]
    assert plan.rate_bps.tolist() == [12_000, 80_000, 800]
    assert plan.delay_s.tolist() == [1, 1, 1]
    (tmp_path / "again.ion").write_text(to_ion(plan))
    assert read_ion(tmp_path / "again.ion").hash == plan.hash


def test_ion_of_others_with_absolute_times(tmp_path: Path):
    path = tmp_path / "contacts.ionrc"
    path.write_text(
        "1 1 ''\n\na contact 2026/06/21-00:00:10 2026/06/21-00:01:00 1 2 125000 0.9\n"
        "a contact 2026/06/21-00:00:10 2026/06/21-00:01:00 2 1 1000\n"
        "a range 2026/06/21-00:00:00 2026/06/22-00:00:00 1 2 3\ns\n"
    )
    plan = read_ion(path, EPOCH, sites=["1"])
    assert (plan.sites, plan.satellites) == (("1",), ("2",))
    assert plan.bits("1", "up", 0, 100) == 50 * 1e6
    assert plan.delay_s.tolist() == [3, 3]
    with pytest.raises(DataError, match=r":3: the absolute time .* needs epoch_utc"):
        read_ion(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no 'a contact'"),
        ("a contact +1 +2 1 2", r":2: 'a contact' needs"),
        ("a contact +1 soon 1 2 5", r":2: 'soon' is no time"),
        ("a contact +1 +2 1 2 fast", r":2: 'fast' is no number"),
        ("a contact +5 +2 1 2 5", r":2: the contact must end after"),
    ],
)
def test_malformed_ion_names_file_and_line(tmp_path: Path, line: str, message: str):
    path = tmp_path / "bad.ion"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_ion(path, EPOCH)


def test_tvg_keeps_every_segment_of_the_profile():
    tree = json.loads(to_tvg(PLAN))
    assert tree["contact_type"] == "Contact_v2"
    assert tree["vertices"] == {"A site": ["S"], "B": ["T"], "S": ["A site"], "T": []}
    (contact,) = tree["edges"][0]["contacts"]
    assert contact[:4] == ["A site", "S", 0.4, 100.6]
    first, second = contact[4]
    assert first == [0.4, 8000.0, 0.0, 0.003]
    assert second == [pytest.approx(50.5), 16000.0, 0.0, 0.003]


def test_csv_rows():
    rows = list(csv.DictReader(io.StringIO(to_csv(PLAN))))
    assert rows[0] == {
        "source": "A site",
        "destination": "S",
        "start_utc": "2026-06-21T00:00:00.400Z",
        "end_utc": "2026-06-21T00:01:40.600Z",
        "start_s": "0.400",
        "end_s": "100.600",
        "bits": "1202400",
        "mean_bps": "12000.0",
    }


def test_times_are_rounded_to_milliseconds():
    assert iso_utc(datetime(2026, 1, 1, 23, 59, 59, 999_600, UTC)) == "2026-01-02T00:00:00.000Z"


def test_czml_shows_nodes_and_links():
    satellite = new_satellite(
        name="S",
        number=1,
        epoch=EPOCH,
        mean_motion_rev_day=15.0,
        eccentricity=0.0,
        inclination_deg=50,
        raan_deg=0,
        argument_of_perigee_deg=0,
        mean_anomaly_deg=0,
    )
    sites = [Site(name=name, latitude_deg=0, longitude_deg=0) for name in PLAN.sites]
    document, *packets = json.loads(to_czml(PLAN, [satellite], sites))
    assert document["id"] == "document"
    assert document["version"] == "1.0"
    by_id = {packet["id"]: packet for packet in packets}
    assert set(by_id) == {"A site", "B", "S", "A site - S", "B - T"}
    assert by_id["B"]["position"]["cartesian"] == [6_378_137.0, 0.0, 0.0]
    samples = np.array(by_id["S"]["position"]["cartesian"]).reshape(-1, 4)
    assert samples[-1, 0] == 1000
    assert np.linalg.norm(samples[:, 1:], axis=1) == pytest.approx(6_939_000, rel=0.01)
    shown = by_id["A site - S"]["polyline"]["show"]
    assert [interval["boolean"] for interval in shown] == [False, True]
    assert shown[1]["interval"] == "2026-06-21T00:00:00.400Z/2026-06-21T00:01:40.600Z"
