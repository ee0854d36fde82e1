"""`emsfl bound`: rows of a run, a prediction from a config, and errors that name assumptions."""

import json

import pytest
from tests.cli.test_run import DEMO, SMALL

import emsfl
from emsfl.cli import call
from emsfl.experiment import load

QUICK = [
    *SMALL,
    "orbit.hours=8",
    "data.devices_per_cluster=1",
    "model.hidden_size=16",
    "model.expert_size=16",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMSFL_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("bound") / "run"
        emsfl.run(load(DEMO, QUICK, ["ems_fl_frozen_shared", "fedavg"]), out=folder, progress=False)
        return folder


def test_rounds_are_read_from_a_finished_run_of_fedavg(run, capsys):
    assert call(["bound", str(run), "--points", "1", "--json", "--methods", "fedavg"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["quantity"] for row in found["rows"]} >= {"loss_gap"}


def test_rows_and_page_of_a_run(run, capsys):
    own = ["--methods", "ems_fl_frozen_shared"]
    assert call(["bound", str(run), "--points", "1", "--json", *own]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"]
    for row in found["rows"]:
        assert {"time_s", "cluster", "quantity", "measured", "bound", "terms"} <= set(row)
        # One run against a bound on an expectation: its batches may have been a little unlucky.
        assert row["measured"] <= row["bound"] * (1 + 1e-3) + 1e-5
    clusters = {row["cluster"] for row in found["rows"] if row["quantity"] == "loss_gap"}
    assert clusters == {"Svalbard", "Pilbara", "Iquitos", "Patagonia"}
    (method,) = found["methods"]
    assert method["constants"]["smoothness"] > 0
    page = (run / "bound.html").read_text()
    assert "Svalbard" in page
    assert "bound: optimisation" in page


def test_bad_input_names_the_assumption(run, capsys):
    def error(*arguments):
        assert call(["bound", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "Lemma 3" in error(str(run), "--points", "1", "--step-size", "100")
    assert "Lemma 3" in error(str(run), "--points", "1", "--step-size", "-1")
    assert "none of its methods" in error(str(run), "--methods", "fedavg_fill")
    assert "A5" in error(DEMO, *QUICK, "--target", "-1")
    assert "is for a config" in error(str(run), "--target", "1").replace("are for", "is for")
    assert "not for a config" in error(DEMO, "--step-size", "0.1")
    # Every cluster has to deliver, and at 10 bit/s none does.
    assert "Svalbard never delivers" in error(DEMO, *QUICK, "orbit.link.uplink_bps=10.0")


def test_prediction_from_a_config(capsys):
    assert call(["bound", DEMO, *QUICK, "orbit.hours=24", "--methods", "ems_fl,fedavg"]) == 0
    text = capsys.readouterr().out
    assert "ems_fl needs" in text
    assert "differs from the theorems: momentum 0.9" in text
    arguments = ["bound", DEMO, *QUICK, "orbit.hours=24", "--methods", "ems_fl", "--json"]
    assert call([*arguments, "--target", "1.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert row["target_loss"] == 1.5
    assert row["hours"] > 0
    assert row["terms"][row["leading"]] == max(row["terms"].values())
    assert found["ratio"] is None
