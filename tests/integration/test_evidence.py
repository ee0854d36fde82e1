"""The suite behind the evidence: rows do not depend on the number of processes, and make a page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emsfl.experiment import load
from tests.integration.test_runs import SMALL

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EXTRA = [text for text in SMALL if "method_settings" not in text]


@pytest.fixture(scope="module", autouse=True)
def _importable():
    pytest.importorskip("matplotlib")
    pytest.importorskip("mlxtend")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


def test_one_process_and_two_find_the_same_rows_and_the_page_shows_them(tmp_path, capsys):
    from suite.page import write_page
    from suite.rows import collect
    from suite.scenarios import COVERAGE, ROTATED
    from suite.tuning import tune

    few = {"trained": ("ems_fl", "fedavg_fill"), "ablations": ("ems_fl_no_gate",)}
    rotated = replace(ROTATED, **few, num_points=1, grids={})
    scenarios = [rotated, replace(COVERAGE, **few, tuned_as=rotated.name)]
    tuning = tune([rotated], tmp_path / "tuning", workers=1, extra=EXTRA)
    tuning[COVERAGE.name] = tuning[rotated.name]
    rows, again = (
        collect(scenarios, tuning, tmp_path / f"rows{workers}", [0], workers, EXTRA)
        for workers in (1, 2)
    )
    assert again == rows
    assert len({(row["scenario"], row["method"]) for row in rows}) == len(rows) == 6
    write_page(rows, tuning, tmp_path / "evidence.md")
    page = (tmp_path / "evidence.md").read_text()
    for row in rows:
        assert f"| {100 * row['final']:.1f} |" in page
    assert "| two, terrestrial | EMS-FL |" in page
    assert "Overhead per device" in page
    worth = 100 * (rows[0]["final"] - rows[2]["final"])
    assert [rows[i]["method"] for i in (0, 2)] == ["ems_fl", "ems_fl_no_gate"]
    assert f"| the domain gate, not the plain router | {worth:+.1f} |".replace("-", "−") in page

    path = tmp_path / "rows1" / f"{rotated.name}-fedavg_fill-0" / "result.json"
    finished = json.loads(path.read_text())
    finished["provenance"] |= {"git_hash": "older", "created_utc": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(finished))
    assert "of other code" not in capsys.readouterr().out
    mixed = collect(scenarios, tuning, tmp_path / "rows1", [0], 1, EXTRA)
    assert f"1 of 4 runs are of other code than the latest one ({path.parent.name})" in (
        capsys.readouterr().out
    )
    assert [row["git_hash"] for row in mixed].count("older") == 1

    moved = [row | {"device": "cuda"} if row["method"] == "ems_fl" else row for row in rows]
    write_page(moved, tuning, tmp_path / "evidence.md")
    page = (tmp_path / "evidence.md").read_text()
    assert "made on `cuda` with" in page
    assert "; FedAvg (fill) and EMS-FL (no gate) on `cpu` with" in page

    tuning[rotated.name]["methods"]["ems_fl"]["chosen"] = {"learning_rate": 123.0}
    with pytest.raises(SystemExit, match=r"other settings .* --methods ems_fl"):
        write_page(rows, tuning, tmp_path / "evidence.md")
    del tuning[rotated.name]["methods"]["ems_fl"]
    with pytest.raises(SystemExit, match=r"no search; .* --scenarios mnist_rotated --methods ems"):
        write_page(rows, tuning, tmp_path / "evidence.md")


def test_a_chosen_value_at_the_edge_of_the_search_is_told():
    from suite.edges import edges_text
    from suite.scenarios import ROTATED

    def search(chosen):
        tried = [{"learning_rate": rate, "mixing": rate} for rate in (0.1, 0.2, 0.4)]
        return {"chosen": chosen, "points": [{"settings": settings} for settings in tried]}

    inside, edge = ({"learning_rate": rate, "mixing": rate} for rate in (0.2, 0.4))
    methods = {"fedavg": search(inside), "fedasync": search(edge)}
    told = edges_text([ROTATED], {"mnist_rotated": {"methods": methods}})
    assert told.endswith("may lie beyond: in mnist_rotated FedAsync (highest learning_rate).")
    del methods["fedasync"]
    assert edges_text([ROTATED], {"mnist_rotated": {"methods": methods}}) is None


def test_a_warm_up_is_shown_beside_the_same_seeds_without():
    from suite.warm_up import warm_up_table

    def row(scenario, method, seed, *values):
        curve = [[3 * 3600.0 * place, value, 0] for place, value in enumerate(values)]
        return {"scenario": scenario, "method": method, "seed": seed, "metric": "accuracy",
                "initial": 0.5, "final": values[-1], "curve": curve}  # fmt: skip

    known = [
        row("mnist_rotated", "ems_fl", 0, 0.4, 0.3, 0.6, 0.8),
        row("mnist_rotated", "ems_fl", 1, 0.4, 0.3, 0.6, 0.9),
        row("mnist_rotated", "fedavg", 0, 0.5, 0.5, 0.5, 0.6),
    ]
    assert warm_up_table(known) is None
    warm = row("warm_up_mnist_rotated", "ems_fl", 0, 0.4, 0.6, 0.7, 0.8)
    *_, without, grown = warm_up_table([*known, warm]).splitlines()
    assert without == "| Rotated MNIST | none | 6 | 0.67 | 80.0 |"
    assert grown == "| Rotated MNIST | 20 uploads | 3 | 0.33 | 80.0 |"


def test_of_equally_good_settings_the_smallest_rate_wins():
    from emsfl.results.metric import METRICS
    from suite.tuning import _best

    points = [
        {"settings": {"learning_rate": rate}, "final": final}
        for rate, final in ((0.3, 0.8), (0.1, 0.9), (0.02, 0.9), (0.01, 0.7))
    ]
    assert _best(points, METRICS["accuracy"]) is points[2]
    assert _best(points, METRICS["bits_per_byte"]) is points[3]


def test_an_aim_missed_by_a_hair_is_not_shown_as_met():
    from suite.targets import Target, verdict

    rows = [
        {"method": method, "label": method, "seed": seed, "metric": "accuracy", "final": final}
        for method, final in (("ems_fl", 0.80), ("fedavg", 0.7603))
        for seed in range(3)
    ]
    aim = Target("mnist_rotated", "4 points above", ("fedavg",), lead=0.04)
    text, is_met = verdict(aim, rows)
    assert not is_met
    assert text.startswith("+3.97")

    for row in rows:
        hours = 2.0 if row["method"] == "ems_fl" else 6.0
        row["curve"] = [[0.0, 0.5, 0], [3600 * hours, 0.9, 0]]
    aim = Target("mnist_rotated", "a third of its time", ("fedavg",), ratio=("time", 0.33))
    assert verdict(aim, rows) == ("0.333 against fedavg", False)


def test_new_rows_take_the_places_of_older_ones_and_targets_are_found_anew():
    from suite.rows import merge

    def row(method, seed, final):
        start = [0.0, 0.1, 0]
        curve = [start, [3600.0, final / 2, 10], [7200.0, final, 20]]
        return {"scenario": "mnist_rotated", "method": method, "seed": seed, "metric": "accuracy",
                "final": final, "curve": curve}  # fmt: skip

    known = merge([], [row("ems_fl", 0, 0.8), row("fedavg", 0, 0.5), row("fedavg_fill", 0, 0.3)])
    assert [r["time_to_target_s"] for r in known] == [7200.0, 7200.0, None]
    rows = merge(known, [row("fedavg", 0, 0.4), row("ems_fl", 1, 0.9)])
    assert [(r["method"], r["seed"], r["final"]) for r in rows] == [
        ("ems_fl", 0, 0.8), ("ems_fl", 1, 0.9), ("fedavg", 0, 0.4), ("fedavg_fill", 0, 0.3)
    ]  # fmt: skip
    assert [r["time_to_target_s"] for r in rows] == [3600.0, None, 7200.0, None]


def test_the_target_is_of_the_best_of_all_forms_of_fedavg():
    from suite.rows import merge

    def row(method, final):
        return {"scenario": "mnist_rotated", "method": method, "seed": 0, "metric": "accuracy",
                "final": final, "curve": [[0.0, 0.1, 0], [3600.0, final, 20]]}  # fmt: skip

    finals = {"fedavg": 0.5, "fedavg_experts": 0.7, "fedavg_quorum": 0.6, "fedprox": 0.8}
    rows = merge([], [row(name, final) for name, final in finals.items()])
    assert {r["target_of"] for r in rows} == {"fedavg_experts"}


def test_fedasync_and_fedbuff_are_searched_with_and_without_a_fixed_number_of_steps():
    from suite.scenarios import ROTATED
    from suite.tuning import candidates

    few = replace(ROTATED, num_points=8, grids={"ems_fl": {"learning_rate": [1, 2], "b": [3, 4]}})
    for method in ("fedasync", "fedbuff"):
        tried = candidates(method, few)
        assert ["local_steps" in settings for settings in tried] == [False] * 8 + [True] * 8
    grid = [{"learning_rate": rate, "b": b} for rate in (1, 2) for b in (3, 4)]
    assert candidates("ems_fl", few)[8:] == grid


def test_every_scenario_is_a_config_and_its_settings_come_from_a_search_of_its_own():
    from suite.scenarios import MAP, SCENARIOS

    for scenario in SCENARIOS.values():
        load(scenario.config, scenario.overrides, [*scenario.trained, *scenario.ablations])
        assert SCENARIOS[scenario.tuned_name].tuned_as is None
    assert all(SCENARIOS[s.name] == s for axis in MAP for s in axis.points.values())


def test_what_the_search_never_saw_stands_beside_the_whole_test_set(tmp_path, monkeypatch):
    from suite import unseen

    path = tmp_path / "unseen.json"
    monkeypatch.setattr(unseen, "RESULT", path)
    assert unseen.unseen_table([]) is None
    found = [
        {"method": method, "seed": 0, "num_samples": 200, "final": final}
        for method, final in (("ems_fl", 0.8), ("fedavg", 0.65), ("fedbuff", 0.7))
    ]
    path.write_text(json.dumps({"rows": found}))
    rows = [
        {"scenario": "mnist_rotated", "method": method, "final": 0.5}
        for method in ("ems_fl", "fedavg")
    ]
    *_, own, rival = unseen.unseen_table(rows).splitlines()
    assert own == "| EMS-FL | 50.0 | 80.0 | – |"
    assert rival == "| FedAvg | 50.0 | 65.0 | +15.0 |"
