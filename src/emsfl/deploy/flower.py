"""Everything that touches Flower: a lossy remote call with TLS and registered keys.

The server's end supervises a SuperLink, registers the nodes' keys and holds the one run that
messages belong to. The node's end speaks Flower's Fleet API from its own process, so that a
message costs a poll and not the start of a process. A message may be lost in either direction at
any time: whoever sends it asks again (see `exchange`).
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.errors import EmsflError, UserError

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Of one HTTP request; a part of an update is a quarter of it at most."""
HEARTBEAT_S = 1800.0
"""The longest that Flower allows: a node out of contact for less than an hour stays known."""
PULL_PATIENCE_S = 30.0
"""How long half a reply is waited for; Flower itself forgets it after 180 s."""
MESSAGE_TYPE = "query.exchange"
RECORD = "emsfl"

MALFORMED = (AttributeError, KeyError, IndexError, TypeError, ValueError)
"""What Flower raises over objects that another end has made up."""

_APP = b"""
[project]
name = "emsfl-deploy"
version = "1.0.0"
license = "Apache-2.0"
description = "Carries the messages of emsfl; nothing in here is ever executed."
[tool.flwr.app]
publisher = "emsfl"
[tool.flwr.app.components]
serverapp = "carrier:app"
clientapp = "carrier:app"
"""


class LinkError(EmsflError):
    """The other end cannot be reached now; the caller tries again."""


class ClockCorrectedError(LinkError):
    """The other end's clock has been taken over; the caller tries again at once."""


class LinkRefusedError(EmsflError):
    """The other end refuses this node: its key is not registered, or its clock is far off."""


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """Certificates of the server."""

    certificate: Path
    key: Path
    authority: Path
    """What nodes verify the certificate with."""


@dataclass(frozen=True)
class Envelope:
    """What one message carries: a JSON text and raw bytes."""

    text: str
    blob: bytes = b""


def check_installed() -> None:
    """Raise EmsflError where the extra is missing."""
    import importlib.util

    if importlib.util.find_spec("flwr") is None:
        raise EmsflError("this needs Flower; run: pip install 'emsfl[deploy]'")


