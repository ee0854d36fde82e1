"""Who may speak to a server: only nodes with registered keys, over TLS, and only the Fleet API."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from benchmarks.deployment import environment, free_port

from emsfl.deploy import keys
from emsfl.deploy.flower import Envelope, FlowerServer, LinkError, LinkRefusedError
from emsfl.deploy.flower_node import NodeLink, _Signer
from emsfl.deploy.superlink import Fence
from emsfl.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys")
    keys.make_server_keys(path, ["127.0.0.1"])
    for name in ("north", "stranger"):
        keys.make_node_key(path, name)
    return path


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """A server that knows the north."""
    port = free_port()
    home = tmp_path_factory.mktemp("server")
    with contextlib.closing(
        FlowerServer(home, "127.0.0.1", port, keys.server_tls(folder))
    ) as found:
        found.north = found.register(keys.public_key(folder, "north"), "north")
        yield found


def link(server, folder, name, authority=keys.AUTHORITY):
    root = folder / authority if authority else None
    return NodeLink(f"127.0.0.1:{server.port}", keys.private_key(folder, name), root)


def test_a_clock_that_is_off_is_known_to_half_a_second_however_slow_the_answer(folder):
    signer = _Signer(keys.private_key(folder, "north"))
    for skew_s, elapsed_s in ((30.0, 4.0), (-40.0, 0.0)):
        written = datetime.now(UTC) + timedelta(seconds=skew_s - elapsed_s / 2)
        answer = httpx.Response(401, headers={"date": format_datetime(written, usegmt=True)})
        answer.elapsed = timedelta(seconds=elapsed_s)
        assert signer.set_by(answer)
        assert signer.offset_s == pytest.approx(skew_s, abs=0.6)
        assert not signer.set_by(answer), "nothing has changed"


def test_a_registered_node_is_let_in_and_spoken_to(server, folder):
    node = link(server, folder, "north")
    node.activate()
    assert node.node_id == server.north
    line = server.open_line(server.north)
    message_id = line.push(Envelope("ask", b"\0\1"), 60)
    message, asked = node.receive()
    assert asked == Envelope("ask", b"\0\1")
    node.reply(message, Envelope("answer", asked.blob * 2))
    reply = None
    while reply is None:
        reply = line.pull(message_id)
    assert reply == Envelope("answer", b"\0\1\0\1")
    node.activate()  # after it was killed: at once, without waiting to be forgotten
    node.close()
    line.close()


def test_a_node_whose_key_is_not_registered_is_refused(server, folder):
    node = link(server, folder, "stranger")
    with pytest.raises(LinkRefusedError):
        node.activate()


def test_a_node_with_another_authority_does_not_trust_the_server(server, folder, tmp_path):
    keys.make_server_keys(tmp_path, [])
    (folder / "other.pem").write_bytes((tmp_path / keys.AUTHORITY).read_bytes())
    with pytest.raises(LinkError, match="CERTIFICATE_VERIFY_FAILED"):
        link(server, folder, "north", "other.pem").activate()


def test_plain_text_is_refused(server, folder):
    with pytest.raises(LinkError):
        link(server, folder, "north", None).activate()


def test_a_stolen_node_number_is_no_use_without_its_key(server, folder):
    node = link(server, folder, "stranger")
    node.node_id = server.north
    with pytest.raises((LinkRefusedError, LinkError)):
        node.receive()


def test_ten_gigabytes_are_refused_at_the_door(server, folder):
    context = ssl.create_default_context(cafile=str(folder / keys.AUTHORITY))
    for chunked in (False, True):
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wire,
        ):
            length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {10**10}"
            wire.sendall(
                f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n{length}\r\n"
                "Content-Type: application/x-protobuf\r\n\r\n".encode()
            )
            if not chunked:
                assert b" 413 " in wire.recv(1000)
                continue
            piece = b"100000\r\n" + b"\0" * 0x100000 + b"\r\n"
            with contextlib.suppress(OSError):
                for _ in range(64):
                    wire.sendall(piece)
            status = wire.recv(1000).split()[1:2]
            assert not status or status[0].startswith(b"4"), "closed or refused, not taken"


def test_nothing_listens_on_a_public_address_by_default(server):
    listing = subprocess.run(["ss", "-ltn"], capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("ss is not installed")
    local = [line.split()[3] for line in listing.stdout.splitlines()[1:]]
    assert [where for where in local if where.endswith(f":{server.port}")] == [
        f"127.0.0.1:{server.port}"
    ]
    from inspect import signature

    from emsfl.cli.serve import serve

    assert signature(serve).parameters["host"].default == "127.0.0.1"


@pytest.mark.parametrize("command", ["serve", "join"])
def test_without_keys_insecure_has_to_be_typed(command, tmp_path):
    extra = ["--cluster", "Svalbard"] if command == "join" else []
    found = subprocess.run(
        [sys.executable, "-c", "from emsfl.cli import main; main()", command,
         "configs/rehearsal.yaml", *extra],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert found.returncode == 2
    assert "--insecure" in found.stderr


def asked(path, client, body=b"", headers=()):
    """Return the status with which the fence answers; 200 is the application's."""
    import asyncio

    statuses = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    scope = {
        "type": "http", "path": path, "client": (client, 5), "server": ("10.0.0.1", 9),
        "headers": list(headers),
    }  # fmt: skip
    asyncio.run(Fence(app, 1000)(scope, receive, send))
    return statuses[0]


def test_strangers_reach_the_fleet_api_and_nothing_else():
    assert asked("/v1/fleet/pull-messages", "10.0.0.7") == 200
    for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/x", "/docs"):
        assert asked(path, "10.0.0.7") == 403
        assert asked(path, "127.0.0.1") == 200
        assert asked(path, "10.0.0.1") == 200, "the server's own address"
    assert asked("/v1/fleet/x", "10.0.0.7", headers=[(b"content-length", b"1001")]) == 413


def test_keys_are_private_and_never_overwritten(folder):
    path = folder / "north.key"
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="never overwritten"):
        keys.make_node_key(folder, "north")
    path.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        keys.private_key(folder, "north")
    path.chmod(0o600)
    with pytest.raises(UserError, match="no key is registered"):
        keys.public_key(folder, "south")
    (folder / "bad.pub").write_text(json.dumps("no key"))
    with pytest.raises(UserError, match="OpenSSH"):
        keys.public_key(folder, "bad")
