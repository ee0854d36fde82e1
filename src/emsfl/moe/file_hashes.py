"""Hashes of large files that seldom change: one that was hashed before is not read again."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from emsfl.files import cache_dir, sha256_of, write_json
from emsfl.moe.tensor_files import Progress, blake3_of_file

SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was hashed is hashed again the next time: it could
change once more within one tick of the file system's clock."""


def known_blake3(path: Path, progress: Progress, *, once: bool) -> str:
    """Return the BLAKE3 hash (hex) of a file, from the cache if it is the very file hashed then.

    It counts as the very file if path, inode, size and both times of change, of its content and of
    its entry in the file system, are the same: no program can set the latter. What goes bad on the
    disk itself without being written is not noticed.

    Args:
        path: the file.
        progress: told of all its bytes.
        once: as for `blake3_of_file`.
    """
    start_ns = time.time_ns()
    identity = _identity(path)
    record = cache_dir() / "blake3" / f"{sha256_of(identity['path'])}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none, or not readable
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["identity"] == identity:
            progress(identity["size"])
            return str(known["blake3"])
    found = blake3_of_file(path, progress, once=once)
    changed_ns = max(identity["mtime_ns"], identity["ctime_ns"])
    if changed_ns + SETTLED_NS < start_ns and _identity(path) == identity:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
            write_json(record, {"identity": identity, "blake3": found})
    return found


def _identity(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {
        "path": str(path.resolve()),
        "device": stat.st_dev,
        "inode": stat.st_ino,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }
