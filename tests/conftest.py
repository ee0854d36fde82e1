"""Shared fixtures: one tiny federation with real training that takes milliseconds a step."""

from __future__ import annotations

import os

# One thread, as in every training task; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

from emsfl.data import Samples
from emsfl.methods import Federation
from emsfl.moe import DomainStatistics, ImageClassifier, PatchMoEConfig
from emsfl.training import LocalSettings

# Shared machines stall: a slow example is no failure. The same examples in every run.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

CLUSTERS = ("north", "south")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep caches made by tests out of the user's; share them within one test session."""
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def spec() -> ImageClassifier:
    config = PatchMoEConfig(
        image_px=8, patch_px=8, hidden_size=8, expert_size=16, num_experts=4, top_k=2
    )
    return ImageClassifier(config, num_classes=3)


@pytest.fixture
def pretrained(spec):
    return spec.initial_state(torch.Generator().manual_seed(1))


@pytest.fixture
def shard() -> Samples:
    generator = np.random.default_rng(2)
    return Samples(
        inputs=generator.random((40, 8, 8), dtype=np.float32),
        labels=generator.integers(0, 3, 40),
    )


@pytest.fixture
def settings() -> LocalSettings:
    return LocalSettings(batch_size=8, momentum=0.9, learning_rate=0.1)


@pytest.fixture
def statistics() -> DomainStatistics:
    generator = torch.Generator().manual_seed(3)
    return DomainStatistics.of(torch.randn(50, 8, generator=generator))


@pytest.fixture
def federation(spec, pretrained, statistics) -> Federation:
    """Two clusters; experts 0 and 1 fit `north`, 2 and 3 fit `south`."""
    scores = torch.tensor([[0.4, 0.4, 0.1, 0.1]] * 2, dtype=torch.float64)
    return Federation(
        clusters=CLUSTERS,
        weights={"north": 0.75, "south": 0.25},
        pretrained=pretrained,
        layout=spec.layout(),
        top_k=2,
        seed=0,
        scores={"north": scores, "south": scores.flip(1)},
        statistics={"north": statistics, "south": statistics + statistics},
    )
