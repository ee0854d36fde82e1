"""The walk-through of docs/how-to/add-a-method.md: short enough, right, and resumable."""

import re
from pathlib import Path

import torch

import emsfl
from emsfl.methods import METHODS, Update, pack, unpack
from tests.methods.test_methods import assert_states_equal, shifted

PAGE = Path(__file__).parents[2] / "docs/how-to/add-a-method.md"


def code() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return block


def test_it_takes_under_40_lines():
    assert len([line for line in code().splitlines() if line.strip()]) < 40


def test_its_method_follows_algorithm_2(monkeypatch, federation, settings):
    """One round by hand: the average asks for a change of 0.5 everywhere."""
    monkeypatch.setattr(emsfl, "load", lambda *_args, **_options: None, raising=False)
    monkeypatch.setattr(emsfl, "run", lambda *_args, **_options: Nothing, raising=False)
    monkeypatch.delitem(METHODS, "fedadam", raising=False)
    namespace = {}
    try:
        exec(compile(code(), str(PAGE), "exec"), namespace)
        assert METHODS["fedadam"].label == "FedAdam"
    finally:
        METHODS.pop("fedadam", None)
    fed_adam = namespace["FedAdam"]
    method = fed_adam(federation, settings, 5)
    start = federation.pretrained
    for cluster in federation.clusters:
        method.hand_out(cluster)
    for cluster, amount in (("north", 1.0), ("south", -1.0)):
        method.receive(Update(cluster=cluster, version=0, values=shifted(start, amount)))
    # Weights 0.75 and 0.25; m = 0.1 * 0.5; v = 0.99 * tau^2 + 0.01 * 0.25
    step = 0.03 * 0.05 / ((0.99e-6 + 0.0025) ** 0.5 + 1e-3)
    for name, tensor in method.merged().state.items():
        torch.testing.assert_close(tensor, start[name] + step, atol=1e-6, rtol=1e-4)
    twin = fed_adam(federation, settings, 5)
    twin.restore(unpack(*pack(method.save())))
    for server in (method, twin):
        work = {cluster: server.hand_out(cluster) for cluster in federation.clusters}
        assert {w.version for w in work.values()} == {1}
        for cluster in federation.clusters:
            server.receive(Update(cluster=cluster, version=1, values=shifted(start, 0.25)))
    assert_states_equal(twin.merged().state, method.merged().state)


class Nothing:
    """A finished run that found nothing."""

    class result:  # noqa: N801
        methods = {}  # noqa: RUF012
