"""Rehearse a deployment and lay it beside the simulation: same bits, better than FedAvg, bytes."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.deployment import Deployment, LinkProxy, deployment, finals
from benchmarks.namespaces import SERVER, Cutter, Namespaces, usable
from emsfl.experiment_config import load
from emsfl.orbit import ContactPlan

ROOT = Path(__file__).resolve().parents[1]
SPEEDUP = 3600.0
MAX_BPS = 1e9
"""Links of one machine; faster ones are not shaped."""


def main() -> int:
    """Return 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="half a day in place of a day")
    parser.add_argument("--keep", type=Path, help="folder for all files, which are kept")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="emsfl-rehearsal-"))
    overrides = ["orbit.hours=10", "simulate.evaluation_points=2"] if options.short else []
    try:
        return rehearse(folder, overrides)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def rehearse(folder: Path, overrides: list[str]) -> int:
    """Simulate, rehearse, compare."""
    config_path = ROOT / "configs" / "rehearsal.yaml"
    config = load(config_path, overrides)
    names = [site.name for site in config.orbit.sites]
    with deployment(folder, config_path, overrides=overrides, speedup=SPEEDUP, secure=True) as d:
        started = time.monotonic()
        d.simulate()
        print(f"simulation: {time.monotonic() - started:.0f} s", flush=True)
        plan = ContactPlan.load(d.folder / "simulated" / "plan" / "plan.npz")
        started = time.monotonic()
        wire = over_namespaces(d, plan, names) if usable() else over_proxies(d, names)
        print(f"rehearsal: {time.monotonic() - started:.0f} s", flush=True)
        return report(d, wire)


def over_namespaces(d: Deployment, plan: ContactPlan, names: list[str]) -> dict[str, list[int]]:
    """Run server and nodes in namespaces; return the bytes on each link."""
    rates = [float(r) for r in (plan.rate_bps.min(), plan.rate_bps.max())]
    up, down = (min(MAX_BPS, rate * SPEEDUP) for rate in rates)
    spaces = Namespaces(names, up, down)
    print(f"links: namespaces, {up / 1e6:.0f} Mb/s up, {down / 1e6:.0f} Mb/s down, cut by the plan")
    try:
        d.make_keys(names, [spaces.address(name) for name in names])
        d.start_server("--host", "0.0.0.0", prefix=("ip", "netns", "exec", SERVER))
        cutter = Cutter(plan, d.run, spaces)
        for name in names:
            address = f"{spaces.address(name)}:{d.port}"
            d.start_node(name, address=address,
                         prefix=("ip", "netns", "exec", spaces.space(name)))  # fmt: skip
        wait(d, names)
        cutter.close()
        print(f"cuts: {cutter.num_cuts}")
        return {name: list(spaces.bytes(name)) for name in names}
    finally:
        d.close()
        spaces.close()


def over_proxies(d: Deployment, names: list[str]) -> dict[str, list[int]]:
    """Run server and nodes on loopback, with a proxy in between; return the bytes on each link."""
    print("links: proxies on loopback, never cut (namespaces need root)")
    d.make_keys(names)
    d.start_server()
    for name in names:
        d.start_node(name)
    wait(d, names)
    links: dict[str, LinkProxy] = d.proxies
    return {name: [links[name].sent_up, links[name].sent_down] for name in names}


def wait(d: Deployment, names: list[str]) -> None:
    """Wait for the end of all processes."""
    for name in ("server", *names):
        code = d.wait(name, 3600)
        if code:
            sys.exit(f"{name} ended with {code}: {(d.folder / f'{name}.log').read_text()[-2000:]}")


def report(d: Deployment, wire: dict[str, list[int]]) -> int:
    """Print what was found; return 1 if anything is not as it should be."""
    simulated, rehearsed = d.folder / "simulated", d.run
    same_bits = finals(simulated) == finals(rehearsed)
    same_events = (simulated / "events.jsonl").read_bytes() == (rehearsed / "events.jsonl").read_bytes()  # fmt: skip  # noqa: E501
    methods = json.loads((rehearsed / "result.json").read_text())["methods"]
    accuracy = {name: found["final_accuracy"]["mean"] for name, found in methods.items()}
    uploaded = sum(found["uploaded_bytes"]["mean"] for found in methods.values())
    downloaded = sum(found["downloaded_bytes"]["mean"] for found in methods.values())
    up, down = (sum(pair[i] for pair in wire.values()) for i in (0, 1))
    for (method, seed), digest in finals(rehearsed).items():
        print(f"{method}, seed {seed}: final model {digest[:16]}, accuracy {accuracy[method]:.4f}")
    print(f"final models equal the simulator's, bit for bit: {same_bits}")
    print(f"events equal the simulator's: {same_events}")
    better = accuracy["ems_fl"] > accuracy["fedavg_fill"]
    print(f"EMS-FL beats FedAvg: {better}")
    print(f"payload: {uploaded / 1e6:.2f} MB up, {downloaded / 1e6:.2f} MB down")
    print(f"on the wire, polls included: {up / 1e6:.2f} MB up, {down / 1e6:.2f} MB down")
    return 0 if same_bits and same_events and better else 1


if __name__ == "__main__":
    sys.exit(main())
