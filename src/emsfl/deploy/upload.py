"""One cluster's uploads as they come in: parts on disk, checked one by one, whole at the end.

Nothing is kept in memory but which parts are there. An upload that is cut off, or a server that
is killed, goes on with the parts that the disk holds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from emsfl.deploy.packets import Manifest
from emsfl.errors import UpdateRefusedError
from emsfl.files import atomic_path

MAX_BAD_PARTS = 3
"""Parts or manifests of one upload that may be wrong before the upload is refused."""


class Upload:
    """The answer to one piece of work, on its way up."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        """Keep parts of `part_bytes` in `folder`; nothing is wanted yet."""
        self.folder, self.part_bytes = folder, part_bytes
        self.wanted: str | None = None
        """Id of the work whose answer is on its way up."""
        self.manifest: Manifest | None = None
        """What the node says that it sends."""
        self.refusal: str | None = None
        """Why nothing more is asked for."""
        self.received_bytes = 0
        """Of all uploads in this life of the server."""
        self._have: set[int] = set()
        self.num_bad = 0
        """Parts and manifests of this upload that were wrong."""

    def want(self, work: str | None) -> None:
        """Wait for the answer to `work`, from what is there of it."""
        self.wanted = work
        self.manifest, self._have, self.num_bad, self.refusal = None, set(), 0, None

    def drop_others(self) -> None:
        """Remove what has been merged: the state with it is on disk since the last event."""
        for path in self.folder.glob("*.update*"):
            if not path.name.startswith(f"{self.wanted}-"):
                path.unlink()

    def missing_part(self) -> int | None:
        """Return the number of the part to ask for next."""
        if self.manifest is None:
            return 0
        missing = (k for k in range(self.manifest.num_parts) if k not in self._have)
        return next(missing, None)

    @property
    def is_over(self) -> bool:
        """Whether the answer that is wanted is on disk, or will never be."""
        if self.wanted is None or self.refusal is not None:
            return True
        return self.manifest is not None and self._path(self.manifest).exists()

    def read(self) -> bytes:
        """Return the whole packet."""
        if self.manifest is None:
            raise RuntimeError(f"{self.wanted} has not been uploaded")
        return self._path(self.manifest).read_bytes()

    def take(self, manifest: Manifest, part: Any, blob: bytes, max_bytes: int) -> None:
        """Check one part as it comes, and keep it on disk.

        Args:
            manifest: what the node says that the part is of.
            part: its number, as the node says.
            blob: its bytes.
            max_bytes: what no honest answer exceeds.

        Raises:
            UpdateRefusedError: it is not what was asked for; what there was is forgotten, and
                after the third time `refusal` is set.
        """
        try:
            self._take(manifest, part, blob, max_bytes)
        except UpdateRefusedError as error:
            self.refuse(str(error))
            raise

    def refuse(self, reason: str) -> None:
        """Count something that was wrong."""
        self.num_bad += 1
        self.manifest, self._have = None, set()
        if self.num_bad >= MAX_BAD_PARTS:
            self.refusal = reason

    def _take(self, manifest: Manifest, part: Any, blob: bytes, max_bytes: int) -> None:
        if manifest.work != self.wanted:
            raise UpdateRefusedError(
                f"an answer to {manifest.work}, which is not what was asked for ({self.wanted})"
            )
        if manifest.num_bytes > max_bytes:
            raise UpdateRefusedError(
                f"an upload of {manifest.num_bytes} bytes, where no answer has more than "
                f"{max_bytes}"
            )
        if manifest.part_bytes != self.part_bytes:
            raise UpdateRefusedError(f"parts of {manifest.part_bytes} bytes")
        if self.manifest is not None and manifest != self.manifest:
            raise UpdateRefusedError("its upload changed on the way")
        index = int(part)
        if not 0 <= index < manifest.num_parts or len(blob) != manifest.part_size(index):
            raise UpdateRefusedError(f"part {index} with {len(blob)} bytes was not asked for")
        self._find(manifest)
        if index not in self._have:
            self._keep(manifest, index, blob)

    def _find(self, manifest: Manifest) -> None:
        """Take up an upload where it was left, in an earlier contact or an earlier life."""
        if self.manifest is None:
            self.manifest = manifest
            whole = self._path(manifest).exists()
            self._have = {
                index
                for index in range(manifest.num_parts)
                if whole or self._part_path(manifest, index).exists()
            }

    def _keep(self, manifest: Manifest, index: int, blob: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._part_path(manifest, index)) as temporary:
            temporary.write_bytes(blob)
        self._have.add(index)
        self.received_bytes += len(blob)
        if len(self._have) == manifest.num_parts:
            self._join(manifest)

    def _join(self, manifest: Manifest) -> None:
        parts = [self._part_path(manifest, k) for k in range(manifest.num_parts)]
        digest = hashlib.sha256()
        path = self._path(manifest)
        with atomic_path(path) as temporary, temporary.open("wb") as whole:
            for part_path in parts:
                content = part_path.read_bytes()
                digest.update(content)
                whole.write(content)
        for part_path in parts:
            part_path.unlink()
        if digest.hexdigest() != manifest.sha256:
            path.unlink()
            raise UpdateRefusedError("its upload does not have the hash that it states")

    def _path(self, manifest: Manifest) -> Path:
        return self.folder / f"{manifest.work}-{manifest.sha256[:16]}.update"

    def _part_path(self, manifest: Manifest, index: int) -> Path:
        path = self._path(manifest)
        return path.with_name(f"{path.name}.{index}")
