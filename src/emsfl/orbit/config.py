"""The `orbit` section of a run config: sites, constellation, links, allocation, server."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from emsfl.config import ConfigModel

Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class SiteConfig(ConfigModel):
    """One place on the ground, in WGS84 geodetic coordinates."""

    name: Name
    latitude_deg: Annotated[float, Field(ge=-90, le=90)]
    longitude_deg: Annotated[float, Field(ge=-180, le=360)]
    altitude_m: Annotated[float, Field(ge=-500, le=9000)] = 0.0


class Pattern(StrEnum):
    """How the planes of a Walker shell are spread: over 360 degrees, or over 180."""

    DELTA = "delta"
    STAR = "star"


class WalkerConfig(ConfigModel):
    """One Walker shell i: T/P/F of circular orbits (see `emsfl.orbit.walker`)."""

    pattern: Pattern = Pattern.DELTA
    num_satellites: Annotated[int, Field(ge=1, le=100_000)]
    """All satellites of the shell (T); a multiple of `num_planes`."""
    num_planes: Annotated[int, Field(ge=1)]
    phasing: Annotated[int, Field(ge=0)] = 0
    """F, from 0 to num_planes - 1: neighbouring planes are shifted by F * 360 / T degrees."""
    altitude_km: Annotated[float, Field(ge=150, le=100_000)]
    """Above the equatorial radius."""
    inclination_deg: Annotated[float, Field(ge=0, le=180)]
    raan_deg: Annotated[float, Field(ge=0, lt=360)] = 0.0
    """Right ascension of the first plane's ascending node at the epoch."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.num_satellites % self.num_planes:
            raise ValueError(
                f"num_satellites {self.num_satellites} must be a multiple of "
                f"num_planes {self.num_planes}"
            )
        if self.phasing >= self.num_planes:
            raise ValueError(f"phasing {self.phasing} must be below num_planes {self.num_planes}")
        return self


class ConstellationConfig(ConfigModel):
    """Where the satellites come from: exactly one of the fields."""

    walker: WalkerConfig | None = None
    elements: Path | None = None
    """A file of element sets; a relative path starts at the working directory."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"give exactly one of {names}, not {given or 'none'}")
        return self


class LinkConfig(ConfigModel):
    """What a contact carries."""

    uplink_bps: Annotated[float, Field(gt=0)]
    """From site to satellite."""
    downlink_bps: Annotated[float, Field(gt=0)]
    """From satellite to site."""


class Policy(StrEnum):
    """Who is served first where antennas or beams are short."""

    LONGEST_WAITING = "longest_waiting"
    HIGHEST_ELEVATION = "highest_elevation"
    ROUND_ROBIN = "round_robin"


class AllocationConfig(ConfigModel):
    """How visibility becomes contacts that can be used (see `emsfl.orbit.allocation`)."""

    antennas_per_site: Annotated[int, Field(ge=1)] = 1
    beams_per_satellite: Annotated[int, Field(ge=1)] | None = None
    """Sites that one satellite serves at once; None is no limit."""
    policy: Policy = Policy.LONGEST_WAITING
    acquisition_s: Annotated[float, Field(ge=0)] = 0.0
    """At the start of each contact, before the first bit."""
    handover_s: Annotated[float, Field(ge=0)] = 0.0
    """An antenna's pause between two satellites."""
    dwell_s: Annotated[float, Field(gt=0)] | None = None
    """A contact gives way after this long; None holds it until the satellite sets."""


class Placement(StrEnum):
    """Where the parameter server lives."""

    CONSTELLATION = "constellation"
    SATELLITE = "satellite"


class ServerConfig(ConfigModel):
    """The parameter server: on one named satellite, or shared by all of them."""

    placement: Placement = Placement.CONSTELLATION
    satellite: Name | None = None
    inter_satellite_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Until a satellite knows what another one received; placement `constellation` only."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.placement is Placement.SATELLITE) != (self.satellite is not None):
            raise ValueError("`satellite` names the satellite of placement 'satellite', only")
        return self


class OrbitConfig(ConfigModel):
    """Everything that decides who sees a satellite when, and how many bits pass."""

    start: AwareDatetime
    """Epoch of the plan, with time zone (`Z` for UTC)."""
    hours: Annotated[float, Field(gt=0, le=24 * 366)]
    constellation: ConstellationConfig
    sites: Annotated[tuple[SiteConfig, ...], Field(min_length=1)]
    min_elevation_deg: Annotated[float, Field(ge=0, lt=90)] = 10.0
    """Geometric elevation mask, without refraction."""
    link: LinkConfig
    allocation: AllocationConfig = AllocationConfig()
    server: ServerConfig = ServerConfig()

    @field_validator("start")
    @classmethod
    def _utc(cls, start: datetime) -> datetime:
        start = start.astimezone(UTC)
        if not 1957 <= start.year <= 2056:
            raise ValueError("the year must lie between 1957 and 2056, the range of SGP4 epochs")
        return start

    @field_validator("sites")
    @classmethod
    def _unique(cls, sites: tuple[SiteConfig, ...]) -> tuple[SiteConfig, ...]:
        names = [site.name for site in sites]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"site name {name!r} is given twice; names must differ")
        return sites
