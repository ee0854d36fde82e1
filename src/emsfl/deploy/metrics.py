"""Prometheus metrics of a deployment, served on this machine from the status file."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from emsfl.deploy.notes import Notes
from emsfl.deploy.status import Status
from emsfl.errors import RunFolderError, UserError


def metrics_text(status: Status, notes: Notes | None = None) -> str:
    """Return `status`, and how often each event was noted, in Prometheus' text format."""
    lines = []

    def gauge(name: str, text: str, values: list[tuple[str, float | None]]) -> None:
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.extend([f"# HELP emsfl_{name} {text}", f"# TYPE emsfl_{name} {kind}"])
        lines.extend(
            f"emsfl_{name}{label} {value:g}" for label, value in values if value is not None
        )

    nodes = [(f'{{cluster="{node.name}"}}', node) for node in status.nodes]
    gauge("virtual_time_seconds", "Time of the last event since the epoch.", [("", status.time_s)])
    gauge("version", "How many times the model has changed.", [("", status.version)])
    gauge("refused_total", "Updates that were refused.", [("", status.num_refused)])
    gauge("accuracy", "Of the merged model, as last judged.", [("", status.accuracy)])
    gauge("in_contact", "1 in a contact.", [(label, n.in_contact) for label, n in nodes])
    gauge("next_contact_seconds", "Time of the next contact since the epoch.",
          [(label, n.next_contact_s) for label, n in nodes])  # fmt: skip
    gauge("uploaded_bytes_total", "Received from a cluster.",
          [(label, n.uploaded_bytes) for label, n in nodes])  # fmt: skip
    gauge("downloaded_bytes_total", "Received by a cluster.",
          [(label, n.downloaded_bytes) for label, n in nodes])  # fmt: skip
    gauge("loss", "Last training loss of a cluster.", [(label, n.loss) for label, n in nodes])
    if notes is not None:
        events = [(f'{{event="{event}"}}', n) for event, n in sorted(notes.counts.items())]
        gauge("events_total", "Lines of the structured log.", events)  # type: ignore[arg-type]
    return "\n".join(lines) + "\n"


def serve_metrics(folder: Path, port: int, notes: Notes) -> ThreadingHTTPServer:
    """Serve `/metrics` on 127.0.0.1:`port` until the server that is returned is shut down.

    Raises:
        UserError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                body = metrics_text(Status.read(folder), notes).encode()
            except RunFolderError:
                body = b""
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body if self.path == "/metrics" else b"")

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"metrics cannot be served on port {port}: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
