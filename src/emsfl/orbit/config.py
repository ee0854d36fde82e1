"""The `orbit` section of a run config: sites, constellation, links, allocation, server."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from emsfl.config import ConfigModel

Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


LATITUDE_DEG = (-90.0, 90.0)
LONGITUDE_DEG = (-180.0, 360.0)
ALTITUDE_M = (-500.0, 9000.0)


class SiteConfig(ConfigModel):
    """One place on the ground, in WGS84 geodetic coordinates."""

    name: Name
    latitude_deg: Annotated[float, Field(ge=LATITUDE_DEG[0], le=LATITUDE_DEG[1])]
    longitude_deg: Annotated[float, Field(ge=LONGITUDE_DEG[0], le=LONGITUDE_DEG[1])]
    altitude_m: Annotated[float, Field(ge=ALTITUDE_M[0], le=ALTITUDE_M[1])] = 0.0


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


Shells = Annotated[tuple[WalkerConfig, ...], Field(min_length=1, max_length=26)]


class Preset(StrEnum):
    """Well-known constellations (figures and sources: `emsfl.orbit.walker`)."""

    IRIDIUM = "iridium"
    GLOBALSTAR = "globalstar"
    ONEWEB = "oneweb"
    STARLINK_GEN1 = "starlink-gen1"
    KUIPER = "kuiper"
    GALILEO = "galileo"


class ConstellationConfig(ConfigModel):
    """Where the satellites come from: exactly one of the fields."""

    walker: WalkerConfig | Shells | None = None
    """One shell, or a list of at most 26."""
    preset: Preset | None = None
    elements: Path | None = None
    """A file of element sets; a relative path starts at the working directory."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"give exactly one of {names}, not {given or 'none'}")
        return self


class CarrierConfig(ConfigModel):
    """The budget of one direction."""

    frequency_Hz: Annotated[float, Field(ge=1e8, le=1e11)]
    bandwidth_Hz: Annotated[float, Field(gt=0)]
    eirp_dBW: Annotated[float, Field(ge=-60, le=120)]
    """Of the sender, over the whole bandwidth."""
    g_over_t_dB_K: Annotated[float, Field(ge=-60, le=80)]
    """Of the receiver."""
    zenith_attenuation_dB: Annotated[float, Field(ge=0)] = 0.0
    """Of gases, straight up; it grows as 1 / sin(elevation)."""
    scintillation_dB: Annotated[float, Field(ge=0)] = 0.0
    margin_dB: Annotated[float, Field(ge=0)] = 0.0
    """Shadowing, pointing, interference and whatever else is to be set aside."""


class DvbS2xConfig(ConfigModel):
    """Adaptive coding and modulation of DVB-S2X: the best mode that the ratio allows."""

    kind: Literal["dvb-s2x"] = "dvb-s2x"
    roll_off: Annotated[float, Field(ge=0.05, le=0.35)] = 0.2
    margin_dB: Annotated[float, Field(ge=0)] = 1.0
    """Above the ideal thresholds: implementation and tracking."""


class ShannonConfig(ConfigModel):
    """Shannon's bound, moved by a gap and truncated to what the modem can do."""

    kind: Literal["shannon"] = "shannon"
    gap_dB: Annotated[float, Field(ge=0)] = 3.0
    min_bits_per_symbol: Annotated[float, Field(ge=0)] = 0.0
    """Below it nothing is sent."""
    max_bits_per_symbol: Annotated[float, Field(gt=0)]


class BudgetConfig(ConfigModel):
    """Both directions of a link, and the modem that both use."""

    uplink: CarrierConfig
    downlink: CarrierConfig
    modem: Annotated[DvbS2xConfig | ShannonConfig, Field(discriminator="kind")]


class LinkPreset(StrEnum):
    """Well-known links (figures and sources: `emsfl.orbit.link_presets`)."""

    HANDHELD_LEO600 = "tr38821-handheld-leo600"
    HANDHELD_LEO1200 = "tr38821-handheld-leo1200"
    VSAT_LEO600 = "tr38821-vsat-leo600"
    VSAT_LEO1200 = "tr38821-vsat-leo1200"
    IRIDIUM_CERTUS_700 = "iridium-certus-700"
    STARLINK_US_2025 = "starlink-us-2025"


class RainConfig(ConfigModel):
    """Rain, cloud and gas attenuation by ITU-R models; needs the extra `emsfl[rain]`."""

    exceeded_percent: Annotated[float, Field(ge=0.01, le=5)]
    """Of the year in which attenuation is larger: 0.1 sizes a link for 99.9 % availability."""


class LinkConfig(ConfigModel):
    """What a contact carries: both rates, a preset, or a budget."""

    uplink_bps: Annotated[float, Field(gt=0)] | None = None
    """From site to satellite, constant."""
    downlink_bps: Annotated[float, Field(gt=0)] | None = None
    """From satellite to site, constant."""
    preset: LinkPreset | None = None
    budget: BudgetConfig | None = None
    rain: RainConfig | None = None
    """Takes the place of the budget's gas attenuation."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        rates = (self.uplink_bps is not None) + (self.downlink_bps is not None)
        if rates == 1:
            raise ValueError("uplink_bps and downlink_bps must be given together")
        if bool(rates) + (self.preset is not None) + (self.budget is not None) != 1:
            raise ValueError("give uplink_bps and downlink_bps, or preset, or budget")
        return self


class InterSatelliteConfig(ConfigModel):
    """Links between all pairs of satellites that see each other."""

    rate_bps: Annotated[float, Field(gt=0)]
    """In each direction."""
    max_range_km: Annotated[float, Field(gt=0)]
    limb_altitude_km: Annotated[float, Field(ge=0, le=1000)] = 80.0
    """The line of sight stays above this height over the equatorial radius."""


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


class SearchConfig(ConfigModel):
    """When to look, and how high."""

    start: AwareDatetime
    """Epoch of the plan, with time zone (`Z` for UTC)."""
    hours: Annotated[float, Field(gt=0, le=24 * 366)]
    min_elevation_deg: Annotated[float, Field(ge=0, lt=90)] = 10.0
    """Geometric elevation mask, without refraction."""

    @field_validator("start")
    @classmethod
    def _utc(cls, start: datetime) -> datetime:
        start = start.astimezone(UTC)
        if not 1957 <= start.year <= 2056:
            raise ValueError("the year must lie between 1957 and 2056, the range of SGP4 epochs")
        return start


class ContactsConfig(SearchConfig):
    """What `emsfl contacts` is asked for, apart from its files."""

    strict: bool = False
    """Refuse satellites that SGP4 cannot propagate."""
    allocation: AllocationConfig | None = None
    """None lets every satellite above the mask count."""
    link: LinkConfig
    inter_satellite: InterSatelliteConfig | None = None
    """Part of plans (ion, tvg, czml), not of the list of contacts (csv, json)."""


class OrbitConfig(SearchConfig):
    """Everything that decides who sees a satellite when, and how many bits pass."""

    constellation: ConstellationConfig
    sites: Annotated[tuple[SiteConfig, ...], Field(min_length=1)]
    link: LinkConfig
    allocation: AllocationConfig = AllocationConfig()
    inter_satellite: InterSatelliteConfig | None = None
    server: ServerConfig = ServerConfig()

    @field_validator("sites")
    @classmethod
    def _unique(cls, sites: tuple[SiteConfig, ...]) -> tuple[SiteConfig, ...]:
        names = [site.name for site in sites]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"site name {name!r} is given twice; names must differ")
        return sites
