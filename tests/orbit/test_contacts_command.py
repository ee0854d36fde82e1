"""`emsfl contacts` from the command line: formats, allocation, pictures, bad input."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emsfl.cli import main
from tests.orbit.test_elements import TLE

SITES = "name,latitude_deg,longitude_deg,altitude_m\nQuito,-0.2,-78.5,2850\nSuva,-18.1,178.4,5\n"
Result = tuple[int, str, str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs the command on two files, with further options."""
    (tmp_path / "iss.tle").write_text(f"ISS (ZARYA)\n{TLE}")
    (tmp_path / "sites.csv").write_text(SITES)
    monkeypatch.chdir(tmp_path)

    def call(*options: str, **named: str) -> Result:
        fixed = {"elements": "iss.tle", "sites": "sites.csv", "start": "2026-06-21T12:00:00Z"}
        words = ["emsfl", "contacts"]
        for key, value in (fixed | named).items():
            words += [f"--{key.replace('_', '-')}", value]
        monkeypatch.setattr("sys.argv", [*words, *options])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return call


def test_csv_and_json_hold_the_same_rows(run):
    code, text, errors = run()
    assert (code, errors) == (0, "")
    rows = list(csv.DictReader(io.StringIO(text)))
    code, text, _ = run(format="json")
    assert code == 0
    found = json.loads(text)
    assert len(found) == len(rows) == 4
    for row, other in zip(rows, found, strict=True):
        assert list(row) == list(other)
        assert row["satellite"] == "ISS (ZARYA)"
        assert row["clipped"] == str(other["clipped"]).lower() == "false"
        assert float(row["duration_s"]) == other["duration_s"]
        rise, falls = (
            datetime.strptime(row[key], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
            for key in ("rise_utc", "set_utc")
        )
        assert (falls - rise).total_seconds() == pytest.approx(other["duration_s"], abs=2e-3)
        assert 10 <= other["max_elevation_deg"] <= 90
    assert [r["rise_utc"] for r in rows] == sorted(r["rise_utc"] for r in rows)


def test_a_window_cut_by_the_search_is_flagged(run):
    _, text, _ = run(format="json")
    first = json.loads(text)[0]
    start = first["rise_utc"].replace(".", "+")[:19] + "Z"
    later = datetime.fromisoformat(start).timestamp() + 60
    begin = datetime.fromtimestamp(later, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _, text, _ = run(start=begin, hours="0.02", format="json")
    (row,) = [r for r in json.loads(text) if r["site"] == first["site"]]
    assert row["clipped"] is True
    assert row["rise_utc"] == begin.replace("Z", ".000Z")


def test_guard_times_shorten_contacts(run):
    _, free, _ = run(format="json")
    _, guarded, _ = run("--allocate", "longest_waiting", acquisition_s="30", format="json")
    for before, after in zip(json.loads(free), json.loads(guarded), strict=True):
        assert after["duration_s"] == pytest.approx(before["duration_s"] - 30, abs=2e-3)


def test_every_format_and_picture_is_written(run, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    for form in ("csv", "json", "ion", "tvg", "czml"):
        code, text, _ = run(format=form, out=f"out/contacts.{form}")
        assert (code, text) == (0, "")
        assert (tmp_path / f"out/contacts.{form}").stat().st_size > 400
    for ending in ("png", "svg"):
        assert run(plot=f"map.{ending}", out="x.csv")[0] == 0
        assert (tmp_path / f"map.{ending}").stat().st_size > 20_000


def test_contacts_between_satellites_go_into_plans(run, tmp_path: Path):
    pair = "".join(
        f"{name}\n{with_number(first, name)}\n{with_number(second, name)}\n"
        for name, first, second in (("25544", *TLE.splitlines()), ("25545", *TLE.splitlines()))
    )
    (tmp_path / "pair.tle").write_text(pair)
    link = {"elements": "pair.tle", "inter_satellite": "8e6,5000"}
    code, text, _ = run(format="ion", **link)
    assert code == 0
    between = [line.split() for line in text.splitlines() if line.startswith("a contact")]
    assert [row[-1] for row in between if {row[4], row[5]} == {"3", "4"}] == ["1000000"] * 2
    for form in ("csv", "json"):
        code, text, errors = run(format=form, **link)
        assert (code, text) == (2, "")
        assert "go into ion, tvg or czml" in errors


def with_number(line: str, number: str) -> str:
    """Return a line of a TLE with another catalogue number and a checksum that fits."""
    body = line[:2] + number + line[7:-1]
    return body + str(sum(int(c) if c.isdigit() else c == "-" for c in body) % 10)


def test_rates_go_into_plans(run):
    _, text, _ = run(format="ion", link="8000,16000")
    rates = {line.split()[-1] for line in text.splitlines() if line.startswith("a contact")}
    assert rates == {"1000", "2000"}
    _, text, _ = run(format="tvg", link="tr38821-handheld-leo600")
    profile = json.loads(text)["edges"][0]["contacts"][0][4]
    assert len({rate for _, rate, _, _ in profile}) > 3


def test_a_site_named_as_a_satellite_is_refused(run, tmp_path: Path):
    (tmp_path / "sites.csv").write_text(SITES.replace("Quito", "ISS (ZARYA)"))
    code, text, errors = run(format="tvg")
    assert (code, text) == (2, "")
    assert "'ISS (ZARYA)' names a site and a satellite" in errors


def test_old_elements_warn_on_stderr(run):
    code, text, errors = run(start="2026-07-21T00:00:00Z")
    assert code == 0
    assert errors.startswith("warning: the elements of 1 of 1 satellites are more than 3 days")
    assert text.startswith("site,satellite,")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"elements": "none.tle"}, "elements file none.tle does not exist"),
        ({"sites": "none.csv"}, "sites file none.csv does not exist"),
        ({"sites": "iss.tle"}, "iss.tle: the header"),
        ({"hours": "0"}, "hours = 0.0"),
        ({"hours": "nan"}, "hours = nan"),
        ({"hours": "-3"}, "hours = -3.0"),
        ({"start": "tomorrow"}, "start = 'tomorrow'"),
        ({"start": "2026-06-21T12:00:00"}, "start = '2026-06-21T12:00:00'"),
        ({"min_elevation_deg": "95"}, "min_elevation_deg = 95.0"),
        ({"link": "12"}, "link.preset = '12'"),
        ({"link": "-5,10"}, "link.uplink_bps = -5.0"),
        ({"link": "fast,slow"}, "link 'fast,slow' must be two bit rates"),
        ({"beams_per_satellite": "1"}, "--beams-per-satellite says how to share and needs"),
        ({"inter_satellite": "fast"}, "inter_satellite 'fast' must be a bit rate and a range"),
        ({"inter_satellite": "1e6,-1"}, "inter_satellite.max_range_km = -1.0"),
        ({"out": "."}, "Is a directory"),
        ({"plot": "map.bmp"}, "cannot draw to 'map.bmp'"),
        ({"format": "xml"}, "'xml' is not one of"),
        ({"start": "2055-06-21T12:00:00Z"}, "none of the 1 satellites"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, named: dict[str, str], message: str):
    code, text, errors = run(**named)
    assert code == 2
    assert text == ""
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
