"""Structured logs: one JSON object per line, on stderr or in a file."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WARNINGS = frozenset(
    {
        "bad_reply", "clock_corrected", "link_down", "node_error", "refused", "refused_by_server",
        "superlink_died", "superlink_does_not_start", "trouble", "upload_refused",
    }
)  # fmt: skip
"""Events that somebody should look at."""


class Notes:
    """Takes what happens, from any thread."""

    def __init__(self, path: Path | None) -> None:
        """Append to `path`, or to stderr."""
        self._file = path.open("a", encoding="utf-8") if path else sys.stderr
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        """How often each event has happened."""

    def __call__(self, event: str, **details: Any) -> None:
        """Write one line; a log that cannot be written stops nobody."""
        level = "warning" if event in WARNINGS else "info"
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            **details,
        }
        with self._lock:
            self.counts[event] += 1
            try:
                self._file.write(json.dumps(line, default=str) + "\n")
                self._file.flush()
            except OSError:
                self.counts["log_lost"] += 1
