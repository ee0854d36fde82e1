"""What travels: trees of tensors and plain values as safetensors, cut into parts with hashes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from emsfl.errors import UpdateRefusedError
from emsfl.methods import pack, unpack

_META_KEY = "emsfl"


@dataclass(frozen=True)
class Manifest:
    """What a packet is: enough to ask for its parts and to know that it is whole."""

    work: str
    """Id of the piece of work that it belongs to."""
    num_bytes: int
    sha256: str
    payload_bytes: int
    """Of the tensors in it: what the plan and the ledger count."""
    part_bytes: int
    """Of one message. A cut link loses one part; the rest goes on where it stopped."""

    @property
    def num_parts(self) -> int:
        """How many messages it takes."""
        return max(1, -(-self.num_bytes // self.part_bytes))

    def part_size(self, index: int) -> int:
        """Return the bytes of one part."""
        return min(self.part_bytes, self.num_bytes - index * self.part_bytes)

    def as_json(self) -> dict[str, Any]:
        """Return what `read` takes."""
        return asdict(self)

    @classmethod
    def read(cls, tree: Any) -> Manifest:
        """Read a manifest that has come over the link.

        Raises:
            UpdateRefusedError: it is none.
        """
        try:
            manifest = cls(
                str(tree["work"]),
                int(tree["num_bytes"]),
                str(tree["sha256"]),
                int(tree["payload_bytes"]),
                int(tree["part_bytes"]),
            )
        except (KeyError, TypeError, ValueError):
            raise UpdateRefusedError("what came is no manifest") from None
        if not (0 <= manifest.payload_bytes <= manifest.num_bytes and manifest.part_bytes > 0):
            raise UpdateRefusedError("a manifest whose sizes cannot be")
        if not re.fullmatch(r"[0-9a-f]{64}", manifest.sha256):
            raise UpdateRefusedError("a manifest without a hash")
        return manifest


def manifest_of(work: str, packet: bytes, payload_bytes: int, part_bytes: int) -> Manifest:
    """Return the manifest of a packet."""
    digest = hashlib.sha256(packet).hexdigest()
    return Manifest(work, len(packet), digest, payload_bytes, part_bytes)


def to_packet(tree: Any) -> bytes:
    """Return one safetensors file that holds `tree`; equal trees give equal bytes."""
    arrays, note = pack(tree)
    return save(arrays, metadata={_META_KEY: json.dumps(note)})


def from_packet(packet: bytes) -> Any:
    """Return the tree that `to_packet` was given; nothing in a packet is ever executed.

    Raises:
        UpdateRefusedError: the bytes are no packet.
    """
    try:
        length = int.from_bytes(packet[:8], "little")
        note = json.loads(packet[8 : 8 + length])["__metadata__"][_META_KEY]
        return unpack(load(packet), json.loads(note))
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UpdateRefusedError(
            f"what came cannot be read: {type(error).__name__}: {error}"
        ) from None
