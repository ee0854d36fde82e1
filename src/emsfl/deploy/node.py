"""A cluster's gateway: it answers the server's messages and lets the devices train."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.deploy.clock import Clock, Windows
from emsfl.deploy.flower import ClockCorrectedError, Envelope, LinkError, LinkRefusedError
from emsfl.deploy.flower_node import NodeLink
from emsfl.deploy.journal import Journal, forget_sessions
from emsfl.deploy.packets import Manifest
from emsfl.deploy.worker import Duty, Worker
from emsfl.errors import UpdateRefusedError
from emsfl.files import write_json

READY_WAIT_S = 1.0
"""How long a reply is held back for an answer that is almost there."""
FIRST_POLL_S = 0.02
"""Pause before the look that follows a message: one seldom comes alone."""
IDLE_SHARE = 0.05
"""Of the time without a message, the pause before the next look: a long wait is worth few bytes."""
LINK_DOWN_WAIT_S = 1.0
"""Pause after the server could not be reached."""
REFUSED_WAIT_S = 2.0
"""Pause after the server has refused this node; its key may be registered meanwhile."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """How a node behaves on the link."""

    name: str
    folder: Path
    """Its journal."""
    poll_s: float
    """Longest pause between two looks for messages, in a contact."""
    part_bytes: int
    windows: Windows | None
    """When it may send, by its own clock; None: whenever the link is up."""
    epoch_wall_s: float
    """Unix time of virtual second 0."""
    speedup: float
    """Virtual seconds per second; above 1 the epoch is the server's to say."""


