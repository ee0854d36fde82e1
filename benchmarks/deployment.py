"""One server and its clusters as processes of this machine, with links that can be cut.

Used by the rehearsal and by the fault tests. Every node reaches the server through a proxy that
counts bytes, limits the rate, delays, and swallows everything while the link is cut, as a radio
link does: connections are not closed, they hear nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CHUNK = 64 * 1024


class LinkProxy:
    """A link from a port of this machine to `target`."""

    def __init__(self, target: tuple[str, int], listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Listen at once; the link is up."""
        self.target = target
        self.up = threading.Event()
        self.up.set()
        self.rate_bytes_s: float | None = None
        self.delay_s = 0.0
        self.sent_up = self.sent_down = 0
        """Bytes from the node to the server, and back."""
        self._listener = socket.create_server(listen)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self.up.wait()
        try:
            server = socket.create_connection(self.target, timeout=10)
            server.settimeout(None)
        except OSError:
            client.close()
            return
        for one, other, upward in ((client, server, True), (server, client, False)):
            threading.Thread(target=self._pump, args=(one, other, upward), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        try:
            while chunk := source.recv(CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self.rate_bytes_s:
                    time.sleep(len(chunk) / self.rate_bytes_s)
                self.up.wait()
                sink.sendall(chunk)
                if upward:
                    self.sent_up += len(chunk)
                else:
                    self.sent_down += len(chunk)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with_shutdown(end)

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


def with_shutdown(end: socket.socket) -> None:
    """Close a socket, whatever state it is in."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        end.close()
    else:
        end.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Deployment:
    """A server and nodes that run the same config."""

    folder: Path
    config: Path
    overrides: Sequence[str] = ()
    speedup: float = 1e9
    rehearses: bool = True
    secure: bool = False
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    proxies: dict[str, LinkProxy] = field(default_factory=dict)
    logs: list[IO[bytes]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def security(self) -> list[str]:
        """Options of both ends."""
        return ["--keys", str(self.folder / "keys")] if self.secure else ["--insecure"]

    @property
    def timing(self) -> list[str]:
        """Options of both ends."""
        return [*(["--rehearse"] if self.rehearses else []), "--speedup", repr(self.speedup)]

    def command(self, *arguments: str, module: Sequence[str] = ()) -> list[str]:
        """Return how emsfl is called, or a module that runs in its place."""
        if module:
            return [sys.executable, "-m", *module, *arguments]
        call = "from emsfl.cli import main; main()"
        return [sys.executable, "-c", call, *arguments]

    def simulate(self, *, module: Sequence[str] = ()) -> None:
        """Run the simulator on the same config; `module` runs in place of emsfl."""
        out = self.folder / "simulated"
        log = (self.folder / "simulate.log").open("wb")
        subprocess.run(
            self.command(
                "run", str(self.config), *self.overrides, "--out", str(out), module=module
            ),
            check=True, stdout=log, stderr=log, env=environment(),
        )  # fmt: skip
        log.close()

    def make_keys(self, names: Sequence[str], hosts: Sequence[str] = ()) -> None:
        """Make the server's certificates, for this machine and `hosts`, and one key per node."""
        keys = str(self.folder / "keys")
        for arguments in (["server", *hosts, "--out", keys], ["node", *names, "--out", keys]):
            subprocess.run(
                self.command("keys", *arguments), check=True, capture_output=True, env=environment()
            )

    def start_server(self, *extra: str, prefix: Sequence[str] = ()) -> None:
        """Start the server, or start it again; `prefix` comes before its command."""
        arguments = [
            *("serve", str(self.config), *self.overrides, "--out", str(self.run), *self.timing),
            *("--port", str(self.port), *self.security, *extra),
        ]
        self._start("server", [*prefix, *self.command(*arguments)], {})

    def start_node(
        self,
        name: str,
        *extra: str,
        address: str | None = None,
        prefix: Sequence[str] = (),
        module: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """Start a node, or start it again.

        Args:
            name: of its cluster.
            extra: further options.
            address: of the server; None: behind a proxy of its own.
            prefix: comes before its command.
            module: what runs in place of emsfl.
            variables: of its environment.
        """
        if address is None:
            if name not in self.proxies:
                self.proxies[name] = LinkProxy(("127.0.0.1", self.port))
            address = f"127.0.0.1:{self.proxies[name].port}"
        arguments = [
            *("join", str(self.config), *self.overrides, "--cluster", name, *self.timing),
            *("--server", address, "--journal", str(self.folder / f"node-{name}")),
            *("--log", str(self.folder / f"node-{name}.jsonl"), *self.security, *extra),
        ]
        command = self.command(*arguments, module=module)
        self._start(name, [*prefix, *command], variables)

    def _start(self, name: str, command: list[str], variables: dict[str, str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.logs.append(log)
        self.processes[name] = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment() | variables,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill -9, at once."""
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def wait(self, name: str, timeout_s: float) -> int:
        """Wait for a process to end; return its exit code."""
        return self.processes[name].wait(timeout_s)

    def notes(self, name: str = "server") -> list[dict[str, Any]]:
        """Return the structured log of one process."""
        path = self.run / "server.jsonl" if name == "server" else self.folder / f"node-{name}.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def wait_for(self, event: str, count: int = 1, timeout_s: float = 120, **wanted: Any) -> None:
        """Wait until the server has noted `event` that often."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [
                note
                for note in self.notes()
                if note["event"] == event and all(note.get(k) == v for k, v in wanted.items())
            ]
            if len(found) >= count:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{event} has not happened {count} times in {timeout_s} s")

    def close(self) -> None:
        """End everything that was started."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        for proxy in self.proxies.values():
            proxy.close()
        for log in self.logs:
            log.close()


@contextmanager
def deployment(folder: Path, config: Path, **settings: Any) -> Iterator[Deployment]:
    """Yield a deployment whose processes end with the body."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Deployment(folder, config, **settings)
    try:
        yield found
    finally:
        found.close()


def environment() -> dict[str, str]:
    """Return what every process needs: one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def finals(run: Path) -> dict[tuple[str, int], str]:
    """Return the hash of each arm's final merged model."""
    found = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "finished":
            found[event["method"], event["seed"]] = event["model_sha256"]
    return found
