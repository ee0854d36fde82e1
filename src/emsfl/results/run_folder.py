"""The run folder: the one place where everything that happened in a run lands."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pydantic import ValidationError

from emsfl.errors import RunFolderError
from emsfl.files import write_json, write_text
from emsfl.results.schema import SCHEMA_VERSION, RunResult


class RunFolder:
    """A folder with `config.yaml`, `plan/`, `events.jsonl`, `checkpoints/`, `result.json`.

    Make one with `create` (a new run) or `open` (a run that exists).
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; `create` and `open` check it."""
        self.path = path

    @classmethod
    def create(cls, path: Path | str, config_yaml_text: str) -> RunFolder:
        """Make the folder at once and write the resolved config into it.

        Raises:
            RunFolderError: `path` holds a run, or anything else, or cannot be written.
        """
        folder = cls(Path(path))
        if folder.config_path.is_file():
            raise RunFolderError(
                f"{path} already holds a run; continue it with 'emsfl resume {path}', "
                "or choose another --out"
            )
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            # A run killed while it wrote its first file leaves a temporary file, and nothing else.
            if any(not _is_leftover(entry) for entry in folder.path.iterdir()):
                raise RunFolderError(f"{path} is not empty and holds no run; choose another --out")
            write_text(folder.config_path, config_yaml_text)
        except OSError as error:
            raise RunFolderError(
                f"run folder {path} cannot be made: {error.strerror or error}; choose another --out"
            ) from None
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open a run, finished or not.

        Raises:
            RunFolderError: `path` does not exist, or is a folder without `config.yaml`.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise RunFolderError(f"run folder {path} does not exist; check the path")
        if not folder.config_path.is_file():
            raise RunFolderError(
                f"{path} is not a run folder (it has no config.yaml); name the --out of a run"
            )
        return folder

    @property
    def config_path(self) -> Path:
        """The resolved config; what makes a folder a run."""
        return self.path / "config.yaml"

    @property
    def plan_path(self) -> Path:
        """The folder of the contact plan."""
        return self.path / "plan"

    @property
    def events_path(self) -> Path:
        """One JSON object per line."""
        return self.path / "events.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of the checkpoints; `read_checkpoint` and `write_checkpoint` serve it."""
        return self.path / "checkpoints"

    def split_path(self, seed: int) -> Path:
        """Return where it stands who held what in the repetition with this seed."""
        return self.path / "split" / f"seed{seed}.npz"

    @property
    def result_path(self) -> Path:
        """The result; it exists once the run is finished."""
        return self.path / "result.json"

    @property
    def report_path(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def config_text(self) -> str:
        """Return the resolved config as the run wrote it (YAML)."""
        return self.config_path.read_text(encoding="utf-8")

    def open_events(self) -> EventLog:
        """Open `events.jsonl` for appending, made if it is not there."""
        return EventLog(self.events_path)

    def write_result(self, result: RunResult) -> None:
        """Write `result.json`, atomically; equal results give equal bytes."""
        write_json(self.result_path, result.model_dump(mode="json"))

    def read_result(self) -> RunResult:
        """Read `result.json`.

        Raises:
            RunFolderError: the run is not finished, or its result is of a newer schema or damaged.
        """
        try:
            tree = json.loads(self.result_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                f"run {self.path} has no result.json yet; finish it with 'emsfl resume {self.path}'"
            ) from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.result_path} cannot be read: {error}") from None
        version = tree.get("schema_version") if isinstance(tree, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise RunFolderError(f"{self.result_path} is not a result: it has no schema_version")
        if version > SCHEMA_VERSION:
            raise RunFolderError(
                f"{self.result_path} has schema_version {version}, newer than the {SCHEMA_VERSION} "
                "that this emsfl knows; update emsfl"
            )
        try:
            return RunResult.model_validate(tree)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunFolderError(
                f"{self.result_path} does not follow schema_version {version}: "
                f"{where}: {first['msg']}"
            ) from None


class EventLog:
    """An append-only file of JSON lines that a resumed run can cut back to its checkpoint.

    Every line is handed to the operating system at once, so a killed process loses no event; a
    checkpoint stores `offset()`, and the run that resumes from it calls `truncate` with it.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for appending."""
        self.path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def append(self, event: Mapping[str, Any]) -> None:
        """Write one event, keys in the order given; NaN and infinity are refused (ValueError)."""
        line = json.dumps(event, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")

    def offset(self) -> int:
        """Return the length of the log in bytes, once that much is safely on disk."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, offset: int) -> None:
        """Drop everything after `offset`, which an earlier `offset()` returned.

        Raises:
            RunFolderError: the file is shorter than `offset`: events that a checkpoint counts on
                are gone.
        """
        size = os.fstat(self._file.fileno()).st_size
        if offset > size:
            raise RunFolderError(
                f"{self.path} has {size} bytes, but its checkpoint counts on {offset}; "
                "start the run again in another folder"
            )
        self._file.truncate(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_leftover(entry: Path) -> bool:
    return entry.name.startswith(".config.yaml.") and entry.suffix == ".part"
