"""Adam in local training: torch's own for everything used, and resumed without a trace."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from emsfl.training import TrainTask, train_locally
from emsfl.training.local import batch_order


@pytest.fixture
def task(spec, pretrained, shard, settings):
    return TrainTask(
        model=replace(spec, config=spec.config.model_copy(update={"top_k": 4})),
        num_experts=4,
        state=pretrained,
        momentum={},
        shard=shard,
        seed=(0, 1),
        first_step=0,
        num_steps=12,
        settings=replace(settings, optimizer="adam", learning_rate=1e-2, shared_lr_factor=0.5),
    )


def test_adam_equals_torchs_where_every_expert_is_used(task, shard):
    model = task.model.build({name: tensor.clone() for name, tensor in task.state.items()})
    experts = [p for name, p in model.named_parameters() if "experts" in name]
    others = [p for name, p in model.named_parameters() if "experts" not in name]
    optimizer = torch.optim.Adam([{"params": experts}, {"params": others, "lr": 5e-3}], 1e-2)
    inputs, labels = torch.from_numpy(shard.inputs), torch.from_numpy(shard.labels)
    for batch in batch_order(len(shard), 8, task.seed, 0, task.num_steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    found = train_locally(task).state
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_adam_goes_on_from_what_the_device_remembers(task):
    whole = train_locally(task)
    first = train_locally(replace(task, num_steps=5))
    second = train_locally(
        replace(task, state=first.state, momentum=first.momentum, first_step=5, num_steps=7)
    )
    assert second.momentum.keys() == whole.momentum.keys()
    for left, right in ((second.state, whole.state), (second.momentum, whole.momentum)):
        for name in left:
            assert torch.equal(left[name], right[name]), name


def test_adam_remembers_what_it_trains_and_nothing_else(task, spec):
    settings = replace(task.settings, train_shared=False, train_routers=False)
    result = train_locally(replace(task, settings=settings))
    names = {key.partition("/")[0] for key in result.momentum}
    assert names == spec.layout().expert_names
    counts = [tensor for key, tensor in result.momentum.items() if key.endswith("/step")]
    assert all((count == task.num_steps).all() for count in counts)
