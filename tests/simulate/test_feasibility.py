"""Expectations before training: bytes by hand, times on a plan of round numbers."""

import numpy as np
import pytest

from emsfl.methods import METHODS, MethodSettings, Venue
from emsfl.moe import ImageClassifier, PatchMoEConfig
from emsfl.orbit import OrbitConfig, make_plan
from emsfl.simulate import SimulateConfig, expectations
from emsfl.training import TrainingConfig

MODEL = ImageClassifier(
    PatchMoEConfig(hidden_size=16, expert_size=16, num_experts=8, num_layers=1), 10
)
WALKER = {"num_satellites": 4, "num_planes": 2, "altitude_km": 780, "inclination_deg": 86.4}


def plan(uplink_bps: float):
    return make_plan(
        OrbitConfig.model_validate(
            {
                "start": "2026-06-21T00:00:00Z",
                "hours": 48,
                "constellation": {"walker": WALKER},
                "sites": [
                    {"name": "Svalbard", "latitude_deg": 78.2, "longitude_deg": 15.6},
                    {"name": "Quito", "latitude_deg": -0.2, "longitude_deg": -78.5},
                ],
                "link": {"uplink_bps": uplink_bps, "downlink_bps": 2 * uplink_bps},
            },
            strict=False,
        )
    )


def rows(uplink_bps: float, speed: float, methods=("ems_fl", "fedavg", "fedavg_fill", "fedasync")):
    found = expectations(
        plan(uplink_bps),
        MODEL,
        TrainingConfig(),
        SimulateConfig(device_flops_per_s=speed),
        MethodSettings(),
        methods,
    )
    return {(row.method, row.site): row for row in found}


def test_bytes_are_those_of_the_tensors():
    found = rows(1e6, 1e9)
    parameters = sum(t.numel() for t in MODEL.initial_state(_generator()).values())
    full = found["fedavg", "Quito"]
    assert full.upload_bytes == full.download_bytes == 4 * parameters
    assert full.memory_bytes == 4 * 3 * parameters
    split = found["ems_fl", "Quito"]
    assert split.upload_bytes < full.upload_bytes
    assert split.memory_bytes < full.memory_bytes
    assert full.contacts_per_upload == pytest.approx(
        full.upload_bytes / full.uplink_bytes_per_contact
    )


def test_a_synchronous_round_waits_for_the_slowest_site():
    found = rows(1e6, 1e9)
    assert found["fedavg", "Quito"].round_s == found["fedavg", "Svalbard"].round_s
    rounds = [found["fedasync", site].round_s for site in ("Svalbard", "Quito")]
    assert rounds[0] < rounds[1]
    assert all(row.bottleneck == "contacts" for row in found.values())


def test_slow_devices_and_slow_links_are_named():
    slow = rows(1e6, 2e3, ["fedavg"])["fedavg", "Svalbard"]
    assert slow.bottleneck == "training"
    assert slow.training_share > 0.9
    thin = rows(150.0, 1e9, ["fedavg"])["fedavg", "Svalbard"]
    assert thin.contacts_per_upload > 1
    assert thin.bottleneck == "link"
    none = rows(1.0, 1e9, ["fedavg"])["fedavg", "Quito"]
    assert (none.round_s, none.bottleneck) == (None, "no round fits")


def test_every_method_over_contacts_is_expected():
    found = rows(1e6, 1e6, tuple(METHODS))
    trained = {
        name
        for name, entry in METHODS.items()
        if entry.venue is Venue.CONTACTS and entry.training_of is None
    }
    assert {method for method, _ in found} == trained - {"ems_fl_gate_only"}
    experts = found["fedavg_experts", "Quito"]
    assert experts.upload_bytes < found["fedavg", "Quito"].upload_bytes
    assert experts.memory_bytes < found["fedavg", "Quito"].memory_bytes
    # All experts are held by both, but only half of them train.
    assert found["esft", "Quito"].memory_bytes < experts.memory_bytes
    assert 2 * found["esft", "Quito"].upload_bytes == experts.upload_bytes


def test_shares_of_a_round_sum_to_one():
    for row in rows(1e6, 1e6).values():
        total = row.waiting_share + row.training_share + row.link_share
        assert total == pytest.approx(1.0, abs=0.02)
        assert np.isfinite(row.steps_per_gap)


def _generator():
    import torch

    return torch.Generator().manual_seed(0)
