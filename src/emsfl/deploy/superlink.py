"""Flower's SuperLink as a child process, fenced: nodes reach the Fleet API and nothing else.

Run as `python -m emsfl.deploy.superlink PARENT_PID MAX_BODY_BYTES [options of flower-superlink]`.
All of Flower's APIs share one port. This module puts one fence before them: what starts runs,
registers keys and reads results answers only callers on this machine, and no request may be larger
than one part of an update can be. It ends when the process that started it is gone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

OPEN_TO_NODES = ("/v1/fleet/",)


class Fence:
    """ASGI middleware: strangers reach the Fleet API only, and nobody sends too much."""

    def __init__(self, app: Any, max_body_bytes: int) -> None:
        """Guard `app`; a request body may hold `max_body_bytes` at most."""
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403 (not from here) or 413 (too large)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client, server = scope.get("client"), scope.get("server")
        is_local = client is not None and (
            client[0] in ("127.0.0.1", "::1") or (server is not None and client[0] == server[0])
        )
        if not is_local and not scope["path"].startswith(OPEN_TO_NODES):
            await _refuse(send, 403)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_body_bytes:
            await _refuse(send, 413)
            return
        seen = 0

        async def counted() -> dict[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body_bytes:  # a body sent in chunks declares no length
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, counted, send)


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _end_with(parent_pid: int) -> None:
    """End this process as soon as its parent is another one than `parent_pid`."""
    while os.getppid() == parent_pid:
        time.sleep(0.2)
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run a fenced SuperLink until its parent is gone."""
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    parent_pid, max_body_bytes = int(arguments[0]), int(arguments[1])
    threading.Thread(target=_end_with, args=(parent_pid,), daemon=True).start()
    fence = Middleware(Fence, max_body_bytes=max_body_bytes)
    extensions.get_middleware = lambda: (fence,)
    sys.argv = ["flower-superlink", *arguments[2:]]
    flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])
