"""The question behind `emsfl contacts`: from files and settings to rows, plans and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.config import load_config
from emsfl.errors import ConfigError
from emsfl.orbit.allocation import Slot, allocate, every_window
from emsfl.orbit.build import assemble, between_satellites, elevation_of, require_own_names
from emsfl.orbit.config import ContactsConfig
from emsfl.orbit.contacts import ElementsWarning, Windows, find_windows
from emsfl.orbit.czml import to_czml
from emsfl.orbit.elements import read_elements
from emsfl.orbit.formats import to_ion, to_tvg
from emsfl.orbit.listing import contact_rows, rows_to_csv, rows_to_json
from emsfl.orbit.plan import ContactPlan
from emsfl.orbit.satellite import Satellite, elements_hash
from emsfl.orbit.sites import Site, read_sites


@dataclass(frozen=True, slots=True)
class Answer:
    """The contacts that were asked for."""

    config: ContactsConfig
    satellites: list[Satellite]
    sites: list[Site]
    windows: Windows
    slots: list[Slot]
    messages: list[str]
    """Warnings about the elements, one line each."""

    def plan(self) -> ContactPlan:
        """Return the contacts as a plan, with the rates of the link."""
        duration_s = self.config.hours * 3600
        links = self.config.inter_satellite
        between = (
            between_satellites(
                links, self.satellites, len(self.sites), self.config.start, duration_s
            )
            if links
            else ()
        )
        return assemble(
            self.slots,
            self.windows,
            self.satellites,
            self.sites,
            self.config.start,
            duration_s,
            self.config.link,
            {
                "elements_hash": elements_hash(self.satellites),
                **self.config.model_dump(mode="json", exclude={"start", "hours"}),
            },
            between,
        )

    def text(self, form: str) -> str:
        """Return the contacts as "csv", "json", "ion", "tvg" or "czml".

        Raises:
            ConfigError: "csv" and "json" have no rows for contacts between satellites.
        """
        if form == "ion":
            return to_ion(self.plan())
        if form == "tvg":
            return to_tvg(self.plan()) + "\n"
        if form == "czml":
            return to_czml(self.plan(), self.satellites, self.sites) + "\n"
        if self.config.inter_satellite is not None:
            raise ConfigError(
                f"{form} lists contacts of sites only; contacts between satellites go into "
                "ion, tvg or czml"
            )
        rows = contact_rows(
            self.slots,
            self.windows,
            self.satellites,
            self.sites,
            self.config.start,
            self.config.hours * 3600,
        )
        return {"csv": rows_to_csv, "json": rows_to_json}[form](rows)

    def plot(self, path: Path) -> None:
        """Draw a map and a timeline to `path` (see `emsfl.orbit.plot`)."""
        from emsfl.orbit.plot import plot_contacts

        plot_contacts(
            path,
            self.slots,
            self.windows,
            self.satellites,
            self.sites,
            self.config.start,
            self.config.hours * 3600,
        )


def ask(
    elements: Path,
    sites: Path,
    link: str,
    settings: Mapping[str, Any],
    inter_satellite: str | None = None,
) -> Answer:
    """Find contacts between the satellites and sites of two files.

    Args:
        elements: any file that `read_elements` takes.
        sites: any file that `read_sites` takes.
        link: name of a preset, or "UP,DOWN" in bit/s.
        settings: the other fields of `ContactsConfig`.
        inter_satellite: "BIT/S,MAX_RANGE_KM" of links between satellites.

    Raises:
        UserError: a file, a setting or the link is wrong.
    """
    between = None
    if inter_satellite is not None:
        values = _two_numbers(
            "inter_satellite", inter_satellite, "a bit rate and a range such as 1e9,5000"
        )
        between = dict(zip(("rate_bps", "max_range_km"), values, strict=True))
    given = {**settings, "link": _link(link), "inter_satellite": between}
    config = load_config(ContactsConfig, given)
    satellites = read_elements(elements)
    places = read_sites(sites)
    require_own_names(satellites, places)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ElementsWarning)
        windows = find_windows(
            satellites,
            places,
            config.start,
            config.hours * 3600,
            config.min_elevation_deg,
            config.strict,
        )
    if config.allocation is None:
        slots = every_window(windows)
    else:
        elevation = elevation_of(windows, satellites, places, config.start)
        slots = allocate(windows, config.allocation, elevation)
    messages = [str(warning.message) for warning in caught]
    return Answer(config, satellites, places, windows, slots, messages)


def _link(text: str) -> dict[str, object]:
    """Return the config of a link that was given as one word."""
    if "," not in text:
        return {"preset": text}
    up, down = _two_numbers("link", text, "two bit rates such as 352000,704000")
    return {"uplink_bps": up, "downlink_bps": down}


def _two_numbers(name: str, text: str, kind: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"{name} {text!r} must be {kind}") from None
    return first, second
