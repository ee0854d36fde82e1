"""Nodes that send what they must not, or whose clock is off: refused and named, or put right."""

import json
import re

import pytest
from benchmarks.deployment import deployment, finals

from tests.faults.test_faults import CONFIG, END_S, NAMES, OVERRIDES, VICTIM

pytestmark = pytest.mark.faults


def events_of(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "reason", "when"),
    [
        pytest.param("nan", "not finite", "whole", marks=pytest.mark.short),
        ("foreign", "not its own", "whole"),
        ("replay", "again", "whole"),
        ("old_base", "based on version", "whole"),
        ("zeros", "10737418240 bytes, where no answer has more than", "announced"),
    ],
)
def test_hostile_node_is_refused_and_named(tmp_path, kind, reason, when):
    """The model is that of a simulation in which this very update is refused."""
    with deployment(tmp_path / "d", CONFIG, overrides=OVERRIDES) as federation:
        federation.simulate(module=("tests.faults.refused", VICTIM, when))
        federation.start_server()
        federation.start_node(VICTIM, module=("tests.faults.evil", kind))
        federation.start_node("Alert")
        assert federation.wait("server", END_S) == 0
        (refused,) = (e for e in events_of(federation.run) if e["event"] == "refused")
        assert refused["cluster"] == VICTIM
        assert reason in refused["reason"]
        assert finals(federation.run) == finals(federation.folder / "simulated")
        sizes = [path.stat().st_size for path in federation.run.rglob("*") if path.is_file()]
        assert max(sizes) < 10 * 1024**2


@pytest.mark.parametrize("skew_s", [-30, 30])
def test_clock_skew(tmp_path, skew_s):
    """The node's clock is off; its signatures are made with the server's."""
    with deployment(tmp_path / "d", CONFIG, overrides=OVERRIDES, secure=True) as federation:
        federation.simulate()
        federation.make_keys(NAMES)
        federation.start_server()
        federation.start_node(VICTIM, module=("tests.faults.skewed", str(skew_s)))
        federation.start_node("Alert")
        assert federation.wait("server", END_S) == 0
        assert events_of(federation.run) == events_of(federation.folder / "simulated")
        if skew_s > 0:  # Flower takes older signatures
            (corrected, *_) = (
                n for n in federation.notes(VICTIM) if n["event"] == "clock_corrected"
            )
            (offset_s,) = re.findall(r"off by ([+-][0-9.]+) s", corrected["reason"])
            assert float(offset_s) == pytest.approx(skew_s, abs=1)
