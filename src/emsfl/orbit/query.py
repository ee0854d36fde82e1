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
from emsfl.orbit.build import assemble, elevation_of
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
        return assemble(
            self.slots,
            self.windows,
            self.satellites,
            self.sites,
            self.config.start,
            self.config.hours * 3600,
            self.config.link,
            {
                "elements_hash": elements_hash(self.satellites),
                **self.config.model_dump(mode="json", exclude={"start", "hours"}),
            },
        )

    def text(self, form: str) -> str:
        """Return the contacts as "csv", "json", "ion", "tvg" or "czml"."""
        if form == "ion":
            return to_ion(self.plan())
        if form == "tvg":
            return to_tvg(self.plan()) + "\n"
        if form == "czml":
            return to_czml(self.plan(), self.satellites, self.sites) + "\n"
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


def ask(elements: Path, sites: Path, link: str, settings: Mapping[str, Any]) -> Answer:
    """Find contacts between the satellites and sites of two files.

    Args:
        elements: any file that `read_elements` takes.
        sites: any file that `read_sites` takes.
        link: name of a preset, or "UP,DOWN" in bit/s.
        settings: the other fields of `ContactsConfig`.

    Raises:
        UserError: a file, a setting or the link is wrong.
    """
    config = load_config(ContactsConfig, {**settings, "link": _link(link)})
    satellites = read_elements(elements)
    places = read_sites(sites)
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
    up, comma, down = text.partition(",")
    if not comma:
        return {"preset": text}
    try:
        return {"uplink_bps": float(up), "downlink_bps": float(down)}
    except ValueError:
        raise ConfigError(f"link {text!r} must be two bit rates such as 352000,704000") from None
