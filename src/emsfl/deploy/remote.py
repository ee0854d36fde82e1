"""The server's side of one cluster that is elsewhere: orders, parcels and answers by message.

Every order has a number and every piece of work an id. A message repeats what the node has not
confirmed, so it may be lost, doubled or late without harm; the node carries every order out once.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emsfl.deploy.checks import UploadLimits, check_upload
from emsfl.deploy.flower import Envelope
from emsfl.deploy.packets import Manifest, from_packet, manifest_of, to_packet
from emsfl.deploy.upload import Upload
from emsfl.errors import UpdateRefusedError
from emsfl.methods import Update, Work
from emsfl.moe import State
from emsfl.training import num_bytes

Exchange = Callable[[Envelope], Envelope | None]
"""Sends one message and returns its reply; None where it was lost or came too late."""

Note = Callable[..., None]
"""Takes the name of what happened, and details."""

FREE_WAIT_S = 0.2
"""How long a driver that must not be kept waiting is kept waiting."""


class RemoteGateway:
    """A cluster behind a link; a thread of its own keeps exchanging messages with it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        limits: UploadLimits,
        note: Note,
        *,
        part_bytes: int,
        retry_s: float,
        free_running: bool,
        may_send: Callable[[], bool],
        heading: Callable[[], dict[str, Any]],
    ) -> None:
        """Prepare; `connect` starts the exchange.

        Args:
            name: of the cluster.
            folder: keeps what has arrived of an upload.
            limits: what an upload may be.
            note: told what happens on the link.
            part_bytes: of one message, in both directions.
            retry_s: virtual seconds between two looks at a transfer that is late. Less than the
                looks take would let virtual time fall behind.
            free_running: devices train until they are asked, not for counted steps, and the
                driver is never kept waiting.
            may_send: whether the plan lets the link be used now.
            heading: what every message says first: session, cluster, clock.
        """
        self.name, self.limits, self.note = name, limits, note
        self.free_running, self.may_send, self.heading = free_running, may_send, heading
        self.part_bytes, self.retry_s = part_bytes, retry_s
        self.number = 0
        """Of the last piece of work."""
        self.sequence = 0
        """Of the last order."""
        self.orders: list[list[Any]] = []
        """[number, name, argument] of those that the node has not confirmed."""
        self.parcel: Work | None = None
        """Work that is on its way down."""
        self.work: Work | None = None
        """What the cluster has, or is about to have."""
        self.upload = Upload(folder, part_bytes)
        self.base: State = {}
        """What the cluster has uploaded of its own values: what its next change counts from."""
        self.last_loss: float | None = None
        self.downloaded_bytes = 0
        self._packet: tuple[Manifest, bytes] | None = None
        self._node_has: set[int] = set()
        self._changed = threading.Condition()
        self._released = (0, 0)
        """Numbers of the last order and the last work that may be sent."""
        self._closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    # --- what the driver asks ---------------------------------------------------------------------

    def download(self, work: Work) -> None:
        """See `Gateway`."""
        with self._changed:
            self._send(work)

    def take_over(self, work: Work) -> None:
        """See `Gateway`; work that was never sent, at the epoch, is sent now."""
        with self._changed:
            if self.parcel is None:
                self._send(work)
            self.work, self.parcel = work, None
            self._order("take_over", self._id(self.number))

    def train(self, num_steps: int) -> None:
        """See `Gateway`."""
        counted = not self.free_running or (self.work and self.work.num_steps is not None)
        with self._changed:
            self._order("train", num_steps if counted else None)

    def answer(self) -> int:
        """See `Gateway`; a free-running cluster's size is not known yet: 0."""
        with self._changed:
            wanted = self._id(self.number)
            self.upload.want(wanted)
            self.upload.drop_others()
            self._order("answer", wanted)
            if self.free_running and self.work and self.work.trains_while_uploading:
                self._order("train", None)
        if self.free_running:
            return 0
        upload = self.upload
        self._wait(lambda: upload.manifest is not None or upload.refusal is not None)
        return upload.manifest.payload_bytes if upload.manifest else 0

    def arrived(self) -> bool:
        """See `Gateway`; where steps are counted the driver waits here, as time stands still."""
        if not self.free_running:
            self._wait(self._nothing_under_way)
        with self._changed:
            self._changed.wait_for(self._nothing_under_way, FREE_WAIT_S)
            self._check_failure()
            return self._nothing_under_way()

    def update(self) -> Update:
        """See `Gateway`."""
        upload = self.upload
        self._wait(lambda: upload.is_over)
        with self._changed:
            wanted, upload.wanted = upload.wanted, None
            manifest = upload.manifest
            if upload.refusal is not None or manifest is None:
                raise UpdateRefusedError(f"{self.name}: {upload.refusal}")
            if self.work is None:
                raise RuntimeError(f"{self.name} answers no work")
            update = check_upload(from_packet(upload.read()), self.name, str(wanted), self.work)
            if update.num_bytes() != manifest.payload_bytes:
                raise UpdateRefusedError(f"{self.name}: its upload is not as large as it stated")
            self.base = self.limits.check_change(update, self.work, self.base)
            self.note("update_received", work=wanted, sha256=manifest.sha256)
            return update

    def settle(self) -> None:
        """Wait until the node has confirmed every order and has everything that it needs for it."""
        self._wait(lambda: not self.orders and self._part_to_send() is None)

    def save(self) -> dict[str, Any]:
        """See `Gateway`: with the journals of server and node this is all that is needed."""
        with self._changed:
            return {
                "number": self.number,
                "sequence": self.sequence,
                "orders": [list(order) for order in self.orders],
                "parcel": self.parcel,
                "work": self.work,
                "wanted": self.upload.wanted,
                "base": self.base,
            }

    def restore(self, saved: dict[str, Any]) -> None:
        """See `Gateway`."""
        with self._changed:
            self.number, self.sequence = saved["number"], saved["sequence"]
            self.orders = [list(order) for order in saved["orders"]]
            self.parcel, self.work, self.base = saved["parcel"], saved["work"], saved["base"]
            self.upload.want(saved["wanted"])
            # What the node still needs for its orders may be the work that it is to take over.
            sent = self.parcel or (self.work if self.number else None)
            self._packet = self._pack(sent) if sent is not None else None
            self._node_has = set()
            self._touch()

    # --- the exchange -----------------------------------------------------------------------------

    def connect(self, exchange: Exchange) -> None:
        """Start to exchange messages, or go on over another connection."""
        with self._changed:
            self._exchange = exchange
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop exchanging."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(30)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._closed and not (self._has_business() and self.may_send()):
                        self._changed.wait(0.1)
                    if self._closed:
                        return
                    request = self._request()
                    exchange = self._exchange
                reply = exchange(request)
                with self._changed:
                    if reply is not None:
                        self._take(reply)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the driver, which ends the run
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _has_business(self) -> bool:
        may_order = bool(self.orders) and self.orders[0][0] <= self._released[0]
        return may_order or self._part_to_send() is not None or self._may_ask()

    def _may_ask(self) -> bool:
        ordered = all(o[1] != "answer" or o[0] <= self._released[0] for o in self.orders)
        return not self.upload.is_over and ordered

    def _part_to_send(self) -> int | None:
        if self._packet is None or self.number > self._released[1]:
            return None
        missing = (k for k in range(self._packet[0].num_parts) if k not in self._node_has)
        return next(missing, None)

    def _request(self) -> Envelope:
        body: dict[str, Any] = {**self.heading(), "orders": self._released_orders()}
        blob = b""
        part = self._part_to_send()
        if part is not None and self._packet is not None:
            manifest, packet = self._packet
            blob = packet[part * self.part_bytes : (part + 1) * self.part_bytes]
            body["parcel"] = {**manifest.as_json(), "part": part}
        if self._may_ask():
            body["want"] = {"work": self.upload.wanted, "part": self.upload.missing_part()}
        return Envelope(json.dumps(body), blob)

    def _take(self, reply: Envelope) -> None:
        """Take a reply in; one that makes no sense is noted and counts as lost."""
        try:
            body = json.loads(reply.text)
            confirmed = int(body["confirmed"])
            self.orders = [order for order in self.orders if order[0] > confirmed]
            if body.get("error"):
                self.note("node_error", reason=str(body["error"])[:500])
            loss = body.get("loss")
            self.last_loss = float(loss) if loss is not None and math.isfinite(loss) else None
            parcel = body.get("parcel")
            if parcel and self._packet and parcel["work"] == self._packet[0].work:
                manifest, before = self._packet[0], self._node_has
                self._node_has = {int(k) for k in parcel["have"] if 0 <= k < manifest.num_parts}
                fresh = self._node_has - before
                self.downloaded_bytes += sum(manifest.part_size(k) for k in fresh)
            if body.get("answer") is not None and self.upload.wanted is not None:
                self._take_part(body["answer"], body.get("part"), reply.blob)
        except (ValueError, KeyError, TypeError) as error:
            self.note("bad_reply", reason=f"{type(error).__name__}: {error}")

    def _take_part(self, answer: Any, part: Any, blob: bytes) -> None:
        """Keep one part of an upload; what is wrong with it is noted."""
        try:
            manifest = Manifest.read(answer)
            self.upload.take(manifest, part, blob, self.limits.max_bytes(self.work))
        except UpdateRefusedError as error:
            self.note("upload_refused", reason=str(error), attempt=self.upload.num_bad)

    # --- small things -----------------------------------------------------------------------------

    def release(self) -> None:
        """Let everything out that has been asked for so far: the server has it on disk.

        Counted steps are the same whenever an event is gone through again, so nothing has to be
        held back there.
        """
        with self._changed:
            self._released = (self.sequence, self.number)
            self._changed.notify_all()

    def _released_orders(self) -> list[list[Any]]:
        return [order for order in self.orders if order[0] <= self._released[0]]

    def _touch(self) -> None:
        if not self.free_running:
            self._released = (self.sequence, self.number)
        self._changed.notify_all()

    def _send(self, work: Work) -> None:
        self.number += 1
        self.parcel = work
        self._packet, self._node_has = self._pack(work), set()
        self._touch()

    def _pack(self, work: Work) -> tuple[Manifest, bytes]:
        packet = to_packet(work)
        return (
            manifest_of(self._id(self.number), packet, num_bytes(work.payload), self.part_bytes),
            packet,
        )

    def _order(self, name: str, argument: Any) -> None:
        self.sequence += 1
        self.orders.append([self.sequence, name, argument])
        self._touch()

    def _id(self, number: int) -> str:
        return f"{self.name}-{number}"

    def _nothing_under_way(self) -> bool:
        return self.upload.is_over and self._part_to_send() is None

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            while not ready():
                self._check_failure()
                self._changed.wait(1.0)
            self._check_failure()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
