from tests.results.example_run import as_bits_per_byte, example_result

from emsfl.results.findings import headline_figures, key_findings


def texts(result):
    return {finding.topic: finding.text for finding in key_findings(result)}


def test_a_clear_win_is_said_with_its_interval():
    result = example_result()
    found = texts(result)
    lead = 100 * (
        result.methods["ems_fl"].final_accuracy.mean
        - result.methods["fedavg_fill"].final_accuracy.mean
    )
    assert f"{lead:.1f} points above FedAvg (fill), the best form of FedAvg" in found["Accuracy"]
    assert "95 % interval" in found["Accuracy"]
    assert "not settled" not in found["Accuracy"]
    assert "Best method" not in found


def test_a_loss_is_said_as_plainly():
    found = texts(example_result(shift=-0.2))
    assert "points below FedAvg (fill)" in found["Accuracy"]
    assert found["Best method"].startswith("FedAvg (fill) ends highest here")
    assert found["Time"].startswith("EMS-FL never reaches the final accuracy of FedAvg (fill).")
    assert "EMS-FL (no gate) ends 5.9 points higher" in found["Ablations"]
    assert headline_figures(example_result(shift=-0.2))[1].value.startswith("−")
    assert headline_figures(example_result(shift=-0.2))[2].value == "0 of 3"


def test_what_the_seeds_do_not_settle_is_called_so():
    found = texts(example_result(shift=-0.09))
    assert "so the sign is not settled" in found["Accuracy"]
    assert "with 1 of 3 seeds, so no mean time is given" in found["Time"]


def test_few_seeds_come_with_a_caution():
    assert texts(example_result(seeds=(0,)))["Accuracy"].endswith(
        "One seed cannot rule out chance."
    )
    assert texts(example_result(seeds=(0, 1)))["Accuracy"].endswith(
        "2 seeds cannot rule out chance."
    )
    assert "chance" not in texts(example_result())["Accuracy"]


def test_only_one_form_of_fedavg_is_not_called_the_better():
    found = texts(example_result(methods=("ems_fl", "fedavg")))
    assert "above FedAvg (" in found["Accuracy"]
    assert "better form" not in found["Accuracy"]


def test_time_and_bytes_follow_from_the_numbers():
    result = example_result()
    found = texts(result)
    own = result.methods["ems_fl"].time_to_target_s.mean
    theirs = result.methods["fedavg_fill"].time_to_target_s.mean
    assert f"EMS-FL takes {own / theirs:.2f} of its time" in found["Time"]
    assert "0.412 MB, 0.39 times the 1.05 MB of FedAvg (fill)" in found["Traffic"]
    assert "uploads 1.69 times as much, in 190 updates against 44" in found["Traffic"]


def test_refused_updates_are_named():
    result = example_result(methods=("ems_fl", "fedavg"))
    method = result.methods["fedavg"]
    refused = method.num_refused.model_copy(update={"mean": 2.0, "per_seed": [2.0] * 3})
    methods = {**result.methods, "fedavg": method.model_copy(update={"num_refused": refused})}
    found = texts(result.model_copy(update={"methods": methods}))
    assert found["Refused updates"] == "The server refused updates (mean per seed): FedAvg 2."


def test_a_run_without_ems_fl_is_ranked():
    result = example_result(methods=("fedavg", "fedasync"))
    assert texts(result)["Accuracy"].startswith("EMS-FL is not part of this run.")
    assert headline_figures(result)[0].caption.startswith("FedAsync")


def test_ems_fl_alone_still_has_findings():
    result = example_result(methods=("ems_fl",))
    assert set(texts(result)) == {"Accuracy", "Traffic", "Sub-models", "Specialisation"}
    assert len(headline_figures(result)) == 1


def test_a_language_model_is_better_where_its_bits_are_fewer():
    accuracy, bits = example_result(), as_bits_per_byte(example_result())
    found = texts(bits)
    assert "better than FedAvg (fill), the best form of FedAvg" in found["Bits per byte"]
    assert "%" not in found["Bits per byte"].replace("95 % interval", "")
    assert "Best method" not in found
    assert found["Time"] == texts(accuracy)["Time"].replace("final accuracy", "final bits per byte")
    assert "bits per byte worse" in found["Ablations"]
    assert headline_figures(bits)[1].value.startswith("+")
