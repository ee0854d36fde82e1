"""`emsfl contacts`: when satellites stand above sites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What is written."""

    CSV = "csv"
    JSON = "json"
    ION = "ion"
    TVG = "tvg"
    CZML = "czml"


class Policy(StrEnum):
    """Who is served first."""

    LONGEST_WAITING = "longest_waiting"
    HIGHEST_ELEVATION = "highest_elevation"
    ROUND_ROBIN = "round_robin"


def contacts(
    elements: Annotated[
        Path,
        typer.Option(
            help="Element sets: OMM (JSON, CSV, XML), TLE, 3LE or Hypatia's tles.txt.",
        ),
    ],
    sites: Annotated[
        Path,
        typer.Option(
            help="CSV with name, latitude_deg, longitude_deg and altitude_m, or Hypatia's "
            "ground_stations.txt.",
        ),
    ],
    start: Annotated[str, typer.Option(help="UTC time, such as 2022-06-22T00:00:00Z.")],
    hours: Annotated[float, typer.Option(help="Length of the search, at most 8784.")] = 24.0,
    min_elevation_deg: Annotated[float, typer.Option(help="Geometric elevation mask.")] = 10.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse satellites that SGP4 cannot propagate.")
    ] = False,
    allocate: Annotated[
        Policy | None, typer.Option(help="Share antennas and beams by this policy.")
    ] = None,
    antennas_per_site: Annotated[
        int | None, typer.Option(help="With --allocate; 1 if left out.")
    ] = None,
    beams_per_satellite: Annotated[
        int | None, typer.Option(help="With --allocate; no limit if left out.")
    ] = None,
    acquisition_s: Annotated[
        float | None, typer.Option(help="With --allocate: guard time at the start of a contact.")
    ] = None,
    handover_s: Annotated[
        float | None,
        typer.Option(help="With --allocate: an antenna's pause between two satellites."),
    ] = None,
    dwell_s: Annotated[
        float | None, typer.Option(help="With --allocate: a contact gives way after this long.")
    ] = None,
    link: Annotated[
        str,
        typer.Option(help="Rates for ion and tvg: UP,DOWN in bit/s, or the name of a preset."),
    ] = "iridium-certus-700",
    inter_satellite: Annotated[
        str | None,
        typer.Option(help="Links between satellites, for ion, tvg and czml: BIT/S,MAX_RANGE_KM."),
    ] = None,
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option(help="Write here instead of on the screen.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a map and a timeline: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Compute when satellites stand above sites, and write the contacts.

    Without --allocate every satellite above the mask counts; with it, only what antennas and beams
    can really follow.
    """
    from emsfl.errors import ConfigError, UserError
    from emsfl.files import write_text
    from emsfl.orbit.query import ask

    shared = {
        "antennas_per_site": antennas_per_site,
        "beams_per_satellite": beams_per_satellite,
        "acquisition_s": acquisition_s,
        "handover_s": handover_s,
        "dwell_s": dwell_s,
    }
    allocation: dict[str, object] = {
        name: value for name, value in shared.items() if value is not None
    }
    if allocate is not None:
        allocation["policy"] = allocate.value
    elif allocation:
        option = "--" + min(allocation).replace("_", "-")
        raise ConfigError(f"{option} says how to share and needs --allocate and a policy")
    settings = {
        "start": start,
        "hours": hours,
        "min_elevation_deg": min_elevation_deg,
        "strict": strict,
        "allocation": allocation or None,
    }
    answer = ask(elements, sites, link, settings, inter_satellite)
    for message in answer.messages:
        typer.echo(f"warning: {message}", err=True)
    text = answer.text(format.value)
    try:
        if plot is not None:
            answer.plot(plot)
        if out is not None:
            write_text(out, text)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename2 or error.filename}: {error.strerror}"
        ) from None
    if out is None:
        typer.echo(text, nl=False)
