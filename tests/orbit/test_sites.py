"""Sites: geodetic vectors and the files they come from."""

from pathlib import Path

import numpy as np
import pytest

from emsfl.errors import DataError
from emsfl.orbit.sites import Site, read_sites, site_vectors

HEADER = "name,latitude_deg,longitude_deg,altitude_m\n"


def test_vectors_on_the_axes_of_the_ellipsoid():
    places = [
        Site(name="equator", latitude_deg=0, longitude_deg=0),
        Site(name="date line", latitude_deg=0, longitude_deg=180, altitude_m=1000),
        Site(name="pole", latitude_deg=90, longitude_deg=123),
    ]
    vectors = site_vectors(places)
    # Semi-axes of WGS84 in km.
    expected = [[6378.137, 0, 0], [-6379.137, 0, 0], [0, 0, 6356.752314245]]
    assert vectors.position_km == pytest.approx(np.array(expected), abs=1e-9)
    assert vectors.up[2] == pytest.approx([0, 0, 1])


def test_reads_csv_in_any_column_order(tmp_path: Path):
    path = tmp_path / "sites.csv"
    path.write_text("longitude_deg,name,latitude_deg\n-78.5, Quito ,-0.2\n\n15.6,Svalbard,78.2\n")
    assert read_sites(path) == [
        Site(name="Quito", latitude_deg=-0.2, longitude_deg=-78.5),
        Site(name="Svalbard", latitude_deg=78.2, longitude_deg=15.6),
    ]


def test_reads_hypatia_ground_stations(tmp_path: Path):
    path = tmp_path / "ground_stations.txt"
    path.write_text("0,Tokyo,35.6895,139.69171,0.0,-3954843.5,3354935.1,3700263.8\n")
    assert read_sites(path) == [Site(name="Tokyo", latitude_deg=35.6895, longitude_deg=139.69171)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "holds no sites"),
        ("name,lat,lon\nA,1,2\n", "lacks latitude_deg, longitude_deg"),
        (HEADER + "A,1,2,3\nB,120.5,45,0\n", r":3: latitude_deg 120.5 .*right order"),
        (HEADER + "A,nan,2,3\n", r":2: latitude_deg nan lies outside"),
        (HEADER + "A,1,2,1e6\n", r":2: altitude_m 1e6 lies outside -500 to 9000"),
        (HEADER + "A,1,east,0\n", r":2: longitude_deg is 'east'"),
        (HEADER + "A,1,2\n", r":2: 3 columns where the header has 4"),
        (HEADER + "A,1,2,3\nA,3,4,5\n", r":3: site 'A' is given twice"),
        (HEADER + ",1,2,3\n", r":2: the site has no name"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "sites.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_sites(path)
    assert "sites.csv" in str(caught.value)
