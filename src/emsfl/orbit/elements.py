"""Element sets from files: OMM (JSON, CSV, XML), TLE, 3LE and Hypatia's `tles.txt`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from emsfl.errors import DataError
from emsfl.orbit.omm import is_omm, parse_omm
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.tle import parse_tle


def read_elements(path: Path | str) -> list[Satellite]:
    """Read a file of element sets; its format is told from its content.

    Satellites that share a name get their catalogue number behind it.

    Raises:
        DataError: no such file, no elements in it, a malformed line (named by file and line), or
            one satellite given twice.
    """
    path = Path(path)
    text = read_text(path, "elements file")
    satellites = list(parse_omm(path, text) if is_omm(text) else parse_tle(path, text))
    if not satellites:
        raise DataError(f"elements file {path} holds no element sets; expected OMM, TLE or 3LE")
    for number, count in Counter(satellite.number for satellite in satellites).items():
        if count > 1:
            raise DataError(
                f"{path}: satellite {number} is given {count} times; keep one element set of each"
            )
    shared = Counter(satellite.name for satellite in satellites)
    return [
        satellite
        if shared[satellite.name] == 1
        else replace(satellite, name=f"{satellite.name} [{satellite.number}]")
        for satellite in satellites
    ]


def read_text(path: Path, kind: str) -> str:
    """Return the text of a user's file, or raise a DataError that names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{kind} {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{kind} {path} cannot be read: {error}") from None
