"""How methods and clusters are called and drawn: one label, colour, dash and marker for each.

The colours of the demo's eight methods stay apart under simulated protanopia, deuteranopia and
tritanopia (CAM02-UCS distance 5 or more, 8 or more among the four that are no ablations), and every
line differs in dash or marker as well. Contrast against the page is 3:1 or better in both modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EMS_FL = "ems_fl"
FEDAVG_FORMS = ("fedavg", "fedavg_fill", "fedavg_quorum", "fedavg_experts")
"""FedAvg with fixed local steps, until its upload contact, with a quorum, and on experts only."""


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """The name and look of one method."""

    label: str
    meaning: str
    """What the method does, in half a sentence; empty for a method that is not known here."""
    light: str
    """Colour on a light page, as #rrggbb."""
    dark: str
    """Colour on a dark page, as #rrggbb."""
    dash: str
    """A plotly line dash."""
    symbol: str
    """A plotly marker symbol."""


_KNOWN = {
    "ems_fl": MethodStyle(
        label="EMS-FL",
        meaning="clusters tune their own experts without waiting; a domain gate routes the merge",
        light="#0b5fb8",
        dark="#6aabff",
        dash="solid",
        symbol="circle",
    ),
    "fedavg": MethodStyle(
        label="FedAvg",
        meaning="synchronous averaging of the whole model, a fixed number of local steps a round",
        light="#cf7a00",
        dark="#f7b53c",
        dash="solid",
        symbol="square",
    ),
    "fedavg_fill": MethodStyle(
        label="FedAvg (fill)",
        meaning="the same, but devices train until their upload contact",
        light="#a03000",
        dark="#e2623a",
        dash="solid",
        symbol="diamond",
    ),
    "fedasync": MethodStyle(
        label="FedAsync",
        meaning="the server mixes in every whole model as it arrives, less when it is stale",
        light="#008a5c",
        dark="#1fc78a",
        dash="solid",
        symbol="triangle-up",
    ),
    "ems_fl_no_gate": MethodStyle(
        label="EMS-FL (no gate)",
        meaning="the pre-trained router routes the merged model",
        light="#c93f9b",
        dark="#f78ad0",
        dash="dash",
        symbol="x",
    ),
    "ems_fl_gate_only": MethodStyle(
        label="EMS-FL (gate only)",
        meaning="the untuned model with the domain gate",
        light="#77808a",
        dark="#8e99a6",
        dash="dot",
        symbol="cross",
    ),
    "ems_fl_frozen_shared": MethodStyle(
        label="EMS-FL (frozen)",
        meaning="only experts are tuned; the shared parameters stay as pre-trained",
        light="#7d6a2c",
        dark="#b8a35e",
        dash="dashdot",
        symbol="triangle-down",
    ),
    "ems_fl_random": MethodStyle(
        label="EMS-FL (random)",
        meaning="experts are assigned to clusters at random",
        light="#2c2f55",
        dark="#e6e6f5",
        dash="longdash",
        symbol="star",
    ),
    "ems_fl_random_no_gate": MethodStyle(
        label="EMS-FL (random, no gate)",
        meaning="experts are assigned at random, and the pre-trained router routes",
        light="#5f4b8b",
        dark="#b9a7e6",
        dash="dot",
        symbol="star",
    ),
    "fedavg_quorum": MethodStyle(
        label="FedAvg (quorum)",
        meaning="a round ends when most clusters have reported; late reports are not used",
        light="#8a5a00",
        dark="#d9a441",
        dash="dash",
        symbol="square",
    ),
    "fedavg_experts": MethodStyle(
        label="FedAvg (experts)",
        meaning="only the experts are trained and averaged",
        light="#b35900",
        dark="#ffb066",
        dash="dot",
        symbol="diamond",
    ),
    "fedprox": MethodStyle(
        label="FedProx",
        meaning="FedAvg with a pull towards the model that was handed out",
        light="#7a1f1f",
        dark="#ff8f7a",
        dash="dashdot",
        symbol="square",
    ),
    "fedbuff": MethodStyle(
        label="FedBuff",
        meaning="the server gathers several changes before it moves its model",
        light="#005f73",
        dark="#4cc9dd",
        dash="solid",
        symbol="pentagon",
    ),
    "fedmoe": MethodStyle(
        label="FedMoE-like",
        meaning="clusters share experts by activation; synchronous rounds",
        light="#6a2c91",
        dark="#c79bff",
        dash="solid",
        symbol="hexagon",
    ),
    "esft": MethodStyle(
        label="ESFT-like",
        meaning="devices hold and run all experts and train the assigned ones",
        light="#8c2f5b",
        dark="#ff9dbb",
        dash="solid",
        symbol="hourglass",
    ),
    "local": MethodStyle(
        label="local only",
        meaning="every cluster by itself; each domain is judged by its own cluster's model",
        light="#4f6b00",
        dark="#b5d34c",
        dash="solid",
        symbol="bowtie",
    ),
    "central_same_steps": MethodStyle(
        label="central, one cluster's steps",
        meaning="all data in one place, as many steps as one cluster takes",
        light="#555b66",
        dark="#aab2bf",
        dash="dash",
        symbol="triangle-up",
    ),
    "central_all_steps": MethodStyle(
        label="central, all steps",
        meaning="all data in one place, as many steps as all clusters take together",
        light="#1d2330",
        dark="#d5dbe6",
        dash="solid",
        symbol="star",
    ),
    "ems_fl_frequency": MethodStyle(
        label="EMS-FL (frequency)",
        meaning="experts are scored by how often they are chosen",
        light="#3f7cac",
        dark="#8fc1e8",
        dash="dash",
        symbol="pentagon",
    ),
    "ems_fl_gate_norm": MethodStyle(
        label="EMS-FL (gate × norm)",
        meaning="experts are scored by gate times the norm of their output",
        light="#00796b",
        dark="#5fd0c0",
        dash="dot",
        symbol="hexagon",
    ),
}

