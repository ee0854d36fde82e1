"""What a run is charged with."""

from dataclasses import replace

from emsfl.methods import METHODS
from emsfl.methods.config import MethodSettings
from emsfl.simulate.ledger import Ledger


def test_memory_is_counted_once_per_kind_of_work_whatever_the_step_sizes(scenario):
    build = METHODS["ems_fl"].build
    method = build(scenario.federation, scenario.training, MethodSettings())
    first, other = (method.next_work(cluster) for cluster in scenario.federation.clusters)
    ledger = Ledger(scenario.config)

    def note(work):
        ledger.note_work(work, scenario.federation, scenario.model, scenario.data.public)
        return len(ledger.noted)

    assert note(first) == 1
    assert ledger.peak_memory_bytes > 0
    assert note(replace(first, settings=replace(first.settings, shared_lr_factor=0.01))) == 1
    assert note(replace(first, settings=replace(first.settings, train_shared=False))) == 2
    assert note(other) == 3
