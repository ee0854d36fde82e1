"""Curves reach a tracker's own files; a tracker that fails is named and the run goes on."""

import sys
import types

import pytest
from tests.results.example_run import example_result

from emsfl.errors import ConfigError
from emsfl.results import Sinks
from emsfl.results.summary import SeedRecord


def record(result, method="ems_fl"):
    found = result.methods[method]
    return SeedRecord(
        curve=found.curve[0],
        accuracy_by_domain={},
        submodel_accuracy={},
        uploaded_bytes=0,
        downloaded_bytes=0,
        update_bytes=[],
        num_refused=0,
        device_flops=0.0,
        energy_J=0.0,
        peak_trainable_parameters=0,
    )


def test_tensorboard_reads_back_every_point(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = record(example_result())
    sinks = Sinks(["tensorboard"], tmp_path, "demo", {})
    sinks.add("ems_fl", 0, one)
    sinks.close()
    events = accumulator.EventAccumulator(
        str(tmp_path / "tensorboard/ems_fl-seed0"), size_guidance={"tensors": 0}
    )
    events.Reload()
    found = events.Tensors("value")
    assert [event.step for event in found] == [round(point.time_s) for point in one.curve]
    values = [event.tensor_proto.float_val[0] for event in found]
    assert values == pytest.approx([point.accuracy for point in one.curve])


@pytest.mark.parametrize("failure", [OSError, SystemExit])
def test_a_failing_sink_is_named_once_and_the_others_go_on(tmp_path, monkeypatch, failure):
    seen = []

    def init(**settings):
        seen.append(settings["name"])
        raise failure("no disk")

    fake = types.ModuleType("trackio")
    fake.init = init
    monkeypatch.setitem(sys.modules, "trackio", fake)
    sinks = Sinks(["trackio", "tensorboard"], tmp_path, "demo", {})
    one = record(example_result())
    with pytest.warns(UserWarning, match=f"sink trackio is off: {failure.__name__}: no disk"):
        sinks.add("ems_fl", 0, one)
    sinks.add("fedavg", 0, one)
    sinks.close()
    assert seen == ["ems_fl-seed0"]
    assert (tmp_path / "tensorboard/fedavg-seed0").is_dir()


def test_a_sink_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"pip install 'emsfl\[wandb\]'"):
        Sinks(["wandb"], tmp_path, "demo", {})


def test_an_unknown_sink_is_the_users_error(tmp_path):
    with pytest.raises(ConfigError, match="'excel' is no sink; choose from tensorboard"):
        Sinks(["excel"], tmp_path, "demo", {})
