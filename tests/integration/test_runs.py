"""The same config and seed give the same bytes: twice, with two processes, and after kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import emsfl
from emsfl.experiment import load

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
SMALL = [
    "orbit.hours=14",
    "data.num_test=20",
    "data.num_validation=8",
    "model.hidden_size=16",
    "model.expert_size=32",
    "model.pretrain.num_steps=40",
    "simulate.evaluation_points=3",
    "simulate.device_flops_per_s=2.0e+3",
    "method_settings.fedavg.local_steps=5",
    "method_settings.fedmoe.local_steps=5",
    "simulate.checkpoint_interval_s=0.1",
]
METHODS = [
    "ems_fl", "fedavg", "fedavg_fill", "fedasync", "fedbuff", "fedmoe", "central_all_steps",
    "ems_fl_no_gate", "ems_fl_gate_only", "ems_fl_frozen_shared", "ems_fl_random",
]  # fmt: skip


def comparable(folder: Path) -> str:
    """Return result.json without its timestamps, byte for byte."""
    text = (folder / "result.json").read_text()
    provenance = json.loads(text)["provenance"]
    for key in ("created_utc", "wall_time_s"):
        value = json.dumps(provenance[key])
        assert text.count(f'"{key}": {value}') == 1
        text = text.replace(f'"{key}": {value}', "")
    return text


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One run, in this process, with every method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMSFL_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("reference") / "run"
        emsfl.run(load(DEMO, SMALL, METHODS), out=folder, progress=False)
        return folder


def test_result_is_complete_and_sane(reference):
    result = json.loads((reference / "result.json").read_text())
    assert list(result["methods"]) == METHODS
    times = [[p["time_s"] for p in m["curve"][0]] for m in result["methods"].values()]
    assert all(t == times[0] for t in times)
    ems = result["methods"]["ems_fl"]
    assert (
        ems["peak_trainable_parameters"] < result["methods"]["fedavg"]["peak_trainable_parameters"]
    )
    assert (
        ems["upload_bytes_per_contact"]["mean"]
        < 0.5 * result["methods"]["fedavg"]["upload_bytes_per_contact"]["mean"]
    )
    for layer in result["assignment"]["ems_fl"]["owner"]:
        owners = [owner for owner in layer if owner is not None]
        assert {owners.count(c) for c in result["assignment"]["ems_fl"]["clusters"]} == {4}
    assert (reference / "report.html").stat().st_size > 10_000
    assert not list((reference / "checkpoints").glob("*.safetensors"))


def test_same_bytes_with_two_processes(reference, tmp_path):
    emsfl.run(load(DEMO, SMALL, METHODS), out=tmp_path / "run", workers=2, progress=False)
    assert comparable(tmp_path / "run") == comparable(reference)
    events = (tmp_path / "run/events.jsonl").read_bytes()
    assert events == (reference / "events.jsonl").read_bytes()


def test_same_bytes_on_a_ray_cluster(reference, tmp_path):
    pytest.importorskip("ray")
    emsfl.run(
        load(DEMO, SMALL, METHODS),
        out=tmp_path / "run",
        workers=2,
        executor="ray",
        sinks=["tensorboard"],
        progress=False,
    )
    assert comparable(tmp_path / "run") == comparable(reference)
    assert (tmp_path / "run/events.jsonl").read_bytes() == (reference / "events.jsonl").read_bytes()
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == len(METHODS)


def command(*arguments) -> list[str]:
    return [sys.executable, "-c", "from emsfl.cli import main; main()", *map(str, arguments)]


def kill_when(arguments: list[str], events: Path, size: int) -> None:
    """Start a command and kill -9 its whole process group once `events` is `size` bytes long."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None:
        if events.exists() and events.stat().st_size >= size:
            break
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_after_kill_9_at_three_random_moments(reference, tmp_path, workers):
    total = (reference / "events.jsonl").stat().st_size
    moments = sorted(random.Random(workers).uniform(0.05, 0.95) for _ in range(3))
    folder = tmp_path / "run"
    start = command(
        "run", DEMO, *SMALL, "--methods", ",".join(METHODS), "--out", folder, "--workers", workers
    )
    for index, moment in enumerate(moments):
        arguments = start if index == 0 else command("resume", folder, "--workers", workers)
        kill_when(arguments, folder / "events.jsonl", int(moment * total))
    emsfl.resume(folder, progress=False)
    assert comparable(folder) == comparable(reference)
    assert (folder / "events.jsonl").read_bytes() == (reference / "events.jsonl").read_bytes()


def test_run_killed_before_its_first_event_resumes(reference, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((reference / "config.yaml").read_bytes())
    emsfl.resume(folder, progress=False)
    assert comparable(folder) == comparable(reference)


def test_several_seeds_are_spread_over(tmp_path):
    config = load(DEMO, SMALL, ["ems_fl", "fedavg"], [0, 1])
    result = emsfl.run(config, out=tmp_path / "run", progress=False).result
    for method in result.methods.values():
        assert len(method.final_accuracy.per_seed) == len(method.curve) == 2
    assert result.target_accuracy == result.methods["fedavg"].final_accuracy.per_seed
    assert len(set(result.provenance.model_hash.values())) == 2
