"""Contact plans as CZML, for Cesium: sites, moving satellites, and a line while in contact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from emsfl.orbit.ephemeris import earth_fixed
from emsfl.orbit.formats import iso_utc
from emsfl.orbit.plan import ContactPlan
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.sites import Site, site_vectors

POSITION_STEP_S = 120.0
"""Between sampled positions; Cesium interpolates with degree 5, well below a pixel off."""


def to_czml(plan: ContactPlan, satellites: Sequence[Satellite], sites: Sequence[Site]) -> str:
    """Return the plan as a CZML document; satellites without contacts are left out.

    Args:
        plan: whose node names are those of `satellites` and `sites`.
        satellites: the constellation, for positions.
        sites: the places on the ground.

    Source: CZML Guide of the Cesium project; positions are Earth-fixed ("FIXED"), in metres.
    """
    interval = f"{iso_utc(plan.epoch_utc)}/{iso_utc(plan.utc(plan.duration_s))}"
    clock = {"interval": interval, "currentTime": iso_utc(plan.epoch_utc), "multiplier": 60}
    packets: list[Mapping[str, Any]] = [
        {"id": "document", "name": "contact plan", "version": "1.0", "clock": clock}
    ]
    for site, place in zip(sites, site_vectors(sites).position_km, strict=True):
        packets.append(
            {
                "id": site.name,
                "name": site.name,
                "position": {"cartesian": (place * 1000).round(1).tolist()},
                "point": {"pixelSize": 8, "color": {"rgba": [255, 180, 0, 255]}},
                "label": {"text": site.name, "font": "12px sans-serif", "pixelOffset": _OFFSET},
            }
        )
    used = {plan.nodes[node] for node in (*plan.source.tolist(), *plan.destination.tolist())}
    times_s = np.append(np.arange(0, plan.duration_s, POSITION_STEP_S), plan.duration_s)
    for satellite in satellites:
        if satellite.name not in used:
            continue
        position = earth_fixed([satellite.satrec], plan.epoch_utc, times_s)
        samples = np.column_stack([times_s, (position[0] * 1000).round(1)])
        packets.append(
            {
                "id": satellite.name,
                "name": satellite.name,
                "availability": interval,
                "position": {
                    "epoch": iso_utc(plan.epoch_utc),
                    "referenceFrame": "FIXED",
                    "interpolationAlgorithm": "LAGRANGE",
                    "interpolationDegree": 5,
                    "cartesian": samples.ravel().tolist(),
                },
                "point": {"pixelSize": 5, "color": {"rgba": [80, 180, 255, 255]}},
            }
        )
    return json.dumps(packets + _links(plan), allow_nan=False)


_OFFSET = {"cartesian2": [0, -16]}


def _links(plan: ContactPlan) -> list[dict[str, Any]]:
    """Return one line per pair of nodes, shown while either direction is open."""
    opened: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in range(len(plan)):
        pair = (int(plan.source[row]), int(plan.destination[row]))
        span = (float(plan.start_s[row]), float(plan.end_s[row]))
        opened.setdefault((min(pair), max(pair)), []).append(span)
    packets = []
    for (one, other), spans in opened.items():
        show: list[dict[str, Any]] = [
            {
                "interval": f"{iso_utc(plan.epoch_utc)}/{iso_utc(plan.utc(plan.duration_s))}",
                "boolean": False,
            }
        ]
        for start, end in dict.fromkeys(spans):
            first = plan.epoch_utc + timedelta(seconds=start)
            show.append({"interval": f"{iso_utc(first)}/{iso_utc(plan.utc(end))}", "boolean": True})
        ends = [f"{plan.nodes[node]}#position" for node in (one, other)]
        packets.append(
            {
                "id": f"{plan.nodes[one]} - {plan.nodes[other]}",
                "polyline": {
                    "show": show,
                    "positions": {"references": ends},
                    "width": 1.5,
                    "arcType": "NONE",
                    "material": {"solidColor": {"color": {"rgba": [120, 255, 120, 220]}}},
                },
            }
        )
    return packets
