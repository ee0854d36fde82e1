"""Atomic writes and content hashes: a file is either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from emsfl.errors import RunFolderError


def cache_dir() -> Path:
    """Return the folder for what can be made again: `EMSFL_CACHE_DIR`, or the user's cache."""
    chosen = os.environ.get("EMSFL_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("emsfl")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed onto `path`.

    Nothing is left behind when the body raises. A killed process leaves `path` as it was, and at
    most a hidden `.part` file beside it. A link stays a link: the file behind it is replaced. What
    is no file (`/dev/null`, `/dev/stdout`, a pipe) is written to, not replaced.
    """
    target = Path(path)
    if target.is_char_device() or target.is_fifo():
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / target.name
            yield temporary
            with target.open("wb") as stream:
                stream.write(temporary.read_bytes())
        return
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends in any way.

    Raises:
        RunFolderError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(folder / ".lock").acquire(blocking=False)
    except filelock.Timeout:
        raise RunFolderError(
            f"{folder} is in use by another process; wait for that one, or stop it"
        ) from None
    with held:
        yield


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def canonical_json(value: Any) -> str:
    """Return the one JSON text that equal values share: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(*parts: Any) -> str:
    """Return the SHA-256 (hex) of the parts: bytes, numpy arrays, or JSON-able values.

    An array counts with its dtype and shape, so equal bytes of another shape differ; so do equal
    bytes cut into other parts.

    Raises:
        TypeError: a part without stable bytes, such as an array of objects.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            if part.dtype.hasobject:
                raise TypeError("an array of objects has no stable bytes to hash")
            kind = f"array {part.dtype.str} {part.shape}"
            content = np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            kind, content = "bytes", part
        else:
            kind, content = "json", canonical_json(part).encode()
        digest.update(f"{kind} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a small file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
