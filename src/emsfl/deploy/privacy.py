"""What a cluster does to protect itself and its devices before anything leaves it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from emsfl.deploy.config import DeployConfig, PrivacyConfig
from emsfl.errors import UserError
from emsfl.methods import Federation, Update, Work
from emsfl.moe import State, split_state
from emsfl.training import coordinate_median, trimmed_mean, weighted_mean

ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(12, 256))
"""Renyi orders among which the accountant looks for the tightest bound."""

Finish = Callable[[Update, Work, State], tuple[Update, State]]
"""Takes an update, the work that it answers and what has been released of the cluster's own
values so far; returns what is sent, and what has been released then."""


Combine = Callable[[Sequence[State], Sequence[float]], State]
"""Averages the devices of a cluster: takes their states and their weights."""


def combiner(config: DeployConfig) -> Combine:
    """Return how a cluster averages its devices."""
    if config.aggregation == "median":
        return lambda states, _: coordinate_median(states)
    if config.aggregation == "trimmed_mean":
        return lambda states, _: trimmed_mean(states, int(config.trim_fraction * len(states)))
    return weighted_mean


def finisher(config: PrivacyConfig | None, federation: Federation) -> Finish:
    """Return the last hand on every update: clipping and noise where `config` asks for them.

    The change of everything that is uploaded, taken together, is cut to `clip_norm` and Gaussian
    noise is added, from the operating system's randomness: a seed would undo it. Scores and domain
    statistics are sent as they are.
    """
    if config is None:
        return lambda update, _, released: (update, released)
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)

    def finish(update: Update, work: Work, released: State) -> tuple[Update, State]:
        if not update.values and not update.shared_delta:
            return update, released
        held = split_state(federation.pretrained, federation.layout, work.owned)
        base = {name: {**held, **released, **work.payload}[name] for name in update.values}
        change = {name: tensor - base[name] for name, tensor in update.values.items()}
        change |= update.shared_delta
        norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in change.values()))
        factor = min(1.0, config.clip_norm / norm) if norm > 0 else 1.0
        deviation = config.noise_multiplier * config.clip_norm

        def protected(tensor: Tensor) -> Tensor:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return (tensor.double() * factor + noise * deviation).to(tensor.dtype)

        sent = {name: protected(tensor) for name, tensor in change.items()}
        values = {name: base[name] + sent[name] for name in update.values}
        delta = {name: sent[name] for name in update.shared_delta}
        return replace(update, values=values, shared_delta=delta), {**released, **values}

    return finish


def epsilon_spent(config: PrivacyConfig, num_releases: int) -> float:
    """Return epsilon at `config.delta` of so many updates: whether a cluster took part in them.

    Raises:
        UserError: the accountant is not installed.
    """
    try:
        from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
    except ImportError:
        raise UserError("privacy needs its accountant; run: pip install 'emsfl[privacy]'") from None
    divergence = compute_rdp(
        q=1.0, noise_multiplier=config.noise_multiplier, steps=num_releases, orders=ORDERS
    )
    epsilon, _ = get_privacy_spent(orders=ORDERS, rdp=divergence, delta=config.delta)
    return float(epsilon)
