import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from tests.results.example_run import as_bits_per_byte, example_result

from emsfl.errors import RunFolderError
from emsfl.results import RunFolder, compare_runs, print_comparison, read_runs
from emsfl.results.paired import paired_difference


def changed(result, **provenance):
    made = result.provenance.model_copy(update=provenance)
    return result.model_copy(update={"provenance": made})


def test_the_interval_is_that_of_the_paired_t_test():
    random = np.random.default_rng(1)
    first, second = random.normal(0.8, 0.02, 6), random.normal(0.77, 0.02, 6)
    difference = paired_difference(first, second)
    oracle = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert difference.mean == pytest.approx(float(np.mean(first - second)))
    # the same formula through other code: only rounding differs
    assert difference.interval == pytest.approx((oracle.low, oracle.high), rel=1e-9)
    assert difference.settled == (oracle.low > 0 or oracle.high < 0)


def test_no_interval_below_three_seeds():
    assert paired_difference([0.8, 0.7], [0.7, 0.7]).interval is None
    assert not paired_difference([0.8], [0.1]).settled
    assert paired_difference([0.8, 0.8, 0.8], [0.7, 0.7, 0.7]).settled


def test_runs_are_paired_over_common_seeds_in_whatever_order():
    first = example_result(seeds=(0, 1, 2))
    second = example_result(seeds=(3, 2, 1, 0), shift=-0.02)
    comparison = compare_runs({"a": first, "b": second})
    ems = next(item for item in comparison.differences if item.method == "ems_fl")
    assert ems.seeds == (0, 1, 2)
    # the example's random numbers depend on method and seed alone, so the shift is all there is
    assert ems.difference.per_seed == pytest.approx([-0.02] * 3)
    assert ems.difference.interval == pytest.approx((-0.02, -0.02))
    other = next(item for item in comparison.differences if item.method == "fedavg")
    assert other.difference.mean == pytest.approx(0)


def test_equal_runs_raise_no_warning():
    assert compare_runs({"a": example_result(), "b": example_result()}).warnings == ()


def test_everything_that_differs_is_said():
    first = example_result(seeds=(0, 1))
    second = changed(
        example_result(seeds=(1, 5), name="other"),
        plan_hash="x",
        data_hash="y",
        config_hash="z",
        model_hash={"1": "w", "5": "v"},
        git_hash=None,
    )
    warnings = "\n".join(compare_runs({"a": first, "b": second}).warnings)
    assert "different seeds (0 and 1 against 1 and 5); only 1 can be paired" in warnings
    assert "different contact plans" in warnings
    assert "different data" in warnings
    assert "different pre-trained models" in warnings
    assert "different configs: name ('rotated digits over four sites' against 'other')" in warnings
    assert "different versions of emsfl" in warnings


def test_runs_without_a_common_seed_have_no_differences():
    comparison = compare_runs({"a": example_result(seeds=(0,)), "b": example_result(seeds=(1,))})
    assert comparison.differences == ()
    assert "none can be paired" in comparison.warnings[0]
    assert len(comparison.tables()) == 1


def test_a_long_config_difference_is_cut_and_counted():
    first = example_result()
    config = {**first.config, "training": {}, "extra": {f"k{i}": i for i in range(9)}}
    second = changed(first.model_copy(update={"config": config}), config_hash="z")
    warning = compare_runs({"a": first, "b": second}).warnings[0]
    assert "training.batch_size (32 against absent)" in warning
    assert "extra.k0 (absent against 0)" in warning
    assert warning.endswith("and 6 more")


def test_printing_shows_every_row_and_note():
    comparison = compare_runs({"a": example_result(), "b": example_result(seeds=(0,))})
    console = Console(width=120, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    text = console.export_text()
    assert text.count("EMS-FL (no gate)") == 3
    assert "note: a and b have different seeds" in text


def test_json_repeats_the_numbers():
    first, second = example_result(), example_result(shift=-0.02)
    tree = compare_runs({"a": first, "b": second}).as_json()
    ems = tree["runs"][1]["methods"]["ems_fl"]
    assert ems["final_accuracy"]["mean"] == second.methods["ems_fl"].final_accuracy.mean
    assert [m for m, values in tree["runs"][0]["methods"].items() if values["is_target"]] == [
        "fedavg_fill"
    ]
    difference = tree["differences"][0]
    assert (difference["run"], difference["against"]) == ("b", "a")
    assert difference["mean"] == pytest.approx(-0.02)


def test_runs_are_called_by_folder_name_or_by_path_where_names_clash(tmp_path):
    for place in ("x/run", "y/run", "z"):
        folder = RunFolder.create(tmp_path / place, "a: 1\n")
        folder.write_result(example_result(seeds=(0,)))
    assert list(read_runs([tmp_path / "x/run", tmp_path / "z"])) == ["run", "z"]
    both = [tmp_path / "x/run", tmp_path / "y/run"]
    assert list(read_runs(both)) == [str(path) for path in both]
    with pytest.raises(RunFolderError, match="named twice"):
        read_runs([tmp_path / "z", tmp_path / "x" / ".." / "z"])


def test_runs_with_different_metrics_are_not_subtracted():
    comparison = compare_runs({"a": example_result(), "b": as_bits_per_byte(example_result())})
    assert comparison.differences == ()
    assert "a and b are judged by accuracy and bits per byte" in comparison.warnings[0]
