"""The server's end of a deployment: one SuperLink, one gateway per cluster, kept alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.deploy.checks import UploadLimits
from emsfl.deploy.clock import Clock, Windows
from emsfl.deploy.flower import Envelope, FlowerServer, Line, LinkError, ServerTls
from emsfl.deploy.remote import Exchange, RemoteGateway
from emsfl.errors import EmsflError
from emsfl.methods import Federation

RETRY_WALL_S = 1.0
"""Between two looks at a transfer that is late."""
LIFETIME_S = 60.0
"""How long Flower keeps one message for a node."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How the server behaves on the link."""

    folder: Path
    host: str
    port: int
    tls: ServerTls | None
    public_keys: Mapping[str, bytes]
    """Per cluster, in the encoding that Flower takes."""
    patience_s: float
    """How long to wait for a reply before the message is sent again."""
    part_bytes: int
    max_change_norm: float | None
    rehearses: bool
    """Steps are counted by the cost model and the order of events follows the plan; else devices
    train until their contact and events happen when they happen."""


class Server:
    """Holds the line to every cluster, over restarts of the SuperLink."""

    def __init__(
        self,
        settings: ServerSettings,
        windows: Mapping[str, Windows],
        clock: Clock,
        note: Callable[..., None],
    ) -> None:
        """Start the SuperLink and let the registered nodes in.

        Args:
            settings: how to behave.
            windows: per cluster, when it may be spoken to.
            clock: virtual time.
            note: takes the name of what happened, and details.
        """
        self.settings, self.windows, self.clock, self.note = settings, windows, clock, note
        self.gateways: dict[str, RemoteGateway] = {}
        self.lines: dict[str, Line] = {}
        self._session: dict[str, Any] = {}
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._flower = self._open()
        self._keeper = threading.Thread(target=self._keep_alive, daemon=True)
        self._keeper.start()

    def _open(self) -> FlowerServer:
        s = self.settings
        flower = FlowerServer(s.folder, s.host, s.port, s.tls)
        self.note("listening", host=s.host, port=s.port, tls=s.tls is not None)
        for name, key in s.public_keys.items():
            self.lines[name] = flower.open_line(flower.register(key, name))
        return flower

    def _keep_alive(self) -> None:
        """Start the SuperLink again whenever it has died."""
        while not self._closed.wait(1.0):
            if self._flower.is_alive:
                continue
            self.note("superlink_died")
            self._flower.close()
            try:
                flower = self._open()
            except EmsflError as error:
                self.note("superlink_does_not_start", reason=str(error))
                continue
            with self._lock:
                self._flower = flower
                for name, gateway in self.gateways.items():
                    gateway.connect(self._exchange(name))

    def begin(self, session: str, seed: int, federation: Federation, folder: Path) -> None:
        """Let every gateway belong to a new session; `gateway` then opens them."""
        self.end_session()
        self._session = {"session": session, "seed": seed}
        self._federation, self._folder = federation, folder

    def gateway(self, index: int, name: str) -> RemoteGateway:
        """Return the gateway of one cluster; it speaks once `connect` is called."""
        del index
        heading = {**self._session, "cluster": name}
        gateway = RemoteGateway(
            name,
            self._folder / name,
            UploadLimits(self._federation, self.settings.max_change_norm),
            lambda event, **details: self.note(event, cluster=name, **details),
            part_bytes=self.settings.part_bytes,
            retry_s=RETRY_WALL_S * self.clock.speedup,
            free_running=not self.settings.rehearses,
            may_send=lambda: self._may_send(name),
            heading=lambda: {**heading, "epoch": self.clock.epoch_wall_s},
        )
        self.gateways[name] = gateway
        gateway.connect(self._exchange(name))
        return gateway

    def _may_send(self, name: str) -> bool:
        return self.settings.rehearses or self.windows[name].is_open(self.clock.now_s())

    def _exchange(self, name: str) -> Callable[[Envelope], Envelope | None]:
        return exchange_over(self.lines[name], LIFETIME_S, self.settings.patience_s)

    def end_session(self) -> None:
        """Stop speaking for the session that is under way."""
        with self._lock:
            for gateway in self.gateways.values():
                gateway.close()
            self.gateways = {}

    def end(self, seconds: float) -> None:
        """Tell every node that the federation has ended, as far as they hear it in time."""
        self.end_session()
        waiting: dict[str, str] = {}
        for name, line in self.lines.items():
            try:
                body = Envelope(f'{{"cluster": "{name}", "end": true, "orders": []}}')
                message_id = line.push(body, LIFETIME_S)
            except LinkError:
                continue
            if message_id is not None:
                waiting[name] = message_id
        deadline = time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            for name, message_id in list(waiting.items()):
                try:
                    if self.lines[name].pull(message_id) is not None:
                        del waiting[name]
                except LinkError:
                    del waiting[name]
            time.sleep(0.1)

    def close(self) -> None:
        """Stop everything."""
        self._closed.set()
        self._keeper.join(60)
        self.end_session()
        for line in self.lines.values():
            line.close()
        self._flower.close()


def exchange_over(line: Line, lifetime_s: float, patience_s: float) -> Exchange:
    """Return how one message and its reply go over a line of Flower's.

    Args:
        line: to the node.
        lifetime_s: how long Flower keeps a message for the node.
        patience_s: how long to wait for the reply before the message counts as lost.
    """

    def exchange(envelope: Envelope) -> Envelope | None:
        deadline, pause_s = time.monotonic() + patience_s, 0.03
        try:
            message_id = line.push(envelope, lifetime_s)
            while message_id is not None and time.monotonic() < deadline:
                reply = line.pull(message_id)
                if reply is not None:
                    return reply
                time.sleep(pause_s)
                pause_s = min(0.5, 1.3 * pause_s)
        except LinkError:
            time.sleep(0.5)
        return None

    return exchange
