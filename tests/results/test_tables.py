import io

import pytest
from rich.console import Console
from tests.results.example_run import as_bits_per_byte, example_result

from emsfl.results import print_result
from emsfl.results.metric import METRICS
from emsfl.results.tables import (
    contact_table,
    cost_table,
    lead_table,
    quality_table,
    rich_table,
    time_ratio,
)
from emsfl.results.wording import amount, compute_unit, count, duration, energy_unit


def cells(table, label):
    row = next(row for row in table.rows if row[0] == label)
    return dict(zip(table.columns, row, strict=True))


def test_every_method_has_a_row_with_its_numbers():
    result = example_result()
    table = quality_table(result)
    assert table.keys == tuple(result.methods)
    final = result.methods["fedasync"].final_accuracy
    row = cells(table, "FedAsync")
    assert row["merged model"] == f"{100 * final.mean:.1f} ± {100 * final.std:.1f}"
    assert row["sub-models"] == "–"
    ems = result.methods["ems_fl"]
    assert cells(table, "EMS-FL")["90°"] == f"{100 * ems.accuracy_by_domain['90°'].mean:.1f}"


def test_time_is_given_in_hours_and_against_the_best_fedavg():
    result = example_result()
    row = cells(cost_table(result), "EMS-FL")
    assert row["hours to target"] == "9.0"
    assert row["of FedAvg's time"] == f"{9 / 72:.2f}"
    assert cells(cost_table(result), "FedAvg (fill)")["of FedAvg's time"] == "1.00"
    assert cells(cost_table(result), "FedAvg")["hours to target"] == "never"
    assert cells(cost_table(example_result(shift=-0.09)), "EMS-FL")["hours to target"] == "1 of 3"


def test_without_fedavg_there_is_no_target():
    result = example_result(methods=("ems_fl", "fedasync"))
    assert cells(cost_table(result), "EMS-FL")["hours to target"] == "–"
    assert cost_table(result).note == "no target: no form of FedAvg ran"
    assert time_ratio(result, "ems_fl") is None


def test_the_lead_is_over_every_other_method():
    table = lead_table(example_result())
    assert table is not None
    assert len(table.rows) == 7
    assert lead_table(example_result(methods=("ems_fl",))) is None
    assert lead_table(example_result(methods=("fedavg",))) is None


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_no_number_is_cut_in_a_terminal_of_80_columns(seeds):
    result = example_result(seeds=seeds)
    for table in (quality_table(result), cost_table(result)):
        out = io.StringIO()
        Console(file=out, width=80).print(rich_table(table))
        lines = out.getvalue().splitlines()
        assert all(len(line) <= 80 for line in lines)
        for row in table.rows:
            line = next(line for line in lines if line.strip().startswith(row[0] + " "))
            assert line.split("  ")[-1].strip() == row[-1]


def test_text_is_never_taken_as_markup():
    out = io.StringIO()
    print_result(example_result(name="[bold]x[/]"), Console(file=out, width=80))
    table = contact_table(example_result())
    odd = type(table)(title="[red]t", columns=("[b]a",), rows=(("[i]z",),), note="[u]n")
    Console(file=out, width=80).print(rich_table(odd))
    assert "[red]t" in out.getvalue()
    assert "[i]z" in out.getvalue()


def test_numbers_are_written_for_people():
    assert [amount(v) for v in (0, 0.0123, 1.234, 45.67, 1234.5)] == [
        "0", "0.0123", "1.23", "45.7", "1,234",
    ]  # fmt: skip
    assert [count(v) for v in (44.0, 44.25)] == ["44", "44.2"]
    gains = [METRICS["accuracy"].gain(v) for v in (0.034, -0.034, 0.0001)]
    assert gains == ["+3.4", "−3.4", "0.0"]
    assert [duration(v) for v in (None, 90, 7200)] == ["–", "1.5 min", "2.0 h"]
    assert energy_unit([5.0, 2500.0]) == (1e3, "kJ")
    assert compute_unit([2e9]) == (1e9, "GFLOP")
    assert compute_unit([]) == (1e6, "MFLOP")


def test_bits_per_byte_are_shown_as_they_are_and_lower_leads():
    result = as_bits_per_byte(example_result())
    table = quality_table(result)
    assert table.title == "Bits per byte at the end"
    final = result.methods["fedasync"].final_accuracy
    assert cells(table, "FedAsync")["merged model"] == f"{final.mean:.3f} ± {final.std:.3f}"
    lead = lead_table(result)
    assert lead is not None
    assert cells(lead, "FedAsync")["lead"].startswith("+")
    assert "bits per byte" in lead.title
