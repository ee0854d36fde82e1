"""`emsfl run`, `resume` and `validate`: what they pass on and what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import emsfl
from emsfl.cli import call
from emsfl.cli.run import split_names, split_seeds
from emsfl.config import load_config
from emsfl.experiment import ExperimentConfig

DEMO = str(Path(__file__).parents[2] / "configs" / "demo.yaml")
SMALL = [
    "orbit.hours=6",
    "data.num_test=100",
    "data.num_validation=40",
    "model.pretrain.num_steps=20",
    "simulate.evaluation_points=2",
    "simulate.max_local_steps_per_contact=5",
]


def test_lists_between_commas() -> None:
    assert split_names(None) is None
    assert split_names("ems_fl, fedavg") == ["ems_fl", "fedavg"]
    assert split_seeds(None) is None
    assert split_seeds("0, 2,10") == [0, 2, 10]


def test_options_beat_overrides_beat_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    def seeds(*arguments: str) -> list[int]:
        assert call(["validate", DEMO, *arguments, "--json"]) == 0
        resolved: dict[str, list[int]] = json.loads(capsys.readouterr().out)
        return resolved["seeds"]

    assert seeds() == [0]
    assert seeds("seeds=[1, 2]") == [1, 2]
    assert seeds("seeds=[1, 2]", "--seeds", "3") == [3]


def test_what_validate_prints_is_the_same_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["validate", DEMO, "orbit.hours=5", "--methods", "fedavg"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{DEMO} is valid\n"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(captured.out)
    assert load_config(ExperimentConfig, resolved) == emsfl.load(
        DEMO, ["orbit.hours=5"], methods=["fedavg"]
    )
    assert yaml.safe_load(captured.out)["training"]["batch_size"] == 32


def test_a_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "run"
    command = ["run", DEMO, *SMALL, "--methods", "fedavg", "--seeds", "3", "--out", str(folder)]
    assert call(command) == 0
    captured = capsys.readouterr()
    assert "FedAvg" in captured.out
    assert captured.out.endswith(f"report: {folder / 'report.html'}\n")
    written = (folder / "result.json").read_text(encoding="utf-8")
    assert json.loads(written)["seeds"] == [3]

    assert call(command) == 2, "a folder that holds a run is never overwritten"
    assert "emsfl resume" in capsys.readouterr().err

    assert call(["resume", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (written, "")


def test_a_run_from_python(tmp_path: Path) -> None:
    # 1e3 is text here, and a number in YAML unless it is quoted.
    config = emsfl.load(DEMO, [*SMALL, "name='1e3'"], methods=["fedasync"])
    result = emsfl.run(config, out=tmp_path / "run", progress=False)
    assert emsfl.load(tmp_path / "run" / "config.yaml") == config
    assert result.folder == tmp_path / "run"
    assert list(result.result.methods) == ["fedasync"]
    assert emsfl.resume(tmp_path / "run").result == result.result
