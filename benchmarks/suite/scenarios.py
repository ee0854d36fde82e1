"""What is compared on what: every scenario of the evidence, and the axes of the map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/evidence"
TEST_SEEDS = (0, 1, 2)
TUNING_SEEDS = (10,)
"""Another data split, model and order of batches than those that are reported."""

TRAINED = (
    "ems_fl", "fedavg", "fedavg_fill", "fedavg_quorum", "fedavg_experts", "fedprox", "fedasync",
    "fedbuff", "fedmoe", "esft", "local", "central_same_steps", "central_all_steps",
)  # fmt: skip
"""Methods that are tuned, each with the same number of points."""
ABLATIONS = (
    "ems_fl_no_gate", "ems_fl_gate_only", "ems_fl_frozen_shared", "ems_fl_random",
    "ems_fl_frequency", "ems_fl_gate_norm",
)  # fmt: skip
"""Run with the settings of `ems_fl`."""
MAPPED = ("ems_fl", "fedavg", "fedavg_fill", "fedasync", "fedbuff")


@dataclass(frozen=True)
class Scenario:
    """One config with overrides, and the methods that run on it."""

    name: str
    base: str
    """Names the file in configs/evidence."""
    overrides: tuple[str, ...] = ()
    trained: tuple[str, ...] = TRAINED
    ablations: tuple[str, ...] = ABLATIONS
    optimizer: str = "sgd"

    @property
    def config(self) -> Path:
        """The file that the overrides apply to."""
        return CONFIGS / f"{self.base}.yaml"


MAIN = (
    Scenario("mnist_rotated", "mnist_rotated"),
    Scenario("mnist_labels", "mnist_labels"),
    Scenario("sentiment", "sentiment", optimizer="adam"),
    Scenario("language_model", "language_model", optimizer="adam"),
)


def _mapped(name: str, *overrides: str) -> Scenario:
    return Scenario(name, "mnist_rotated", overrides, MAPPED, ("ems_fl_no_gate", "ems_fl_random"))


MIXED = tuple(
    _mapped(f"mixed_{alpha:g}", f"data.split={{by: domain, alpha: {alpha}}}")
    for alpha in (0.1, 1.0, 100.0)
)
"""Domains spread over the clusters by Dirichlet shares: 0.1 nearly pure, 100 alike."""

SPEED = tuple(
    _mapped(f"speed_{factor:g}", f"simulate.device_flops_per_s={44.0e3 * factor!r}")
    for factor in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
)
"""Device speed over three decades, as a multiple of the demo's."""

CONTACTS = tuple(
    _mapped(
        f"satellites_{number}",
        "orbit.constellation={walker: {pattern: star, "
        f"num_satellites: {number}, num_planes: {planes}, altitude_km: 550, "
        "inclination_deg: 97.6}}",
    )
    for number, planes in ((1, 1), (2, 2), (6, 3), (20, 4), (60, 6))
)

LINKS = tuple(
    _mapped(f"link_{name}", f"orbit.link={{uplink_bps: {up}, downlink_bps: {down}}}")
    for name, up, down in (
        ("22_kbps", "22.0e+3", "88.0e+3"),
        ("352_kbps", "352.0e+3", "704.0e+3"),
        ("8_Mbps", "8.0e+6", "40.0e+6"),
    )
)

EXPERTS = tuple(
    _mapped(f"experts_{number}", f"model.num_experts={number}") for number in (8, 16, 32)
)

DEVICES = tuple(
    _mapped(f"devices_{number}", f"data.devices_per_cluster={number}") for number in (1, 3, 9)
)

MAP: dict[str, tuple[Scenario, ...]] = {
    "domains spread by Dirichlet": MIXED,
    "device speed": SPEED,
    "satellites": CONTACTS,
    "link": LINKS,
    "experts per layer": EXPERTS,
    "devices per cluster": DEVICES,
}
"""Axis -> its scenarios in order; one thing differs from rotated MNIST in each."""

SCENARIOS = {s.name: s for s in (*MAIN, *(s for axis in MAP.values() for s in axis))}
