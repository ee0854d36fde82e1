"""Where the real work of a simulation runs: here, in other processes, or on a Ray cluster."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from emsfl.errors import ConfigError
from emsfl.training import Executor, InlineExecutor, Pending, one_thread

ExecutorKind = Literal["local", "ray"]


@contextmanager
def open_executor(num_workers: int, kind: ExecutorKind = "local") -> Iterator[Executor]:
    """Yield an executor; the results do not depend on which.

    Args:
        num_workers: `local`: 1 works in this process, more in that many others. `ray`: tasks that
            run at the same time, at most.
        kind: `ray` joins the cluster that RAY_ADDRESS names, or starts one on this machine.

    Raises:
        ConfigError: `ray` is not installed.
    """
    with one_thread():
        if kind == "ray":
            with _ray(num_workers) as executor:
                yield executor
        elif num_workers == 1:
            yield InlineExecutor()
        else:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(num_workers, mp_context=context)
            try:
                yield _PoolExecutor(pool)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Packed:
    """A result that comes back as bytes."""

    future: Future[bytes]

    def result(self) -> Any:
        return pickle.loads(self.future.result())

    def done(self) -> bool:
        return self.future.done()


@dataclass(frozen=True)
class _PoolExecutor:
    """Hands work to other processes as bytes that are made at once, in the calling thread.

    torch would move every tensor to shared memory instead, from a thread of the pool's and in
    place, while this thread may be reading it.
    """

    pool: ProcessPoolExecutor

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        return _Packed(self.pool.submit(_call_packed, _pack((function, argument))))


class _Pickler(pickle.Pickler):
    """Pickles tensors of the CPU as numpy arrays."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return torch.tensor, (obj.detach().numpy(),)
        return NotImplemented


def _pack(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getvalue()


def _call_packed(packed: bytes) -> bytes:
    function, argument = pickle.loads(packed)
    return _pack(function(argument))


@dataclass(frozen=True)
class _Reference:
    """A result on the cluster."""

    ray: Any
    reference: Any

    def result(self) -> Any:
        return self.ray.get(self.reference)

    def done(self) -> bool:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        return bool(ready)


@dataclass(frozen=True)
class _RayExecutor:
    ray: Any
    call: Any

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        return _Reference(self.ray, self.call.remote(function, argument))


@contextmanager
def _ray(num_workers: int) -> Iterator[Executor]:
    # All are read when ray is imported: no usage report, tasks see every GPU, and they are not
    # niced, for they are what the run is about.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise ConfigError("executor 'ray' needs ray; run: pip install 'emsfl[ray]'") from None
    address = os.environ.get("RAY_ADDRESS")
    cpus = None if address else num_workers
    ray.init(address=address, num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield _RayExecutor(ray, ray.remote(num_cpus=1)(_call))
    finally:
        ray.shutdown()


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)
