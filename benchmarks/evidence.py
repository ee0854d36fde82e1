"""Every claim of EMS-FL against every baseline: one row per scenario, method and seed.

    python benchmarks/evidence.py [--scenarios mnist_rotated,sentiment] [--methods fedbuff,ems_fl]
        [--seeds 0,1,2] [--quick] [--json FILE] [--workers 2]

Settings are those that the search found (benchmarks/results/tuning.json); most scenarios of the map
use those of rotated MNIST. Without --scenarios the main ones are run. With --tune the search is run
again first for scenarios with settings of their own, on the validation split and with other seeds
than those reported; suite/tuning.py has its rule. New rows take the places of older ones
of the same scenario, method and seed. Every run is a folder below --out, so an interrupted suite
goes on where it was. benchmarks/evidence_page.py makes docs/evidence.md of the rows.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emsfl.files import write_json, write_text
from suite.rows import collect, is_tuned, merge
from suite.scenarios import (
    CONFIGS,
    LARGE,
    MAIN,
    MAPPED_SCENARIOS,
    ROOT,
    SCENARIOS,
    TEST_SEEDS,
    Scenario,
)
from suite.tuning import tune

RESULTS = ROOT / "benchmarks/results"
QUICK_SCENARIOS = ("mnist_rotated", "mnist_labels", "coverage")
"""Those whose data and model come with the package: a run takes seconds, one on text minutes."""
QUICK = ("orbit.hours=24", "data.num_test=200", "simulate.evaluation_points=8")
QUICK_ABLATIONS = ("ems_fl_no_gate",)
QUICK_METHODS = ("ems_fl", "fedavg", "fedavg_fill", "fedasync", "fedbuff", "central_all_steps")


def main() -> None:
    """Run what is asked for and write the rows."""
    arguments = _arguments()
    whole = QUICK_SCENARIOS if arguments.quick else [s.name for s in MAIN]
    names = arguments.scenarios or list(whole)
    scenarios = [SCENARIOS[name] for name in names]
    extra = list(arguments.set)
    if arguments.quick:
        scenarios = [_only(scenario, (*QUICK_METHODS, *QUICK_ABLATIONS)) for scenario in scenarios]
        extra += QUICK
    if arguments.methods:
        scenarios = [_only(scenario, arguments.methods) for scenario in scenarios]
    scenarios = [s for s in scenarios if s.trained or s.ablations]
    if not scenarios:
        raise SystemExit("error: none of these scenarios compares any of these methods")
    path = RESULTS / "tuning.json"
    tuning: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if arguments.tune:
        searched = [s for s in scenarios if s.tuned_as is None and s.trained]
        found = tune(searched, arguments.out / "tuning", arguments.workers, extra)
        for scenario in searched:
            tuning[scenario.name] = _with_earlier(tuning, found, scenario.name)
        # A search that was cut short or changed is not the published one.
        write_json(arguments.out / path.name if extra else path, tuning)
        for scenario in [] if extra else searched:
            if SCENARIOS[scenario.name] in MAIN and not scenario.overrides:
                _freeze(scenario, tuning[scenario.name])
    if arguments.search_only:
        return
    untuned = sorted({s.tuned_name for s in scenarios if not is_tuned(tuning, s)})
    if untuned:
        listed = ",".join(untuned)
        raise SystemExit(f"error: not tuned yet; run: evidence.py --tune --scenarios {listed}")
    folder = arguments.out / ("quick" if arguments.quick else "rows")
    rows = collect(scenarios, tuning, folder, arguments.seeds, arguments.workers, extra)
    target = arguments.json or (arguments.out / "quick.json" if arguments.quick else None)
    if target is None:
        target = RESULTS / "evidence.json"
        known = json.loads(target.read_text())["rows"] if target.is_file() else []
        rows = merge(known, rows)
    write_json(target, {"rows": rows})
    _print(rows, [scenario.name for scenario in scenarios])
    print(f"rows: {target}")


def _only(scenario: Scenario, methods: Sequence[str]) -> Scenario:
    trained = tuple(name for name in scenario.trained if name in methods)
    ablations = tuple(name for name in scenario.ablations if name in methods)
    return replace(scenario, trained=trained, ablations=ablations)


def _with_earlier(known: dict[str, Any], found: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a new search with the earlier ones of the methods that it leaves out."""
    methods = {**known.get(name, {}).get("methods", {}), **found[name]["methods"]}
    order = [method for method in SCENARIOS[name].trained if method in methods]
    return {**found[name], "methods": {method: methods[method] for method in order}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenarios",
        type=_names,
        help=f"of {', '.join(SCENARIOS)}; map; all that need no GPU: all",
    )
    parser.add_argument("--methods", type=_methods, help="only these of each scenario's methods")
    parser.add_argument("--seeds", type=lambda t: [int(n) for n in t.split(",")],
                        default=list(TEST_SEEDS))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="images only; fewer hours, methods")
    parser.add_argument("--tune", action="store_true", help="search first")
    parser.add_argument("--search-only", action="store_true", help="search and stop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/evidence")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="replace a value in every config")  # fmt: skip
    return parser.parse_args()


def _names(text: str) -> list[str]:
    without_gpu = [name for name in SCENARIOS if name != LARGE.name]
    named = {"map": [s.name for s in MAPPED_SCENARIOS], "all": without_gpu}
    names = named.get(text) or text.split(",")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SCENARIOS)}")
    return names


def _methods(text: str) -> list[str]:
    known = dict.fromkeys(m for s in SCENARIOS.values() for m in (*s.trained, *s.ablations))
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


def _freeze(scenario: Scenario, tuned: dict[str, Any]) -> None:
    """Write the chosen settings into the scenario's config, below its last comment."""
    path = CONFIGS / f"{scenario.base}.yaml"
    head = re.split(r"^method_settings:", path.read_text(encoding="utf-8"), flags=re.M)[0]
    lines = [
        f"  {method}: {{{', '.join(f'{k}: {_yaml(v)}' for k, v in found['chosen'].items())}}}"
        for method, found in tuned["methods"].items()
    ]
    write_text(path, head + "method_settings:\n" + "\n".join(lines) + "\n")


def _yaml(value: Any) -> str:
    """Return a number as YAML 1.2 and 1.1 both read it: an exponent needs a point."""
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _print(rows: list[dict[str, Any]], names: list[str]) -> None:
    for name in names:
        mine = [row for row in rows if row["scenario"] == name]
        print(f"\n{name} ({mine[0]['metric']}, seeds {sorted({row['seed'] for row in mine})})")
        for method in dict.fromkeys(row["method"] for row in mine):
            finals = [row["final"] for row in mine if row["method"] == method]
            hours = [row["time_to_target_s"] for row in mine if row["method"] == method]
            shown = ["never" if h is None else f"{h / 3600:.1f} h" for h in hours]
            print(
                f"  {method:22} {sum(finals) / len(finals):.4f}  "
                f"[{' '.join(f'{v:.4f}' for v in finals)}]  target: {', '.join(shown)}"
            )


if __name__ == "__main__":
    main()
