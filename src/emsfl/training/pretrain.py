"""Pre-train a model on the public split, once: the result is cached by content."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emsfl.data import Samples
from emsfl.files import atomic_path, sha256_of
from emsfl.moe import ModelSpec, State, scoring_probabilities
from emsfl.training.device import Processor, computing_on
from emsfl.training.local import batch_order


def pretrain(
    model: ModelSpec, public: Samples, seed: int, cache_dir: Path, device: Processor = "cpu"
) -> State:
    """Return the pre-trained state of the full model, from `cache_dir` where it is there."""
    key = sha256_of(
        model.fingerprint(),
        public.inputs,
        public.labels,
        [seed, torch.__version__, platform.machine(), *([] if device == "cpu" else [device])],
    )
    path = cache_dir / f"pretrained-{key[:32]}.safetensors"
    if not path.exists():
        with computing_on(device) as where:
            state = _train(model, public, seed, where)
        with atomic_path(path) as temporary:
            save_file(state, temporary)
    return load_file(path)


def _train(spec: ModelSpec, public: Samples, seed: int, device: torch.device) -> State:
    settings = spec.config.pretrain
    generator = torch.Generator().manual_seed(seed)
    initial = spec.initial_state(generator)
    model = spec.build({name: tensor.to(device) for name, tensor in initial.items()})
    layout = spec.layout()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(spec.pretrains(name))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, settings.learning_rate, weight_decay=settings.weight_decay
    )
    inputs = spec.prepare(torch.from_numpy(public.inputs).to(device))
    labels = torch.from_numpy(public.labels).to(device)
    batches = batch_order(len(public), settings.batch_size, (seed, 2), 0, settings.num_steps)
    for batch in torch.from_numpy(batches).to(device):
        with scoring_probabilities(model, layout) as probabilities:
            loss = spec.loss(model, inputs[batch], labels[batch])
        loss = loss + settings.load_balancing * _imbalance(probabilities)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def _imbalance(probabilities: list[Tensor]) -> Tensor:
    """Return the sum over layers of E * sum_e (mean probability of e)^2: L when balanced."""
    terms = [p.shape[-1] * p.mean(0).square().sum() for p in probabilities]
    return torch.stack(terms).sum()