def quiet_environment() -> dict[str, str]:
    """Return the environment in which Flower tells nobody of its use."""
    return {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


class FlowerServer:
    """The server's end: a SuperLink, one run in it, and messages to registered nodes."""

    def __init__(self, folder: Path, host: str, port: int, tls: ServerTls | None) -> None:
        """Start the SuperLink on `host`:`port`; None for `tls` means plain text, open to all.

        Raises:
            EmsflError: it does not start; the message names its log, in `folder`.
        """
        check_installed()
        os.environ.update(quiet_environment())
        self.folder, self.host, self.port, self.tls = folder, host, port, tls
        self._stack = ExitStack()
        self._start_superlink()
        try:
            self._token = self._acquire_run()
        except BaseException:
            self.close()
            raise

    @property
    def _address(self) -> str:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"{host}:{self.port}"

    @property
    def _root(self) -> bytes | None:
        return self.tls.authority.read_bytes() if self.tls else None

    def _start_superlink(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wait_for_port()
        self._secret = secrets.token_bytes(32)
        secret_path = self.folder / "executor.secret"
        secret_path.touch(mode=0o600)
        secret_path.write_bytes(self._secret)
        command = [
            *(sys.executable, "-m", "emsfl.deploy.superlink", str(os.getpid())),
            *(str(MAX_BODY_BYTES), "--host", self.host, "--port", str(self.port)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(secret_path)),
            "--disable-runtime-dependency-installation",
        ]
        if self.tls:
            command += [
                *("--ssl-certfile", str(self.tls.certificate), "--ssl-keyfile", str(self.tls.key)),
                *("--ssl-ca-certfile", str(self.tls.authority), "--enable-supernode-auth"),
            ]
        else:
            command.append("--insecure")
        log_path = self.folder / "superlink.log"
        log = self._stack.enter_context(log_path.open("ab"))
        environment = quiet_environment() | {"FLWR_HOME": str(self.folder / "flower")}
        self._process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )
        self._stack.callback(self._stop_superlink)
        deadline = time.monotonic() + 120
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise EmsflError(f"Flower's SuperLink does not start; see {log_path}")
            time.sleep(0.1)

    def _wait_for_port(self) -> None:
        """Wait until an earlier life's SuperLink, which ends with it, has let go of the port."""
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_server((self.host, self.port)).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    reason = error.strerror or error
                    raise UserError(
                        f"cannot listen on {self.host}:{self.port}: {reason}; choose another "
                        "--host or --port"
                    ) from None
                time.sleep(0.2)
            else:
                return

    def _listens(self) -> bool:
        host, port = self._address.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return self._process.poll() is None
        except OSError:
            return False

    def _stop_superlink(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the SuperLink runs and still knows this process."""
        return self._process.poll() is None and self._heartbeat.is_running

    def _control(self) -> Any:
        from flwr.supercore.control.control_http_client import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        return ControlHttpClient.from_server_address(
            self._address,
            self.tls is None,
            self._root,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def _acquire_run(self) -> str:
        """Start a run and claim its task, as Flower's executor would; return the task's token."""
        from flwr.cli.build import build_fab_from_files
        from flwr.common.serde import fab_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType
        from flwr.supercore.fab import Fab
        from flwr.supercore.interceptors import (
            RuntimeVersionHttpInterceptor,
            SuperExecAuthHttpInterceptor,
        )
        from flwr.supercore.runtime import RuntimeHttpClient
        from flwr.supercore.superexec.run_superexec import _SUPEREXEC_AUTH_METHODS

        content, _ = build_fab_from_files({"pyproject.toml": _APP, "carrier.py": b"app = None\n"})
        control = self._control()
        try:
            control.StartRun(StartRunRequest(fab=fab_to_proto(Fab("", content, {}))))
        finally:
            control.close()
        client = RuntimeHttpClient.from_server_address(
            self._address,
            self.tls is None,
            self._root,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=self._secret, protected_methods=_SUPEREXEC_AUTH_METHODS
                ),
            ],
        )
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                found = client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
                )
                if found.HasField("task") and found.token:
                    self._start_task(found.token)
                    return str(found.token)
                time.sleep(0.1)
        finally:
            client.close()
        raise EmsflError(f"Flower hands out no run; see {self.folder / 'superlink.log'}")

    def _start_task(self, token: str) -> None:
        from flwr.common.serde import run_from_proto
        from flwr.proto.runtime_pb2 import PullTaskInputRequest
        from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
        from flwr.supercore.task_identity import TaskIdentity

        self._token = token
        grid = self._open_grid()
        found = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = found.task_id
        TaskIdentity.run_id = found.run.run_id
        TaskIdentity.node_id = found.context.node_id
        self._run = run_from_proto(found.run)
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
        self._heartbeat.start()
        self._stack.callback(grid.close)
        self._stack.callback(self._stop_heartbeat)

    def _stop_heartbeat(self) -> None:
        if self._heartbeat.is_running:
            self._heartbeat.stop()

    def _open_grid(self) -> Any:
        import httpx
        from flwr.superlink.grid import HttpGrid

        grid = HttpGrid(self._address, self.tls is None, self._root, token=self._token)
        # A failed call is repeated by the caller, who knows what is still wanted. Flower itself
        # would interrupt this process when a SuperLink that was started again knows no token.
        invoker = grid._retry_invoker
        invoker.max_tries, invoker.max_time = 2, 10
        invoker.should_giveup = lambda error: isinstance(error, httpx.HTTPStatusError)
        return grid

    def register(self, public_key: bytes, name: str) -> int:
        """Let the holder of `public_key` in as a node; return the node's number."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        control = self._control()
        try:
            return int(
                control.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id
            )
        finally:
            control.close()

    def open_line(self, node_id: int) -> Line:
        """Return a line to one node; every line may be used by a thread of its own."""
        grid = self._open_grid()
        grid.set_run(self._run)
        return Line(grid, node_id)

    def close(self) -> None:
        """Stop the SuperLink and close every connection to it."""
        self._stack.close()


class Line:
    """Messages to one node and its replies."""

    def __init__(self, grid: Any, node_id: int) -> None:
        """Send over `grid`."""
        self._grid, self.node_id = grid, node_id

    def push(self, envelope: Envelope, ttl_s: float) -> str | None:
        """Leave a message for the node; return its id, None where Flower takes none now."""
        import httpx
        from flwr.app import Message

        message = Message(
            make_record(envelope), dst_node_id=self.node_id, message_type=MESSAGE_TYPE, ttl=ttl_s
        )
        try:
            (found,) = self._grid.push_messages([message])
        except (httpx.HTTPError, ValueError) as error:
            raise LinkError(f"no message can be left for node {self.node_id}: {error}") from None
        return found or None

    def pull(self, message_id: str) -> Envelope | None:
        """Return the reply to a message, None where there is none yet.

        Raises:
            LinkError: it has been lost, or the SuperLink does not answer.
        """
        import httpx
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_protobuf_utils import (
            make_pull_object_fn_protobuf,
        )
        from flwr.supercore.inflatable.inflatable_utils import (
            ObjectPullError,
            inflate_object_from_contents,
            pull_objects,
        )
        from google.protobuf.message import DecodeError

        client, run_id = self._grid._runtime_client, self._grid.run.run_id
        try:
            found = client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
            if not found.messages_list:
                return None
            if found.messages_list[0].HasField("error"):
                reason = found.messages_list[0].error.reason
                raise LinkError(f"reply of node {self.node_id} lost: {reason}")
            tree = found.message_object_trees[0]
            # As HttpGrid does, but it looks again after a second, and for hours.
            contents = pull_objects(
                [part.object_id for part in iterate_object_tree(tree)],
                make_pull_object_fn_protobuf(client.PullObject, self._grid.node, run_id),
                max_time=PULL_PATIENCE_S,
                initial_backoff=0.05,
                backoff_cap=0.5,
            )
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._grid.node, run_id=run_id, message_object_id=tree.object_id
                )
            )
            return read_message(inflate_object_from_contents(tree.object_id, contents))
        except (httpx.HTTPError, DecodeError, *MALFORMED, ObjectPullError) as error:
            raise LinkError(f"no reply of node {self.node_id}: {error}") from None

    def close(self) -> None:
        """Close the connection."""
        self._grid.close()


def make_record(envelope: Envelope) -> Any:
    """Return what Flower carries an envelope in."""
    from flwr.app import ConfigRecord, RecordDict

    record = ConfigRecord({"text": envelope.text, "blob": envelope.blob})
    return RecordDict({RECORD: record})


def read_message(message: Any) -> Envelope:
    """Return the envelope in a message of Flower's; LinkError where there is none."""
    try:
        record = message.content[RECORD]
        text, blob = record["text"], record["blob"]
    except (KeyError, TypeError, ValueError):
        raise LinkError("a message is not one of emsfl's") from None
    if not isinstance(text, str) or not isinstance(blob, bytes):
        raise LinkError("a message does not hold a text and bytes")
    return Envelope(text, blob)
