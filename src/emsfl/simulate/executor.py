"""Where the real work of a simulation runs: in this process, or in others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from emsfl.training import one_thread


class Pending(Protocol):
    """A result that may still be in the making."""

    def result(self) -> Any:
        """Wait for the work and return what it gave."""
        ...


class Executor(Protocol):
    """Runs pure functions of one argument."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Start `function(argument)`, or note that it has to be done."""
        ...


class Deferred:
    """Work that is done in this process when its result is asked for."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self._call: tuple[Callable[[Any], Any], Any] | None = (function, argument)
        self._result: Any = None

    def result(self) -> Any:
        """Do the work once, then return its result."""
        if self._call is not None:
            function, argument = self._call
            self._result, self._call = function(argument), None
        return self._result


class InlineExecutor:
    """Runs everything in this process, as late as possible."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Note the work."""
        return Deferred(function, argument)


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
