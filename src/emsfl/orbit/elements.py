"""Element sets: read them from files, check them, and name their satellites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sgp4.api import SGP4_ERRORS, WGS72, Satrec
from sgp4.conveniences import sat_epoch_datetime

from emsfl.errors import DataError
from emsfl.files import sha256_of


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite and its SGP4 element set."""

    name: str
    """Stripped name, or the catalogue number where there is none."""
    number: int
    """Catalogue number; above 99,999 only in OMM and Alpha-5."""
    satrec: Satrec

    @property
    def epoch(self) -> datetime:
        """UTC time at which the elements hold."""
        epoch: datetime = sat_epoch_datetime(self.satrec)
        return epoch.astimezone(UTC)


def elements_hash(satellites: Sequence[Satellite]) -> str:
    """Return the SHA-256 (hex) of all names and elements."""
    return sha256_of([[s.name, *(getattr(s.satrec, key) for key in _ELEMENTS)] for s in satellites])


def days_since_1950(epoch: datetime) -> float:
    """Return `epoch` as `sgp4init` wants it: days since 1949-12-31T00:00Z."""
    return (epoch - datetime(1949, 12, 31, tzinfo=UTC)) / timedelta(days=1)


_ELEMENTS = [
    "satnum",
    "jdsatepoch",
    "jdsatepochF",
    "bstar",
    "ndot",
    "nddot",
    "ecco",
    "argpo",
    "inclo",
    "mo",
    "no_kozai",
    "nodeo",
]


def read_elements(path: Path | str) -> list[Satellite]:
    """Read a file of element sets: two-line (TLE) or three-line (3LE), Alpha-5 numbers included.

    Raises:
        DataError: no such file, no elements in it, or a malformed line (named by file and line).
    """
    path = Path(path)
    text = read_text(path, "elements file")
    satellites = _read_tle(path, text)
    if not satellites:
        raise DataError(f"elements file {path} holds no element sets; expected TLE or 3LE lines")
    return _with_unique_names(path, satellites)


def read_text(path: Path, kind: str) -> str:
    """Return the text of a user's file, or raise a DataError that names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{kind} {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{kind} {path} cannot be read: {error}") from None


def _read_tle(path: Path, text: str) -> list[Satellite]:
    satellites: list[Satellite] = []
    name = ""
    first: tuple[int, str] | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.rstrip()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if first is None:
            if line.startswith("1 ") and len(line) >= 60:
                first = (number, line)
            elif line.startswith("2 ") and len(line) >= 60:
                raise DataError(f"{path}:{number}: line 2 of an element set without its line 1")
            elif name:
                raise DataError(
                    f"{path}:{number}: expected line 1 of the elements of {name!r}, got {line!r}"
                )
            else:
                name = line.removeprefix("0 ").strip()
            continue
        if not line.startswith("2 "):
            raise DataError(
                f"{path}:{number}: expected line 2 of the element set that starts on line "
                f"{first[0]}, got {line[:40]!r}"
            )
        satellites.append(_from_tle(path, name, first, (number, line)))
        name, first = "", None
    if first is not None or name:
        raise DataError(f"{path}: the file ends in the middle of an element set ({name or first})")
    return satellites


def _from_tle(path: Path, name: str, first: tuple[int, str], second: tuple[int, str]) -> Satellite:
    for number, line in (first, second):
        if len(line) != 69:
            raise DataError(f"{path}:{number}: {len(line)} characters; a TLE line has 69")
        digits = sum(int(c) if c.isdigit() else c == "-" for c in line[:68])
        if line[68] != str(digits % 10):
            raise DataError(
                f"{path}:{number}: checksum {line[68]!r} should be {digits % 10}; "
                "the line is damaged"
            )
    if first[1][2:7] != second[1][2:7]:
        raise DataError(
            f"{path}:{second[0]}: catalogue number {second[1][2:7]!r} differs from line 1's "
            f"{first[1][2:7]!r}"
        )
    try:
        satrec = Satrec.twoline2rv(first[1], second[1], WGS72)
    except ValueError as error:
        raise DataError(f"{path}:{first[0]}: the element set does not parse: {error}") from None
    if satrec.error:
        raise DataError(
            f"{path}:{first[0]}: SGP4 refuses the elements: {SGP4_ERRORS[satrec.error]}"
        )
    return Satellite(name=name or str(satrec.satnum), number=satrec.satnum, satrec=satrec)


def _with_unique_names(path: Path, satellites: list[Satellite]) -> list[Satellite]:
    """Tell satellites of one name apart by their numbers; refuse a satellite given twice."""
    counts: dict[str, int] = {}
    for satellite in satellites:
        counts[satellite.name] = counts.get(satellite.name, 0) + 1
    unique = [
        satellite
        if counts[satellite.name] == 1
        else Satellite(f"{satellite.name} [{satellite.number}]", satellite.number, satellite.satrec)
        for satellite in satellites
    ]
    seen: set[str] = set()
    for satellite in unique:
        if satellite.name in seen:
            raise DataError(
                f"{path}: satellite {satellite.name!r} is given twice; keep one element set each"
            )
        seen.add(satellite.name)
    return unique
