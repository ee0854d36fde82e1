"""Orbit Mean-elements Messages (OMM) as JSON, CSV and XML.

Source: CCSDS 502.0-B-3, "Orbit Data Messages", chapter 4; the keyword names are the standard's in
all three forms, as catalogues serve them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from emsfl.errors import DataError
from emsfl.orbit.satellite import Satellite, new_satellite

_REFERENCES = {"MEAN_ELEMENT_THEORY": "SGP4", "REF_FRAME": "TEME", "TIME_SYSTEM": "UTC"}

Message = tuple[str, Mapping[str, Any]]
"""Where it stands in the file, and its keywords."""


def is_omm(text: str) -> bool:
    """Tell OMM (in any of its forms) from other text."""
    start = text.lstrip()[:1]
    return start in ("{", "[", "<") or "MEAN_MOTION" in text.partition("\n")[0]


def parse_omm(path: Path, text: str) -> Iterator[Satellite]:
    """Yield the satellites of OMM text; `path` is for messages.

    Raises:
        DataError: text or a message that does not parse, named by file and place.
    """
    start = text.lstrip()[:1]
    messages = {"{": _json, "[": _json, "<": _xml}.get(start, _csv)(path, text)
    for where, fields in messages:
        try:
            yield _satellite(fields)
        except KeyError as error:
            raise DataError(f"{where}: the keyword {error.args[0]} is missing") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None


def _json(path: Path, text: str) -> Iterator[Message]:
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    messages = tree if isinstance(tree, list) else [tree]
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise DataError(f"{path}: message {number} is no object of keywords")
        yield f"{path}: message {number}", message


def _csv(path: Path, text: str) -> Iterator[Message]:
    reader = csv.DictReader(io.StringIO(text.lstrip()), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{reader.line_num}: expected {len(reader.fieldnames or ())} columns"
                )
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _xml(path: Path, text: str) -> Iterator[Message]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: not valid XML: {error}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # a namespace, which some writers add
    found = [root] if root.tag == "omm" else root.findall("omm")
    for number, omm in enumerate(found, start=1):
        leaves = (leaf for leaf in omm.iter() if len(leaf) == 0 and leaf.tag != "COMMENT")
        yield f"{path}: message {number}", {leaf.tag: leaf.text or "" for leaf in leaves}


def _satellite(fields: Mapping[str, Any]) -> Satellite:
    for key, expected in _REFERENCES.items():
        given = fields.get(key) or expected
        if given != expected:
            raise ValueError(f"{key} is {given!r}; only {expected} can be propagated here")
    return new_satellite(
        name=str(fields.get("OBJECT_NAME") or "").strip(),
        number=_number(fields, "NORAD_CAT_ID", int),
        epoch=_epoch(str(fields["EPOCH"])),
        mean_motion_rev_day=_number(fields, "MEAN_MOTION"),
        eccentricity=_number(fields, "ECCENTRICITY"),
        inclination_deg=_number(fields, "INCLINATION"),
        raan_deg=_number(fields, "RA_OF_ASC_NODE"),
        argument_of_perigee_deg=_number(fields, "ARG_OF_PERICENTER"),
        mean_anomaly_deg=_number(fields, "MEAN_ANOMALY"),
        bstar=_number(fields, "BSTAR") if fields.get("BSTAR") not in (None, "") else 0.0,
    )


def _number(fields: Mapping[str, Any], key: str, kind: Any = float) -> Any:
    value = fields[key]
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{key} is {value!r}; expected a number") from None
    if not isfinite(number):
        raise ValueError(f"{key} is {value!r}; expected a finite number")
    return number


def _epoch(text: str) -> datetime:
    """Return an epoch as calendar date or day of year, UTC where no zone is given."""
    text = text.strip()
    try:
        epoch = datetime.fromisoformat(text)
    except ValueError:
        day, _, fraction = text.removesuffix("Z").partition(".")
        try:
            epoch = datetime.strptime(day, "%Y-%jT%H:%M:%S")
        except ValueError:
            raise ValueError(f"EPOCH is {text!r}; expected such as 2026-06-21T12:00:00Z") from None
        epoch = epoch.replace(microsecond=round(float(f"0.{fraction or 0}") * 1e6))
    return epoch.replace(tzinfo=UTC) if epoch.tzinfo is None else epoch.astimezone(UTC)