_SPARE = (
    ("#5b3fb0", "#b39dff", "hexagon"),
    ("#00788c", "#4cc9dd", "pentagon"),
    ("#8c2f5b", "#ff9dbb", "hourglass"),
    ("#4f6b00", "#b5d34c", "bowtie"),
)
"""For methods that have no entry above, in the order in which they come."""

CLUSTER_COLOURS = (
    ("#bcd9f5", "#1f4f7d"),
    ("#ffd9a0", "#7a4a00"),
    ("#bfe6cf", "#14573a"),
    ("#f3c4de", "#7a2a58"),
    ("#e3dc9a", "#57500f"),
    ("#d4c9f2", "#46377f"),
    ("#f6c3b4", "#7d3020"),
    ("#c5e3e6", "#1c5459"),
)
"""(light, dark) fills for clusters, under a letter that names the cluster; they repeat after 8."""


def is_ablation(method: str) -> bool:
    """Tell whether `method` is EMS-FL with one part taken away or replaced."""
    return method.startswith(f"{EMS_FL}_")


def method_label(method: str) -> str:
    """Return the name for people: the label of a known method, else the name in words."""
    return _KNOWN[method].label if method in _KNOWN else method.replace("_", " ")


def domain_label(domain: str) -> str:
    """Return a domain's name in words: 'rotated_90' as 'rotated 90'."""
    return domain.replace("_", " ")


def method_styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """Return the look of each method, in the order given."""
    unknown = [method for method in methods if method not in _KNOWN]
    styles = {}
    for method in methods:
        if method in _KNOWN:
            styles[method] = _KNOWN[method]
        else:
            light, dark, symbol = _SPARE[unknown.index(method) % len(_SPARE)]
            dash = "dash" if is_ablation(method) else "solid"
            styles[method] = MethodStyle(
                label=method_label(method),
                meaning="",
                light=light,
                dark=dark,
                dash=dash,
                symbol=symbol,
            )
    return styles
