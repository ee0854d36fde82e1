"""Where the real work of a simulation runs: in this process, or in others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from emsfl.training import one_thread


class Pending(Protocol):
    """A result that may still be in the making."""

    def result(self) -> Any:
        """Wait for the work and return what it gave."""
        ...

    def done(self) -> bool:
        """Tell whether `result` would return at once."""
        ...


class Executor(Protocol):
    """Runs pure functions of one argument."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Start `function(argument)`."""
        ...


@dataclass(frozen=True)
class _Done:
    value: Any

    def result(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True


class InlineExecutor:
    """Runs everything in this process, at once."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Do the work."""
        return _Done(function(argument))


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
