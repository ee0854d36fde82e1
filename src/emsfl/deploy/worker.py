"""The node's own work: carry out orders in their sequence, each once, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emsfl.data import FederatedData
from emsfl.deploy.journal import Journal
from emsfl.deploy.privacy import Combine, Finish
from emsfl.methods import (
    Activity,
    Federation,
    make_cluster,
    measure_cluster,
    take_results,
    training_tasks,
)
from emsfl.moe import ModelSpec, State
from emsfl.training import InlineExecutor, TrainingConfig, train_locally

PIECE_S = 10.0
"""Training is journaled about this often; more often where a step takes longer."""
FREE_PIECE_S = 0.5
"""Free-running training looks for the next order about this often."""


@dataclass(frozen=True, kw_only=True)
class Duty:
    """What one cluster trains on, and what."""

    name: str
    index: int
    """Of the cluster in the federation."""
    data: FederatedData
    model: ModelSpec
    federation: Federation
    training: TrainingConfig
    finish: Finish
    """Last hand on an update before it leaves."""
    keeps_released: bool
    """Whether what leaves is not what is held."""
    combine: Combine
    """Averages the devices."""
    released_note: Callable[[int], None]
    """Told how many updates have left."""


class Worker:
    """Carries out what the server orders."""

    def __init__(self, duty: Duty, journal: Journal) -> None:
        """Go on from the journal, or begin where it is empty."""
        self.duty, self.journal = duty, journal
        self.cluster = make_cluster(duty.name, duty.data)
        self.cluster.combine = duty.combine
        self.done = 0
        """Number of the last order carried out."""
        self.trained = 0
        """Steps of the next order that have been trained already."""
        self.num_answers = 0
        self.released: State = {}
        """Own values as they have left last, where they are not those that are held."""
        self.loss: float | None = None
        self.error: str | None = None
        saved = journal.read_state()
        if saved is not None:
            self.done, self.trained = saved["done"], saved["trained"]
            self.num_answers, self.released = saved["num_answers"], saved["released"]
            self.cluster.restore(saved["cluster"])
        self.orders = [order for order in journal.read_orders() if order[0] > self.done]
        self.confirmed = self.orders[-1][0] if self.orders else self.done
        """Number of the last order that is on disk."""
        self.changed = threading.Condition()
        self._closed = False
        self._steps_per_s = 0.0
        self._thread = threading.Thread(target=self._run, name=duty.name, daemon=True)
        self._thread.start()

    def take(self, orders: list[list[Any]]) -> None:
        """Accept new orders: they are on disk when this returns.

        Raises:
            ValueError: an order before them is missing.
            OSError: they cannot be kept.
        """
        with self.changed:
            fresh = [order for order in orders if order[0] > self.confirmed]
            if not fresh:
                return
            if fresh[0][0] != self.confirmed + 1:
                raise ValueError(
                    f"order {fresh[0][0]} came, but the last one on disk is {self.confirmed}: "
                    "the journal of this node is not the one that the server knows"
                )
            self.journal.write_orders([*self.orders, *fresh])
            self.orders += fresh
            self.confirmed = fresh[-1][0]
            self.changed.notify_all()

    def close(self) -> None:
        """Stop after the piece of training that is under way."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.orders and not self._closed:
                    self.changed.wait()
                if self._closed:
                    return
                order = self.orders[0]
            try:
                if not self._carry_out(order[1], order[2]):
                    continue  # closed, or to be tried again
                self.done, self.trained = order[0], 0
                self._keep()
                with self.changed:
                    self.orders.pop(0)
                    self.changed.notify_all()
            except Exception as error:  # noqa: BLE001 - told to the server with the next reply
                self.error = f"order {order}: {type(error).__name__}: {error}"
                time.sleep(1.0)

    def _keep(self) -> None:
        """Journal the state; where the disk is full, say so and wait until it is not."""
        state = {
            "cluster": self.cluster.save(),
            "done": self.done,
            "trained": self.trained,
            "num_answers": self.num_answers,
            "released": self.released,
        }
        self._persist(lambda: self.journal.write_state(state))

    def _persist(self, write: Callable[[], None]) -> None:
        while True:
            try:
                write()
            except OSError as error:
                self.error = f"the journal cannot be written: {error}"
                if self._closed:
                    raise
                time.sleep(1.0)
            else:
                self.error = None
                return

    def _carry_out(self, name: str, argument: Any) -> bool:
        """Do what one order says; return whether it is done."""
        if name == "take_over":
            return self._take_over(str(argument))
        if name == "train":
            return self._train(None if argument is None else int(argument))
        if name == "answer":
            self._answer(str(argument))
            return True
        raise ValueError(f"unknown order {name!r}")

    def _take_over(self, work_id: str) -> bool:
        work = self.journal.read_parcel(work_id)
        if work is None:
            with self.changed:
                if not self._closed:
                    self.changed.wait(0.2)
            return False
        self.cluster.take_over(work, self.duty.federation)
        self.journal.forget(work_id)
        return True

    def _train(self, num_steps: int | None) -> bool:
        """Train in pieces; without a number, until the next order is there."""
        while num_steps is None or self.trained < num_steps:
            with self.changed:
                if self._closed:
                    return False
                if num_steps is None and len(self.orders) > 1:
                    return True
            length_s = PIECE_S if num_steps is not None else FREE_PIECE_S
            piece = max(1, int(self._steps_per_s * length_s))
            if num_steps is not None:
                piece = min(piece, num_steps - self.trained)
            self._train_piece(piece)
        return True

    def _train_piece(self, num_steps: int) -> None:
        duty, started = self.duty, time.monotonic()
        seed = (duty.federation.seed, 4, duty.index)
        shards = duty.data.shards[duty.name]
        tasks = training_tasks(self.cluster, shards, duty.model, seed, num_steps)
        results = [train_locally(task) for task in tasks]
        take_results(self.cluster, results, num_steps)
        self.loss = sum(r.mean_loss for r in results) / len(results)
        self._steps_per_s = num_steps / max(1e-6, time.monotonic() - started)
        self.trained += num_steps
        self._keep()

    def _answer(self, work_id: str) -> None:
        """Form the update and keep it on disk, from where it is sent as often as it is asked for.

        What is there from an earlier life is not made again: noise would differ.
        """
        duty, cluster = self.duty, self.cluster
        if cluster.work is None:
            raise ValueError("there is no work to answer")
        bootstrap = None
        if cluster.work.activity is Activity.SCORE:
            bootstrap = measure_cluster(
                cluster,
                duty.data.shards[duty.name],
                InlineExecutor(),
                duty.model,
                duty.federation.pretrained,
                duty.training,
            )
        cluster.take_snapshot()
        found = self.journal.read_answer_tree(work_id)
        if found is None:
            honest = cluster.build_update(duty.federation, bootstrap)
            update, self.released = duty.finish(honest, cluster.work, self.released)
            answer = {"work": work_id, "owned": cluster.work.owned, "update": update}
            self._persist(lambda: self.journal.write_answer(work_id, answer))
        elif duty.keeps_released:
            self.released = {**self.released, **found["update"].values}
        self.num_answers += 1
        duty.released_note(self.num_answers)
