"""Hashes kept from before: used for the very same file only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from emsfl.moe import file_hashes
from emsfl.moe.file_hashes import known_blake3


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed, in a cache of this test's own."""
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "SETTLED_NS", -1_000_000_000)
    read = []
    whole = file_hashes.blake3_of_file

    def watched(path, progress, *, once):
        read.append(path.name)
        return whole(path, progress, once=once)

    monkeypatch.setattr(file_hashes, "blake3_of_file", watched)
    return read


def ask(path: Path) -> str:
    told: list[int] = []
    found = known_blake3(path, told.append, once=True)
    assert sum(told) == path.stat().st_size
    assert found == blake3(path.read_bytes()).hexdigest()
    return found


def test_an_unchanged_file_is_read_once(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10_000))
    assert ask(path) == ask(path)
    assert hashed == ["a"]


def test_a_file_with_its_old_time_put_back_is_read_again(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    ask(path)
    stat = path.stat()
    path.write_bytes(b"behind")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ask(path)
    other = tmp_path / "b"
    other.write_bytes(b"instead")
    other.replace(path)
    ask(path)
    assert hashed == ["a"] * 3


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "SETTLED_NS", 3_600_000_000_000)
    path = tmp_path / "a"
    path.write_bytes(b"new")
    ask(path)
    ask(path)
    assert hashed == ["a"] * 2


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_error(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"new")
    ask(path)
    for record in (tmp_path / "cache").rglob("*.json"):
        record.write_text("[")
    ask(path)
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(path))
    ask(path)
    assert hashed == ["a"] * 3
