"""Chosen settings that lie at the edge of what a search tried: better ones may lie beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emsfl.results.labels import method_label
from emsfl.results.wording import listing
from suite.scenarios import Scenario

OPEN_ENDED = ("learning_rate", "local_steps", "shared_lr_factor", "server_learning_rate", "mu")
"""Settings that could have gone on beyond what was tried."""


def edges_text(
    scenarios: Sequence[Scenario], tuning: dict[str, Any], *, named: bool = True
) -> str | None:
    """Say where the best point of a search is its lowest or highest; None: nowhere.

    Args:
        scenarios: with a search of their own; others are passed over.
        tuning: all searches.
        named: whether to name the scenarios.
    """
    told = []
    for scenario in scenarios:
        found = tuning.get(scenario.name, {"methods": {}})["methods"]
        edges = [f"{method_label(m)} ({e})" for m, of in found.items() if (e := _edges(of))]
        prefix = f"in {scenario.name} " if named else ""
        told += [prefix + listing(edges)] if edges else []
    if not told:
        return None
    return f"Chosen at the edge of what was tried, so that more may lie beyond: {'; '.join(told)}."


def _edges(found: dict[str, Any]) -> str:
    """Return the settings of one method whose chosen value is an extreme one of all points."""
    named = []
    for key, value in found["chosen"].items():
        tried = {p["settings"][key] for p in found["points"] if key in p["settings"]}
        if key in OPEN_ENDED and len(tried) > 1 and value in (min(tried), max(tried)):
            which = "lowest" if value == min(tried) else "highest"
            named.append(f"{which} {key}")
    return " and ".join(named)
