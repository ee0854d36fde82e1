"""Where training computes, and that it computes the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from emsfl.errors import ConfigError

Processor = Literal["cpu", "cuda"]


@contextmanager
def computing_on(device: Processor) -> Iterator[torch.device]:
    """Run the body on one intra-op thread of the CPU, or on the first GPU, deterministically.

    Sums on the CPU then do not depend on the machine's number of cores. On a GPU the results are
    the same from run to run, but not those of the CPU, nor of another kind of GPU.

    Raises:
        ConfigError: there is no GPU that torch can use.
    """
    if device == "cpu":
        with one_thread():
            yield torch.device("cpu")
        return
    if not torch.cuda.is_available():
        raise ConfigError("training.device = 'cuda': torch finds no GPU here; use 'cpu'")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield torch.device("cuda", 0)
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body on one intra-op thread, so that sums do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
