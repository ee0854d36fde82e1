"""Two-line and three-line element sets (TLE, 3LE), Alpha-5 catalogue numbers included.

Source: D. A. Vallado and P. J. Cefola, "Two-Line Element Sets: Practice and Use", IAC-12-A6.6.11;
column layout of each line as in the expressions below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sgp4.api import SGP4_ERRORS, WGS72, Satrec

from emsfl.errors import DataError
from emsfl.orbit.satellite import Satellite

# SGP4's own reader takes any text for a number; the columns are checked here.
_LINE_1 = re.compile(
    r"1 [ \dA-Z][ \d]{3}\d[A-Z ] .{8} \d\d[ \d]{2}\d\.[\d ]{8} [ +\-]\.[\d ]{8} "
    r"[ +\-][\d ]{5}[ +\-][\d ] [ +\-][\d ]{5}[ +\-][\d ] [\d ] [ \d]{4}\d"
)
_LINE_2 = re.compile(
    r"2 [ \dA-Z][ \d]{3}\d [ \d]{2}\d\.\d{4} [ \d]{2}\d\.\d{4} [ \d]{7} "
    r"[ \d]{2}\d\.\d{4} [ \d]{2}\d\.\d{4} [ \d]\d\.\d{8}[ \d]{5}\d"
)
_LENGTH = 69


def parse_tle(path: Path, text: str) -> Iterator[Satellite]:
    """Yield the satellites of TLE or 3LE text; `path` is for messages.

    A first line of two counts, as in Hypatia's `tles.txt`, is passed over.

    Raises:
        DataError: a malformed line, named by file and line.
    """
    lines = [
        (number, line.rstrip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if len(lines) > 1 and re.fullmatch(r"\d+ \d+", lines[0][1]) and not _is_line(lines[1][1], "1"):
        lines = lines[1:]
    at = 0
    while at < len(lines):
        name = ""
        if not _is_line(lines[at][1], "1"):
            name = lines[at][1].removeprefix("0 ").strip()
            if _is_line(lines[at][1], "2"):
                raise DataError(f"{path}:{lines[at][0]}: line 2 of an element set without line 1")
            at += 1
        pair = lines[at : at + 2]
        for expected, (number, line) in zip("12", pair, strict=False):
            if not _is_line(line, expected):
                owner = f" of {name!r}" if name else ""
                raise DataError(
                    f"{path}:{number}: expected line {expected} of the elements{owner}, "
                    f"got {line[:40]!r}"
                )
        if len(pair) < 2:
            raise DataError(f"{path}:{lines[-1][0]}: the file ends in the middle of an element set")
        yield _satellite(path, name, *pair)
        at += 2


def _is_line(line: str, which: str) -> bool:
    """Tell elements from a name: a name has at most 24 characters."""
    return line.startswith(which + " ") and len(line) > 40


def _satellite(path: Path, name: str, first: tuple[int, str], second: tuple[int, str]) -> Satellite:
    for (number, line), layout in ((first, _LINE_1), (second, _LINE_2)):
        if len(line) != _LENGTH:
            raise DataError(f"{path}:{number}: {len(line)} characters; a TLE line has {_LENGTH}")
        if not layout.fullmatch(line):
            raise DataError(f"{path}:{number}: not laid out as line {line[0]} of a TLE: {line!r}")
        digits = sum(int(c) if c.isdigit() else c == "-" for c in line[:-1])
        if line[-1] != str(digits % 10):
            raise DataError(
                f"{path}:{number}: checksum {line[-1]} should be {digits % 10}; the line is damaged"
            )
    if first[1][2:7] != second[1][2:7]:
        raise DataError(
            f"{path}:{second[0]}: catalogue number {second[1][2:7]} differs from line 1's "
            f"{first[1][2:7]}"
        )
    try:
        satrec = Satrec.twoline2rv(first[1], second[1], WGS72)
    except ValueError as error:
        raise DataError(f"{path}:{first[0]}: the element set does not parse: {error}") from None
    if satrec.error:
        reason = SGP4_ERRORS[satrec.error]
        raise DataError(f"{path}:{first[0]}: SGP4 refuses the elements: {reason}")
    return Satellite(name=name or str(satrec.satnum), number=satrec.satnum, satrec=satrec)
