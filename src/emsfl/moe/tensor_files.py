"""Read and write safetensors files as byte ranges, so that no tensor needs to fit in memory.

The format (8 bytes of header length, a JSON header, the tensors' bytes) is described at
https://github.com/huggingface/safetensors. Files are never mapped, so that the resident memory
stays at one buffer whatever the file's size.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from blake3 import blake3

from emsfl.errors import DataError
from emsfl.files import atomic_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK_BYTES = 1 << 22
"""Bytes that are held at a time while copying: few enough to stay in a processor's cache while they
are read, hashed and written."""
BLOCK_BYTES = 4096
"""Direct reads and writes begin at multiples of this, in the file and in memory."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Progress = Callable[[int], None]
"""Called with the number of bytes that have been handled since the last call."""

Watcher = Callable[[int, memoryview], None]
"""Called with every chunk of a file that is read, and the chunk's offset in the file."""


class ByteRange(NamedTuple):
    """Bytes in a file."""

    path: Path
    start: int
    num_bytes: int
    watcher: Watcher | None = None

    def read(self, buffer: memoryview | None = None) -> Iterator[memoryview]:
        """Yield the bytes in chunks as long as `buffer` (`CHUNK_BYTES`), the last one shorter.

        Each chunk lies in the buffer: it is valid until the next one is asked for.
        """
        if buffer is None:
            buffer = memoryview(bytearray(min(self.num_bytes, CHUNK_BYTES)))
        handle = os.open(self.path, os.O_RDONLY)
        try:
            start, end = self.start, self.start + self.num_bytes
            while start < end:
                filled = 0
                chunk = buffer[: end - start]
                while filled < len(chunk):
                    count = os.preadv(handle, [chunk[filled:]], start + filled)
                    if not count:
                        raise DataError(f"{self.path} ends at byte {start + filled}, before {end}")
                    filled += count
                if self.watcher is not None:
                    self.watcher(start, chunk)
                yield chunk
                start += filled
        finally:
            os.close(handle)

    def read_once(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes in chunks, past the page cache where the system can do that.

        For bytes that are not read again soon: of a large file, making room in the page cache and
        copying out of it take as long as hashing.

        Args:
            buffer: from `aligned_buffer`; each chunk is valid until the next one is asked for.
        """
        handle = _open_direct(self.path, os.O_RDONLY)
        try:
            start, end = self.start, self.start + self.num_bytes
            while start < end:
                skipped = start % BLOCK_BYTES
                wanted = -(-(skipped + end - start) // BLOCK_BYTES) * BLOCK_BYTES
                filled = os.preadv(handle, [buffer[:wanted]], start - skipped)
                chunk = buffer[skipped : min(filled, skipped + end - start)]
                if not chunk:
                    raise DataError(f"{self.path} ends at byte {start}, before {end}")
                if self.watcher is not None:
                    self.watcher(start, chunk)
                yield chunk
                start += len(chunk)
        finally:
            os.close(handle)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in one safetensors file."""

    name: str
    path: Path
    dtype: str
    """As the format names it, such as `BF16`."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    num_bytes: int
    watcher: Watcher | None = None
    """Told of what is read."""

    @property
    def bytes_range(self) -> ByteRange:
        """Where its bytes are."""
        return ByteRange(self.path, self.start, self.num_bytes, self.watcher)

    def whole(self) -> list[ByteRange]:
        """Return its bytes as the pieces of a `NewTensor`."""
        return [self.bytes_range]

    def unchanged(self) -> NewTensor:
        """Return the same tensor for another file."""
        return NewTensor(name=self.name, dtype=self.dtype, shape=self.shape, pieces=self.whole)

    def part(self, start: int, num_bytes: int) -> ByteRange:
        """Return where some of its bytes are; `start` counts from its first one."""
        return ByteRange(self.path, self.start + start, num_bytes, self.watcher)


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """One tensor of a file to be written; `pieces` yields exactly its bytes, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[ByteRange | Buffer]]

    @property
    def num_bytes(self) -> int:
        """Size without the header."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> tuple[bytes, dict[str, StoredTensor]]:
    """Return the raw header (length included) and the tensors in the order of their bytes.

    Raises:
        DataError: the file is missing, is no safetensors file, or is shorter or longer than its
            header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise DataError(f"{path} is no safetensors file, or its header is cut off")
            text = file.read(length)
    except FileNotFoundError:
        raise DataError(f"tensor file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"tensor file {path} cannot be read: {error.strerror}") from None
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = [_stored(path, 8 + length, name, entry) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} has a header that is not safetensors: fetch it again") from None
    tensors.sort(key=lambda tensor: (tensor.start, tensor.num_bytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise DataError(f"{path}: tensor {tensor.name} overlaps another or leaves a hole")
        end += tensor.num_bytes
    if end != size:
        raise DataError(
            f"{path} has {size} bytes where its header says {end}: it is damaged or cut off; "
            "fetch it again"
        )
    return first + text, {tensor.name: tensor for tensor in tensors}


def _stored(path: Path, data_start: int, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    dtype = entry["dtype"]
    if dtype not in DTYPES:
        raise DataError(
            f"{path}: tensor {name} has dtype {dtype}, which is not supported; "
            f"use one of {', '.join(DTYPES)}"
        )
    if end - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise DataError(f"{path}: tensor {name} {list(shape)} does not fit its {end - start} bytes")
    return StoredTensor(
        name=name,
        path=path,
        dtype=dtype,
        shape=shape,
        start=data_start + start,
        num_bytes=end - start,
    )


def aligned_buffer() -> memoryview:
    """Return memory for direct reads: a chunk, and what comes before it in its first block."""
    return memoryview(mmap.mmap(-1, CHUNK_BYTES + BLOCK_BYTES))


def blake3_of_file(
    path: Path, progress: Progress = lambda _count: None, *, once: bool = False
) -> str:
    """Return the BLAKE3 hash (hex) of a file's bytes.

    Args:
        path: the file.
        progress: told of all bytes read.
        once: whether the bytes are not read again soon; then they stay out of the page cache.
    """
    digest = blake3()
    whole = ByteRange(path, 0, path.stat().st_size)
    for chunk in whole.read_once(aligned_buffer()) if once else whole.read():
        digest.update(chunk)
        progress(len(chunk))
    return digest.hexdigest()


def new_header(tensors: Sequence[NewTensor]) -> bytes:
    """Return the header (length included) of a file that holds `tensors` in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_file(path: Path, header: bytes, tensors: Sequence[NewTensor], progress: Progress) -> str:
    """Write a safetensors file atomically, piece by piece, and return its BLAKE3 hash (hex).

    Args:
        path: where to; it appears only when it is whole and on disk.
        header: as `new_header` or `read_header` gives it, for these tensors in this order.
        tensors: what to write.
        progress: told of all bytes written.
    """
    with atomic_path(path) as temporary, _Sink(temporary, progress) as sink:
        sink.take(header)
        end = len(header)
        for tensor in tensors:
            for piece in tensor.pieces():
                if isinstance(piece, ByteRange):
                    sink.take_range(piece)
                else:
                    sink.take(piece)
            end += tensor.num_bytes
            assert sink.num_taken == end, tensor.name
        sink.finish()
    return sink.digest.hexdigest()


class _Sink:
    """Gathers bytes into chunks; a thread hashes and writes each while the next one is gathered.

    Chunks go to the disk directly where the system can do that: files larger than memory would
    push everything else out of its page cache, and making room there takes longer than hashing.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.digest = blake3()
        self.num_taken = 0
        self._progress = progress
        self._read_buffer = aligned_buffer()
        self._buffer, self._spare = (aligned_buffer()[:CHUNK_BYTES] for _ in range(2))
        self._filled = 0
        self._file = _open_direct(path, os.O_WRONLY)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] = self._thread.submit(lambda: None)

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        os.close(self._file)

    def take_range(self, piece: ByteRange) -> None:
        """Append bytes of a file; what is watched is taken to be read once."""
        if piece.watcher is not None:
            for chunk in piece.read_once(self._read_buffer):
                self.take(chunk)
            return
        done = 0
        while done < piece.num_bytes:
            room = self._buffer[self._filled : self._filled + piece.num_bytes - done]
            part = ByteRange(piece.path, piece.start + done, len(room))
            for chunk in part.read(room):
                self._count(len(chunk))
            done += len(room)

    def take(self, piece: Buffer) -> None:
        """Append bytes in memory."""
        rest = memoryview(piece).cast("B")
        while rest:
            head = rest[: CHUNK_BYTES - self._filled]
            self._buffer[self._filled : self._filled + len(head)] = head
            self._count(len(head))
            rest = rest[len(head) :]

    def finish(self) -> None:
        """Write what is left: no whole chunk, so not directly."""
        self._writing.result()
        if hasattr(os, "O_DIRECT"):
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._hash_and_write(self._buffer[: self._filled])

    def _count(self, count: int) -> None:
        self._filled += count
        self.num_taken += count
        if self._filled == CHUNK_BYTES:
            self._writing.result()
            self._writing = self._thread.submit(self._hash_and_write, self._buffer)
            self._buffer, self._spare, self._filled = self._spare, self._buffer, 0

    def _hash_and_write(self, view: memoryview) -> None:
        self.digest.update(view)
        while view:
            written = os.write(self._file, view)
            view = view[written:]
            self._progress(written)


def _open_direct(path: Path, flags: int) -> int:
    """Open a file past the page cache; through it where that cannot be had."""
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0))
    except OSError:
        return os.open(path, flags)
