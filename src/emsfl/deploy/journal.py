"""What a node keeps on disk: orders, parcels, its cluster's state, and its answers.

Everything is written before it is confirmed, each file at once or not at all. A node that is
killed at any moment goes on from here and repeats nothing that anybody has seen.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.deploy.packets import Manifest, from_packet, manifest_of, to_packet
from emsfl.errors import UpdateRefusedError
from emsfl.files import atomic_path, write_json
from emsfl.methods import Work, pack, unpack
from emsfl.results import read_checkpoint, write_checkpoint


@dataclass
class Journal:
    """The folder of one session of one node."""

    folder: Path
    part_bytes: int
    """Of the messages in which answers are sent."""

    # --- orders -----------------------------------------------------------------------------------

    def read_orders(self) -> list[list[Any]]:
        """Return the orders that have come and may not have been carried out."""
        path = self.folder / "orders.json"
        if not path.exists():
            return []
        orders: list[list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        return orders

    def write_orders(self, orders: list[list[Any]]) -> None:
        """Keep `orders`: [number, name, argument] each."""
        write_json(self.folder / "orders.json", orders)

    # --- state ------------------------------------------------------------------------------------

    def read_state(self) -> dict[str, Any] | None:
        """Return what `write_state` was given last."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return None
        arrays, note = read_checkpoint(path)
        state: dict[str, Any] = unpack(arrays, note["state"])
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Keep the state of the cluster and the number of the last order carried out.

        All of it is written anew and synced: own values and optimiser state of every device, after
        each order and after each 10 s (free-running: 0.5 s) of training.

        Raises:
            OSError: the disk takes no more; what was kept before is still there.
        """
        arrays, note = pack(state)
        write_checkpoint(self.folder / "state.safetensors", arrays, {"state": note})

    # --- parcels ----------------------------------------------------------------------------------

    def take_part(self, manifest: Manifest, index: int, blob: bytes) -> list[int]:
        """Keep one part of a parcel; return those that are there, all of them once it is whole."""
        path = self._inbox(manifest.work)
        if path.exists():
            return list(range(manifest.num_parts))
        parts = [path.with_name(f"{path.name}.{k}") for k in range(manifest.num_parts)]
        if 0 <= index < manifest.num_parts and len(blob) == manifest.part_size(index):
            with atomic_path(parts[index]) as temporary:
                temporary.write_bytes(blob)
        have = [k for k, part in enumerate(parts) if part.exists()]
        if len(have) < manifest.num_parts:
            return have
        packet = b"".join(part.read_bytes() for part in parts)
        whole = hashlib.sha256(packet).hexdigest() == manifest.sha256
        if whole:
            with atomic_path(path) as temporary:
                temporary.write_bytes(packet)
        for part in parts:
            part.unlink()
        return have if whole else []

    def read_parcel(self, work: str) -> Work | None:
        """Return a parcel's work, None while it is not whole."""
        path = self._inbox(work)
        if not path.exists():
            return None
        found = from_packet(path.read_bytes())
        if not isinstance(found, Work):
            raise UpdateRefusedError(f"parcel {work} holds no work")
        return found

    # --- answers ----------------------------------------------------------------------------------

    def write_answer(self, work: str, tree: dict[str, Any]) -> None:
        """Keep the answer to `work`."""
        packet = to_packet(tree)
        with atomic_path(self._outbox(work)) as temporary:
            temporary.write_bytes(packet)
        manifest = manifest_of(work, packet, tree["update"].num_bytes(), self.part_bytes)
        write_json(self._outbox(work).with_suffix(".json"), manifest.as_json())

    def read_answer(self, work: str) -> Manifest | None:
        """Return what the answer to `work` is, None while there is none."""
        path = self._outbox(work).with_suffix(".json")
        if not path.exists():
            return None
        return Manifest.read(json.loads(path.read_text(encoding="utf-8")))

    def read_answer_tree(self, work: str) -> Any:
        """Return what `write_answer` was given for `work`, None where it has not ended."""
        if self.read_answer(work) is None:
            return None
        return from_packet(self._outbox(work).read_bytes())

    def read_part(self, work: str, index: int) -> bytes:
        """Return one part of an answer."""
        with self._outbox(work).open("rb") as file:
            file.seek(index * self.part_bytes)
            return file.read(self.part_bytes)

    def forget(self, work: str) -> None:
        """Remove the parcels and answers of everything but `work` and its answer."""
        for folder, kept in ((self._inbox(work).parent, work), (self._outbox(work).parent, work)):
            for path in folder.glob("*"):
                if not path.name.startswith(f"{kept}.") and not path.name.startswith("."):
                    path.unlink()

    def _inbox(self, work: str) -> Path:
        return self._file("inbox", work)

    def _outbox(self, work: str) -> Path:
        return self._file("outbox", work)

    def _file(self, box: str, work: str) -> Path:
        if "/" in work or work.startswith("."):
            raise UpdateRefusedError(f"{work!r} is no id of work")
        folder = self.folder / box
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{work}.safetensors"


def forget_sessions(folder: Path, kept: str) -> None:
    """Remove the journals of all sessions but `kept`."""
    for path in folder.glob("*"):
        if path.is_dir() and path.name != kept:
            shutil.rmtree(path)
