"""Where a deployment is: one small file that the server keeps up to date, and its reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from emsfl.errors import RunFolderError
from emsfl.files import write_json

FILE_NAME = "status.json"


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One cluster as the server sees it."""

    name: str
    phase: str
    """waiting, working, uploading or downloading."""
    work: str
    """Id of its last piece of work."""
    based_on: int | None
    """The server's version that it trains on."""
    next_contact_s: float | None
    """Virtual time; None: never again."""
    in_contact: bool
    uploaded_bytes: int
    downloaded_bytes: int
    loss: float | None
    """Mean training loss of its last piece of training."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A deployment at one moment."""

    session: str
    """Method and seed that run now."""
    time_s: float
    """Virtual time of the last event."""
    duration_s: float
    next_event_s: float
    """Virtual time of the next event."""
    version: int
    num_refused: int
    finished: bool
    accuracy: float | None
    nodes: list[NodeStatus] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write it into the run folder, at once or not at all."""
        write_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Status:
        """Read what `write` wrote.

        Raises:
            RunFolderError: nobody serves from there.
        """
        path = folder / FILE_NAME
        try:
            return _STATUS.validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunFolderError(
                f"{path} does not exist; name the run folder of an 'emsfl serve'"
            ) from None
        except (OSError, ValidationError) as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from None


_STATUS = TypeAdapter(Status)
