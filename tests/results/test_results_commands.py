"""The commands `emsfl report` and `emsfl compare` on runs in a folder."""

import json
import sys

import pytest
from tests.results.example_run import example_result

from emsfl.cli import main
from emsfl.results import RunFolder


@pytest.fixture
def runs(tmp_path):
    for name, shift in (("a", 0.0), ("b", -0.02)):
        folder = RunFolder.create(tmp_path / name, "a: 1\n")
        folder.write_result(example_result(seeds=(0, 1, 2), shift=shift))
    return [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.fixture
def emsfl(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["emsfl", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def test_report_prints_tables_and_writes_a_page_per_run(emsfl, runs):
    code, out, err = emsfl("report", *runs)
    assert (code, err) == (0, "")
    assert out.count("Accuracy at the end, %") == 2
    for run in runs:
        assert f"report: {run}/report.html" in out
        assert RunFolder.open(run).report_path.exists()


def test_report_json_is_the_paths(emsfl, runs):
    code, out, _ = emsfl("report", *runs, "--json")
    assert code == 0
    assert json.loads(out) == [f"{run}/report.html" for run in runs]


def test_compare_prints_both_runs(emsfl, runs):
    code, out, _ = emsfl("compare", *runs)
    assert code == 0
    assert "Final accuracy against a" in out


def test_compare_json_is_json(emsfl, runs):
    code, out, _ = emsfl("compare", *runs, "--json")
    assert code == 0
    assert [run["run"] for run in json.loads(out)["runs"]] == ["a", "b"]


@pytest.mark.parametrize("command", ["report", "compare"])
def test_what_is_no_run_is_the_users_error(emsfl, tmp_path, command):
    code, out, err = emsfl(command, str(tmp_path))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
