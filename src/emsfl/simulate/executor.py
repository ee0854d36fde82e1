"""Where the real work of a simulation runs: in this process, or in others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from emsfl.training import Executor, InlineExecutor, one_thread


@contextmanager
def open_executor(num_workers: int) -> Iterator[Executor]:
    """Yield an executor: inline for one worker, else that many spawned processes."""
    with one_thread():
        if num_workers == 1:
            yield InlineExecutor()
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, mp_context=context)
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
