"""Element sets in every format that the room reads, and what is wrong with bad ones."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sgp4.api import Satrec

from emsfl.errors import DataError
from emsfl.orbit.elements import read_elements

LINE_1 = "1 25544U 98067A   26172.51782528  .00016717  00000-0  10270-3 0  9001"
LINE_2 = "2 25544  51.6416 247.4627 0006703 130.5360 325.0288 15.72125391563532"
OMM = {
    "OBJECT_NAME": "ISS (ZARYA)",
    "OBJECT_ID": "1998-067A",
    "EPOCH": "2026-06-21T12:25:40.104192",
    "MEAN_MOTION": 15.72125391,
    "ECCENTRICITY": 0.0006703,
    "INCLINATION": 51.6416,
    "RA_OF_ASC_NODE": 247.4627,
    "ARG_OF_PERICENTER": 130.536,
    "MEAN_ANOMALY": 325.0288,
    "EPHEMERIS_TYPE": 0,
    "CLASSIFICATION_TYPE": "U",
    "NORAD_CAT_ID": 25544,
    "ELEMENT_SET_NO": 900,
    "REV_AT_EPOCH": 56353,
    "BSTAR": 0.0001027,
    "MEAN_MOTION_DOT": 0.00016717,
    "MEAN_MOTION_DDOT": 0,
}


def checked(line: str) -> str:
    """Return a TLE line with the right checksum in column 69."""
    body = line[:68]
    return body + str(sum(int(c) if c.isdigit() else c == "-" for c in body) % 10)


TLE = f"{checked(LINE_1)}\n{checked(LINE_2)}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_csv(messages: list[dict]) -> str:
    lines = [",".join(messages[0])]
    lines += [",".join(str(value) for value in message.values()) for message in messages]
    return "\n".join(lines) + "\n"


def as_xml(message: dict) -> str:
    meta = ("OBJECT_NAME", "OBJECT_ID")
    tle = ("NORAD_CAT_ID", "BSTAR", "MEAN_MOTION_DOT", "MEAN_MOTION_DDOT", "EPHEMERIS_TYPE")

    def leaves(keys):
        return "".join(f"<{key}>{message[key]}</{key}>" for key in keys)

    elements = [key for key in message if key not in meta + tle]
    return (
        '<?xml version="1.0"?><ndm><omm id="CCSDS_OMM_VERS" version="2.0"><header/>'
        f"<body><segment><metadata>{leaves(meta)}<CENTER_NAME>EARTH</CENTER_NAME>"
        "<REF_FRAME>TEME</REF_FRAME><TIME_SYSTEM>UTC</TIME_SYSTEM>"
        "<MEAN_ELEMENT_THEORY>SGP4</MEAN_ELEMENT_THEORY></metadata>"
        f"<data><meanElements>{leaves(elements)}</meanElements>"
        f"<tleParameters>{leaves(tle)}</tleParameters></data></segment></body></omm></ndm>"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TLE, "25544"),
        (f"ISS (ZARYA)             \n{TLE}", "ISS (ZARYA)"),
        (f"0 ISS (ZARYA)\r\n{TLE.replace(chr(10), chr(13) + chr(10))}", "ISS (ZARYA)"),
        (f"1 1\nISS (ZARYA)\n{TLE}", "ISS (ZARYA)"),
        (json.dumps([OMM]), "ISS (ZARYA)"),
        (json.dumps(OMM | {"EPOCH": "2026-06-21T12:25:40.104192Z"}), "ISS (ZARYA)"),
        (as_csv([OMM]), "ISS (ZARYA)"),
        (as_xml(OMM), "ISS (ZARYA)"),
        (as_xml(OMM).replace("<ndm>", '<ndm xmlns="urn:ccsds:schema:ndmxml">'), "ISS (ZARYA)"),
        (as_xml(OMM | {"EPOCH": "2026-172T12:25:40.104192"}), "ISS (ZARYA)"),
    ],
)
def test_all_formats_give_the_same_orbit(tmp_path: Path, text: str, name: str):
    (satellite,) = read_elements(write(tmp_path / "elements", text))
    assert satellite.name == name
    assert satellite.number == 25544
    expected = Satrec.twoline2rv(checked(LINE_1), checked(LINE_2))
    day, fraction = 2461213.5, 0.25
    _, place, _ = expected.sgp4(day, fraction)
    error, found, _ = satellite.satrec.sgp4(day, fraction)
    assert error == 0
    # The epoch has 1e-8 day in a TLE and 1e-6 s in an OMM: 6 m along the track.
    assert found == pytest.approx(place, abs=0.01)


def test_catalogue_numbers_beyond_five_digits(tmp_path: Path):
    alpha = [checked(line.replace("25544", "A0001", 1)) for line in (LINE_1, LINE_2)]
    (satellite,) = read_elements(write(tmp_path / "alpha", "\n".join(alpha)))
    assert (satellite.number, satellite.name) == (100001, "100001")
    messages = [OMM | {"NORAD_CAT_ID": number} for number in (100_001, 339_999, 799_501_234)]
    satellites = read_elements(write(tmp_path / "omm.json", json.dumps(messages)))
    assert [s.number for s in satellites] == [100_001, 339_999, 799_501_234]
    assert satellites[2].name == "ISS (ZARYA) [799501234]"
    expected = datetime(2026, 6, 21, 12, 25, 40, 104192, tzinfo=UTC)
    assert abs((satellites[2].epoch - expected).total_seconds()) < 1e-5


def other(line: str, number: int) -> str:
    return checked(line.replace("25544", f"{number:05d}", 1))


def three(second: tuple[str, str]) -> str:
    """Return three element sets, the middle one given; its first line is line 3 of the file."""
    first = (other(LINE_1, 1), other(LINE_2, 1))
    third = (other(LINE_1, 3), other(LINE_2, 3))
    return "\n".join((*first, *second, *third)) + "\n"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((other(LINE_1, 2)[:-1] + "x", other(LINE_2, 2)), r":3: not laid out as line 1"),
        ((LINE_1.replace("26172.5", "26172x5"), LINE_2), r":3: not laid out as line 1"),
        ((other(LINE_1, 2), checked(LINE_2)[:-1] + "0"), r":4: checksum 0 should be \d"),
        ((other(LINE_1, 2), other(LINE_2, 2)[:-9]), r":4: 60 characters; a TLE line has 69"),
        ((other(LINE_1, 2), other(LINE_2, 4)), r":4: catalogue number 00004 differs"),
        ((other(LINE_2, 2), other(LINE_1, 2)), r":3: line 2 of an element set without line 1"),
        ((other(LINE_1, 2), "garbage"), r":4: expected line 2"),
        ((other(LINE_1, 1), other(LINE_2, 1)), r"satellite 1 is given 2 times"),
    ],
)
def test_malformed_lines_name_file_and_line(tmp_path: Path, second, message: str):
    path = write(tmp_path / "three.tle", three(second))
    with pytest.raises(DataError, match=message) as caught:
        read_elements(path)
    assert "three.tle" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no element sets"),
        (TLE[:90], "expected line 2|ends in the middle"),
        (TLE.splitlines()[0], "ends in the middle"),
        ("[]", "holds no element sets"),
        ("[{]", "not valid JSON"),
        ("<omm>", "not valid XML"),
        (
            json.dumps([OMM, {k: v for k, v in OMM.items() if k != "EPOCH"}]),
            "2: .*EPOCH is missing",
        ),
        (json.dumps(OMM | {"MEAN_MOTION": "NaN"}), "MEAN_MOTION is 'NaN'; expected a finite"),
        (json.dumps(OMM | {"MEAN_MOTION": "fast"}), "MEAN_MOTION is 'fast'; expected a number"),
        (json.dumps(OMM | {"MEAN_MOTION": -1}), "mean motion -1.0 rev/day"),
        (json.dumps(OMM | {"ECCENTRICITY": 1.5}), "eccentricity 1.5"),
        (json.dumps(OMM | {"EPOCH": "yesterday"}), "EPOCH is 'yesterday'"),
        (json.dumps(OMM | {"MEAN_ELEMENT_THEORY": "SGP4-XP"}), "only SGP4 can be propagated"),
        (as_csv([OMM]).rsplit(",", 1)[0], ":2: expected 17 columns"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_elements(write(tmp_path / "bad", text))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_csv_message_in_the_middle_names_its_line(tmp_path: Path):
    messages = [OMM | {"NORAD_CAT_ID": number} for number in (1, 2, 3)]
    messages[1] = messages[1] | {"INCLINATION": "x"}
    with pytest.raises(DataError, match=r"bad.csv:3: INCLINATION is 'x'"):
        read_elements(write(tmp_path / "bad.csv", as_csv(messages)))


def test_a_missing_or_binary_file(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_elements(tmp_path / "none.tle")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read"):
        read_elements(tmp_path / "binary")
