import dataclasses

import numpy as np
import pytest
from tests.results.example_run import example_provenance

from emsfl.results import CurvePoint, SeedRecord, build_result
from emsfl.results.metric import METRICS
from emsfl.results.summary import best_fedavg, first_reached_s, spread


def curve(*accuracies, step_s=3600.0):
    return [
        CurvePoint(time_s=step_s * i, accuracy=a, uploaded_bytes=1000 * i)
        for i, a in enumerate(accuracies)
    ]


def record(*accuracies, **changes):
    plain = SeedRecord(
        curve=curve(*accuracies),
        accuracy_by_domain={"a": accuracies[-1], "b": accuracies[-1]},
        submodel_accuracy={},
        uploaded_bytes=2000,
        downloaded_bytes=500,
        update_bytes=[900, 1100],
        num_refused=1,
        device_flops=3e12,
        energy_J=10.0,
        peak_trainable_parameters=7,
    )
    return dataclasses.replace(plain, **changes)


def result(records, seeds=(0, 1)):
    return build_result(
        name="n",
        seeds=seeds,
        records=records,
        initial_accuracy=[0.5] * len(seeds),
        assignment={},
        timeline={},
        contact_statistics=[],
        config={},
        provenance=example_provenance(seeds),
    )


def test_spread_is_the_sample_deviation_and_zero_for_one_seed():
    values = [0.7, 0.74, 0.69]
    assert spread(values).mean == pytest.approx(sum(values) / 3)
    assert spread(values).std == pytest.approx(np.std(values, ddof=1))
    assert spread(values).per_seed == values
    assert spread([0.7]).std == 0


def test_target_is_the_better_form_by_mean_and_per_seed_its_own_final():
    made = result(
        {
            "ems_fl": [record(0.5, 0.72, 0.8), record(0.5, 0.6, 0.7)],
            "fedavg": [record(0.5, 0.6, 0.70), record(0.5, 0.6, 0.76)],
            "fedavg_fill": [record(0.5, 0.6, 0.74), record(0.5, 0.6, 0.71)],
        }
    )
    # fedavg has the higher mean although fedavg_fill wins seed 0
    assert made.target_accuracy == [0.70, 0.76]
    assert made.methods["ems_fl"].time_to_target_s.per_seed == [3600.0, None]
    assert made.methods["ems_fl"].time_to_target_s.mean is None
    assert made.methods["fedavg"].time_to_target_s.mean == 7200.0


def test_a_tie_goes_to_the_plain_form_and_other_methods_set_no_target():
    assert best_fedavg({"fedavg_fill": [0.7], "fedavg": [0.7]}, METRICS["accuracy"]) == "fedavg"
    assert best_fedavg({"fedasync": [0.9], "ems_fl": [0.8]}, METRICS["accuracy"]) is None
    made = result({"fedasync": [record(0.5, 0.9)] * 2})
    assert made.target_accuracy is None
    assert made.methods["fedasync"].time_to_target_s.per_seed == [None, None]


def test_the_first_touch_counts_also_when_the_curve_falls_again():
    assert first_reached_s(curve(0.5, 0.7, 0.6, 0.8), 0.7, METRICS["accuracy"]) == 3600.0
    assert first_reached_s(curve(0.5, 0.7), 0.5, METRICS["accuracy"]) == 0.0
    assert first_reached_s(curve(0.5, 0.7), 0.71, METRICS["accuracy"]) is None


def test_counters_become_spreads_over_the_seeds():
    method = result(
        {
            "ems_fl": [
                record(0.5, 0.8, submodel_accuracy={"a": 0.9}),
                record(0.5, 0.7, submodel_accuracy={"a": 0.8}, update_bytes=[], num_refused=3),
            ]
        }
    ).methods["ems_fl"]
    assert method.label == "EMS-FL"
    assert method.final_accuracy.per_seed == [0.8, 0.7]
    assert method.submodel_accuracy["a"].mean == pytest.approx(0.85)
    assert method.upload_bytes_per_contact.per_seed == [1000, 0]
    assert method.num_updates.per_seed == [2, 0]
    assert method.num_refused.mean == 2
    assert method.uploaded_bytes.mean == 2000
    assert method.peak_trainable_parameters == 7


def test_records_that_do_not_fit_together_are_our_own_error():
    with pytest.raises(ValueError, match="1 records for 2 seeds"):
        result({"ems_fl": [record(0.5, 0.8)]})
    with pytest.raises(ValueError, match="common grid"):
        result({"ems_fl": [record(0.5, 0.8), record(0.5, 0.8, 0.9)]})
    other = [record(0.5, 0.8, curve=curve(0.5, 0.8, step_s=60.0))] * 2
    with pytest.raises(ValueError, match="fedasync does not follow the common grid"):
        result({"ems_fl": [record(0.5, 0.8)] * 2, "fedasync": other})
    with pytest.raises(ValueError, match="common grid"):
        result({"ems_fl": [record(0.5, curve=[])] * 2})


def test_of_bits_per_byte_the_lower_is_better():
    metric = METRICS["bits_per_byte"]
    assert best_fedavg({"fedavg_fill": [2.4], "fedavg": [2.5]}, metric) == "fedavg_fill"
    assert first_reached_s(curve(2.6, 2.5, 2.4), 2.5, metric) == 3600.0
    assert first_reached_s(curve(2.6, 2.5), 2.4, metric) is None
