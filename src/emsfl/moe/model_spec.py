"""What every family of trainable models offers: build, train, judge and gate it, one interface.

Shapes: N samples, B of them in a batch, D features, C clusters, L layers, E experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout, State
from emsfl.moe.config import ModelConfig
from emsfl.moe.gate import DomainGate, DomainStatistics, gate_features, gated

Metric = Literal["accuracy", "bits_per_byte"]


class ModelSpec(ABC):
    """How to build a model: enough to do so again in another process.

    Implementations are small frozen dataclasses: they can be pickled, hashed and compared.
    """

    metric: ClassVar[Metric] = "accuracy"
    """`accuracy`: higher is better; `bits_per_byte`: lower is better."""
    config: ModelConfig
    """The section of the configuration that it is built from."""
    batch: ClassVar[int] = 1024
    """Samples that one forward pass without gradients takes."""

    @abstractmethod
    def build(self, state: Mapping[str, Tensor], num_experts: int | None = None) -> nn.Module:
        """Return the model with `num_experts` experts per layer (default: all) holding `state`.

        The module's tensors are those of `state` themselves, not copies; any number of models may
        live at once.
        """

    @abstractmethod
    def initial_state(self, generator: torch.Generator) -> State:
        """Return the state of the full model before pre-training; what is random is drawn."""

    @abstractmethod
    def layout(self) -> MoELayout:
        """Return where the full model keeps its experts, and what in it is frozen."""

    @abstractmethod
    def forward_flops(self) -> dict[str, float]:
        """Return floating-point operations per sample and forward pass, by what does them.

        Keys `frozen`, `shared`, `router`, `experts`; a multiply-add counts two; norms and
        activations are left out. `router` is for the full model; a sub-model's is proportionally
        smaller.
        """

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Any, labels: Tensor) -> Tensor:
        """Return the mean training loss of a batch.

        Args:
            model: as from `build`.
            inputs: a batch of what `prepare` returned.
            labels: [B].
        """

    @abstractmethod
    def judge(self, model: nn.Module, inputs: Any, labels: Tensor) -> tuple[float, float]:
        """Return numerator and denominator of the metric over a batch, as for `loss`."""

    @abstractmethod
    def fingerprint(self) -> list[Any]:
        """Return JSON-able values that differ wherever the initial states differ."""

    def prepare(self, inputs: Tensor) -> Any:
        """Return what `loss` and `judge` take, for all inputs [N, ...] of a data set at once.

        The result lies where the inputs do, and is indexed by a slice or an int64 tensor to get a
        batch. Here: the inputs themselves.
        """
        return inputs

    def pretrains(self, name: str) -> bool:
        """Tell whether pre-training on the public split trains the parameter `name`."""
        del name
        return True

    def measure(self, pretrained: nn.Module, inputs: Any) -> DomainStatistics:
        """Return the statistics for the domain gate of one batch of prepared inputs.

        `pretrained` is the full model before tuning.
        """
        return DomainStatistics.of(self.features(pretrained, inputs).cpu())

    def features(self, pretrained: nn.Module, inputs: Any) -> Tensor:
        """Return what the domain gate reads of a batch of prepared inputs, [B, D]."""
        return gate_features(pretrained, self.layout(), inputs)

    def log_posterior(self, gate: DomainGate, pretrained: nn.Module, inputs: Any) -> Tensor:
        """Return log p(c | input) [B, C] of a batch of prepared inputs, on the CPU."""
        return gate.log_posterior(self.features(pretrained, inputs).cpu())

    def gates(self, gate: DomainGate) -> list[DomainGate | None]:
        """Return the ways to use a gate: of several, the best on validation data is to be chosen.

        None stands for the plain router. Here: the gate itself.
        """
        return [gate]

    def gated(
        self, model: nn.Module, gate: DomainGate, pretrained: nn.Module, inputs: Any
    ) -> AbstractContextManager[None]:
        """While active, the full `model` routes this batch of prepared inputs by the gate."""
        return gated(model, self.layout(), gate, self.log_posterior(gate, pretrained, inputs))
