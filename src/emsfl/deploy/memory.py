"""Keep a server that runs for weeks small: what it has freed goes back to the system."""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD_BYTES = 256 * 1024
"""Blocks from this size on get pages of their own, which go back when the block is freed."""

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def return_freed_memory() -> None:
    """Let tensors that are freed leave this process; nothing happens where libc is not glibc.

    glibc raises its threshold whenever a large block is freed, up to 32 MiB, and keeps smaller
    ones in a heap that seldom shrinks: every update would leave holes behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 2)
