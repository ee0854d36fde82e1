"""A grid of runs: every point is a run, a stopped sweep goes on, and workers change nothing."""

import json
from pathlib import Path

import pytest

from emsfl.cli import call
from emsfl.config import to_yaml
from emsfl.errors import ConfigError
from emsfl.files import sole_writer
from emsfl.results import RunFolder
from emsfl.sweep import grid, parse_axes, run_points
from tests.integration.test_runs import DEMO, SMALL, comparable

FIXED = [text for text in SMALL if "checkpoint" not in text]
AXES = [*FIXED, "method_settings.fedavg.learning_rate=0.01,0.1", "training.momentum=0.0,0.9"]


def run(out: Path, *extra: str) -> int:
    return call(["sweep", str(DEMO), *AXES, "--methods", "fedavg", "--out", str(out), *extra])


def test_every_combination_runs_and_a_second_call_reads_them(tmp_path, capsys):
    assert run(tmp_path / "grid", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["settings"] for row in rows] == [
        {"method_settings.fedavg.learning_rate": rate, "training.momentum": momentum}
        for rate in ("0.01", "0.1")
        for momentum in ("0.0", "0.9")
    ]
    finals = [row["methods"]["fedavg"]["final_accuracy"]["mean"] for row in rows]
    assert len(set(finals)) > 1
    folders = sorted((tmp_path / "grid").iterdir())
    assert folders[0].name == "learning_rate=0.01,momentum=0.0"
    written = [(folder / "result.json").stat().st_mtime_ns for folder in folders]

    assert run(tmp_path / "grid") == 0
    shown = capsys.readouterr().out
    assert "4 points; accuracy, %" in shown
    assert "learning_rate" in shown
    assert written == [(folder / "result.json").stat().st_mtime_ns for folder in folders]

    # A point without its result goes on, here in another process, to the same bytes.
    before = comparable(folders[0])
    (folders[0] / "result.json").unlink()
    assert run(tmp_path / "grid", "--workers", "2") == 0
    assert comparable(folders[0]) == before


def test_a_folder_with_other_settings_is_not_overwritten(tmp_path, capsys):
    assert run(tmp_path / "grid", "--seeds", "1") == 0
    assert run(tmp_path / "grid", "--seeds", "2") == 2
    assert "holds this point with another config" in capsys.readouterr().err


def test_every_point_is_told_of_when_it_is_done_and_not_later(tmp_path):
    points = grid(DEMO, parse_axes([*FIXED, "training.momentum=0.0,0.5,0.9"]), ["fedavg"], [0])
    told = []

    def tell(point):
        told.append((point.name, [(tmp_path / p.name).exists() for p in points]))

    run_points(points, tmp_path, tell=tell)
    assert [name for name, _ in told] == [point.name for point in points]
    assert [sum(begun) for _, begun in told] == [1, 2, 3]


def test_a_point_that_another_process_runs_is_left_alone(tmp_path, capsys):
    axes = ["training.momentum=0.5"]
    (point,) = grid(DEMO, parse_axes(axes), ["fedavg"])
    RunFolder.create(tmp_path / point.name, to_yaml(point.config))
    with sole_writer(tmp_path / point.name):
        assert call(["sweep", str(DEMO), *axes, "--methods", "fedavg", "--out", str(tmp_path)]) == 2
    assert "in use by another process" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / point.name).iterdir()} == {"config.yaml", ".lock"}


@pytest.mark.parametrize("text", ["momentum", "=1", "a=", "a=1,,2"])
def test_malformed_axes_are_refused(text):
    with pytest.raises(ConfigError, match="VALUE"):
        parse_axes([text])


def test_brackets_hold_one_value_together():
    assert parse_axes(["seeds=[0, 1],[2]", "x={a: 1, b: 2}"]) == {
        "seeds": ["[0, 1]", "[2]"],
        "x": ["{a: 1, b: 2}"],
    }
    with pytest.raises(ConfigError, match="given twice"):
        parse_axes(["a=1", "a=2"])


def test_a_point_that_is_no_config_is_named_before_anything_runs():
    with pytest.raises(ConfigError, match="momentum"):
        grid(DEMO, parse_axes(["training.momentum=0.5,1.5"]))