class Node:
    """One cluster's gateway."""

    def __init__(
        self,
        settings: NodeSettings,
        link: NodeLink,
        duty_of: Callable[[int], Duty],
        note: Callable[..., None],
    ) -> None:
        """Prepare.

        Args:
            settings: how to behave.
            link: to the server.
            duty_of: what the cluster trains on one seed.
            note: takes the name of what happened, and details.
        """
        self.settings, self.link, self.duty_of, self.note = settings, link, duty_of, note
        self.clock = Clock(settings.epoch_wall_s, settings.speedup)
        self._knows_time = settings.speedup == 1.0
        self.session: str | None = None
        self.worker: Worker | None = None
        self._stopped = threading.Event()
        self._last_trouble = ""

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopped.set()

    def run(self) -> None:
        """Serve the server until it says that the federation has ended, or `stop` is called."""
        self._read_node_id()
        logged_in, heard_s = False, time.monotonic()
        while not self._stopped.is_set():
            if self._is_over():
                self.note("plan_over")
                break
            if not self._may_send():
                self._stopped.wait(min(1.0, self.settings.poll_s))
                heard_s = time.monotonic()
                continue
            try:
                if not logged_in:
                    self.link.activate()
                    self._keep_node_id()
                    logged_in = True
                    self.note("logged_in", server=self.link.address, node=self.link.node_id)
                if self._serve_one():
                    heard_s = time.monotonic()
                self._last_trouble = ""
                pause_s = max(FIRST_POLL_S, IDLE_SHARE * (time.monotonic() - heard_s))
                self._stopped.wait(min(self.settings.poll_s, pause_s))
            except ClockCorrectedError as error:
                self.note("clock_corrected", reason=str(error))
            except LinkRefusedError as error:
                logged_in = False
                self._trouble("refused_by_server", error)
                self._stopped.wait(REFUSED_WAIT_S)
            except LinkError as error:
                self._trouble("link_down", error)
                self._stopped.wait(LINK_DOWN_WAIT_S)
        if self.worker is not None:
            self.worker.close()
        if logged_in:
            self.link.close()

    def _trouble(self, event: str, error: Exception) -> None:
        """Note what is wrong, once until something else is."""
        if self._last_trouble != event:
            self.note(event, reason=str(error))
            self._last_trouble = event

    def _is_over(self) -> bool:
        """Tell whether no contact will come any more."""
        windows = self.settings.windows
        if windows is None or not self._knows_time:
            return False
        return windows.next_open_s(self.clock.now_s()) is None

    def _may_send(self) -> bool:
        windows = self.settings.windows
        if windows is None or not self._knows_time:
            return True
        return windows.is_open(self.clock.now_s())

    def _serve_one(self) -> bool:
        """Answer the next message; return whether there was one."""
        found = self.link.receive()
        if found is None:
            return False
        message, envelope = found
        reply, ends = self.answer(envelope)
        self.link.reply(message, reply)
        if ends:
            self.note("ended")
            self._stopped.set()
        return True

    def answer(self, envelope: Envelope) -> tuple[Envelope, bool]:
        """Return the reply to one message, and whether the federation has ended.

        The same message may come any number of times.
        """
        error: str | None = None
        reply: dict[str, Any] = {"confirmed": 0}
        blob = b""
        body = json.loads(envelope.text)
        if body["cluster"] != self.settings.name:
            raise LinkRefusedError(f"a message for {body['cluster']} came to {self.settings.name}")
        if self.settings.windows is not None:
            self.clock.epoch_wall_s = float(body["epoch"]) - self.link.clock_offset_s
            self._knows_time = True
        if body.get("end"):
            return Envelope(json.dumps(reply)), True
        try:
            worker = self._worker(str(body["session"]), int(body["seed"]))
            parcel = body.get("parcel")
            if parcel:
                manifest = Manifest.read(parcel)
                have = worker.journal.take_part(manifest, int(parcel["part"]), envelope.blob)
                reply["parcel"] = {"work": manifest.work, "have": have}
            worker.take(body["orders"])
        except (OSError, ValueError, UpdateRefusedError) as found:
            error = f"{type(found).__name__}: {found}"
        current = self.worker
        if current is not None:
            reply |= {"confirmed": current.confirmed, "loss": current.loss}
            error = error or current.error
            want = body.get("want")
            if want and error is None:
                blob = self._answer_part(current, str(want["work"]), want["part"], reply)
        if error:
            self.note("trouble", reason=error)
            reply["error"] = error
        return Envelope(json.dumps(reply), blob), False

    def _answer_part(self, worker: Worker, work: str, part: Any, reply: dict[str, Any]) -> bytes:
        """Add the manifest of an answer to `reply` and return the part that is asked for."""
        deadline = time.monotonic() + READY_WAIT_S
        manifest = worker.journal.read_answer(work)
        while manifest is None and time.monotonic() < deadline:
            with worker.changed:
                worker.changed.wait(0.1)
            manifest = worker.journal.read_answer(work)
        if manifest is None:
            return b""
        reply["answer"] = manifest.as_json()
        if part is None or not 0 <= int(part) < manifest.num_parts:
            return b""
        reply["part"] = int(part)
        return worker.journal.read_part(work, int(part))

    def _worker(self, session: str, seed: int) -> Worker:
        """Return the worker of a session; another session's is stopped and its journal removed."""
        if self.worker is not None and self.session == session:
            return self.worker
        if not re.fullmatch(r"[\w.-]+", session):
            raise ValueError(f"{session!r} is no name of a session")
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        journals = self.settings.folder / "sessions"
        self.note("session", session=session, seed=seed)
        self.worker = Worker(
            self.duty_of(seed), Journal(journals / session, self.settings.part_bytes)
        )
        self.session = session
        forget_sessions(journals, session)
        return self.worker

    def _read_node_id(self) -> None:
        path = self.settings.folder / "node.json"
        if path.exists():
            self.link.node_id = json.loads(path.read_text(encoding="utf-8"))["node_id"]

    def _keep_node_id(self) -> None:
        try:
            write_json(self.settings.folder / "node.json", {"node_id": self.link.node_id})
        except OSError as error:
            self.note("trouble", reason=f"the journal cannot be written: {error}")
