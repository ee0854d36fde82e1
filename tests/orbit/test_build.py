"""From a config to a plan: the public face of the room."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from emsfl.config import load_config
from emsfl.errors import ConfigError, DataError, InfeasibleError, UserError
from emsfl.orbit import ContactPlan, OrbitConfig, make_plan

WALKER = {
    "pattern": "delta",
    "num_satellites": 4,
    "num_planes": 2,
    "phasing": 1,
    "altitude_km": 780,
    "inclination_deg": 86.4,
}
SITES = [
    {"name": "Svalbard", "latitude_deg": 78.2, "longitude_deg": 15.6, "altitude_m": 450},
    {"name": "Quito", "latitude_deg": -0.2, "longitude_deg": -78.5, "altitude_m": 2850},
]


def scenario(*overrides: str, **changes: object) -> OrbitConfig:
    tree = {
        "start": "2026-06-21T00:00:00Z",
        "hours": 24,
        "constellation": {"walker": WALKER},
        "sites": SITES,
        "link": {"uplink_bps": 352_000, "downlink_bps": 704_000},
    }
    return load_config(OrbitConfig, tree | changes, overrides)


def test_one_antenna_follows_one_satellite_at_a_time():
    plan = make_plan(scenario())
    for site in plan.sites:
        contacts = plan.contacts(site)
        assert len(contacts) > 3
        for before, after in itertools.pairwise(contacts):
            assert before.end_s <= after.start_s


def test_bits_are_rate_times_contact_time():
    plan = make_plan(scenario())
    seconds = sum(c.end_s - c.start_s for c in plan.contacts("Quito"))
    assert plan.bits("Quito", "up", 0, plan.duration_s) == pytest.approx(352_000 * seconds)
    assert plan.bits("Quito", "down", 0, plan.duration_s) == pytest.approx(704_000 * seconds)


def test_a_transfer_resumes_in_the_next_contact():
    plan = make_plan(scenario())
    first, second = plan.contacts("Quito")[:2]
    fits = (first.end_s - first.start_s) * 352_000 / 8
    assert plan.finish_time("Quito", "up", 0, fits - 44_000) == pytest.approx(first.end_s - 1)
    assert plan.finish_time("Quito", "up", 0, fits + 44_000) == pytest.approx(second.start_s + 1)
    assert plan.finish_time("Quito", "up", 0, 1e15) == np.inf


def test_a_plan_is_reused_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(scenario(), tmp_path)
    monkeypatch.setattr("emsfl.orbit.build.find_windows", None)
    again = make_plan(scenario(), tmp_path)
    assert again.hash == plan.hash
    assert again.contacts("Svalbard") == plan.contacts("Svalbard")


def test_saved_plans_are_whole_and_deterministic(tmp_path: Path):
    plan = make_plan(scenario())
    plan.save(tmp_path / "a.npz")
    make_plan(scenario()).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert ContactPlan.load(tmp_path / "a.npz").hash == plan.hash
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-100])
    with pytest.raises(DataError, match="not a contact plan"):
        ContactPlan.load(tmp_path / "c.npz")


def test_a_server_on_one_satellite_leaves_only_its_contacts():
    config = scenario(server={"placement": "satellite", "satellite": "P1S2"})
    plan = make_plan(config)
    assert {c.satellite for site in plan.sites for c in plan.contacts(site)} == {"P1S2"}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("sites.0.latitude_deg=95", ConfigError, "sites.0.latitude_deg = 95"),
        ("link.uplink_bps=-1", ConfigError, "link.uplink_bps = -1"),
        ("hours=0", ConfigError, "hours = 0"),
        ("constellation.walker.num_planes=3", ConfigError, "multiple of num_planes 3"),
        ("sites.1.name=Svalbard", ConfigError, "'Svalbard' is given twice"),
    ],
)
def test_wrong_values_are_refused(override: str, error: type[UserError], message: str):
    with pytest.raises(error, match=message) as caught:
        scenario(override)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_impossible_scenarios_say_why():
    with pytest.raises(InfeasibleError, match="'Svalbard' sees no satellite"):
        make_plan(scenario("constellation.walker.inclination_deg=10"))
    with pytest.raises(ConfigError, match="did you mean 'P1S"):
        make_plan(scenario(server={"placement": "satellite", "satellite": "P1S9"}))
    with pytest.raises(DataError, match="does not exist"):
        make_plan(scenario(constellation={"elements": "missing.tle"}))


def test_inter_satellite_links_are_contacts_of_both_directions():
    links = {"rate_bps": 1e8, "max_range_km": 6000}
    walker = WALKER | {"num_satellites": 24, "num_planes": 2}
    plan = make_plan(scenario(constellation={"walker": walker}, inter_satellite=links))
    lonely = make_plan(scenario(constellation={"walker": walker}))
    assert plan.contacts("Quito") == lonely.contacts("Quito")
    there, back = plan.capacity("P1S1", "P1S2"), plan.capacity("P1S2", "P1S1")
    # Neighbours in one plane are 1870 km apart and always in sight.
    assert there.bits_until(86_400) == pytest.approx(86_400 * 1e8)
    assert there.bits_until(5000) == back.bits_until(5000)
    between = plan.source >= len(plan.sites)
    between &= plan.destination >= len(plan.sites)
    assert len(plan) - between.sum() == len(lonely)


def test_a_preset_constellation_with_a_preset_link():
    config = scenario(
        constellation={"preset": "iridium"}, link={"preset": "iridium-certus-700"}, hours=6
    )
    (svalbard, _) = make_plan(config).statistics()
    assert svalbard.longest_gap_s < 120
    assert svalbard.uplink_bits_per_day == pytest.approx(352_000 * 86_400, rel=0.02)
