"""What a deployment adds: bytes on the wire against payload, and the server's memory.

A faultless rehearsal over proxies on loopback that count every byte of TCP payload in both
directions: TLS, HTTP, Flower's framing and all polls.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.deployment import Deployment, deployment

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["Svalbard", "Pilbara", "Patagonia"]
OVERRIDES = [
    "orbit.hours=7",
    "orbit.link={uplink_bps: 20.0e+6, downlink_bps: 20.0e+6}",
    "model.hidden_size=256",
    "model.expert_size=1024",
    "model.pretrain={num_steps: 3}",
    "data.num_test=40",
    "data.num_public=60",
    "methods=[ems_fl]",
    "simulate.device_flops_per_s=1.0e+9",
    "simulate.max_local_steps_per_contact=2",
    "simulate.evaluation_points=1",
]

STAGES = ("loading", "idle", "run")
"""How far the server has come."""


class Memory:
    """The server's largest resident set, and how much of it is its own (not mapped from files)."""

    def __init__(self, d: Deployment) -> None:
        """Watch the server of `d` from now on."""
        self.d = d
        self.largest: dict[str, tuple[int, int]] = {}
        """By how far the server has come, (resident, anonymous) bytes."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        path = Path(f"/proc/{self.d.processes['server'].pid}/status")
        while path.exists():
            try:
                lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
                now = [int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon")]
            except (OSError, KeyError, ValueError):
                return
            before = self.largest.get(self._stage(), (0, 0))
            self.largest[self._stage()] = (max(before[0], now[0]), max(before[1], now[1]))
            time.sleep(0.05)

    def _stage(self) -> str:
        if (self.d.run / "status.json").exists():
            return STAGES[2]
        listens = any(note["event"] == "listening" for note in self.d.notes())
        return STAGES[1] if listens else STAGES[0]


def main() -> None:
    """Run and print a table."""
    folder = Path(tempfile.mkdtemp(prefix="emsfl-overhead-"))
    config = ROOT / "configs" / "rehearsal.yaml"
    try:
        with deployment(folder, config, overrides=OVERRIDES, secure=True) as d:
            d.make_keys(NAMES)
            d.start_server()
            memory = Memory(d)
            for name in NAMES:
                d.start_node(name)
            code = d.wait("server", 3000)
            if code:
                raise SystemExit((d.folder / "server.log").read_text()[-2000:])
            print_table(d, memory)
    finally:
        shutil.rmtree(folder)


def print_table(d: Deployment, memory: Memory) -> None:
    """Print what was measured."""
    events = [json.loads(line) for line in (d.run / "events.jsonl").read_text().splitlines()]
    print(f"{'link':<12}{'payload':>12}{'on the wire':>14}{'ratio':>8}")
    total = [0, 0]
    largest = 0
    for name in NAMES:
        sizes = [e["bytes"] for e in events
                 if e.get("cluster") == name and e["event"] in ("upload_arrived", "download_arrived")]  # fmt: skip  # noqa: E501
        largest = max([largest, *(e["bytes"] for e in events if e["event"] == "upload_arrived")])
        payload = sum(sizes)
        wire = d.proxies[name].sent_up + d.proxies[name].sent_down
        total = [total[0] + payload, total[1] + wire]
        print(f"{name:<12}{payload / 1e6:>9.2f} MB{wire / 1e6:>11.2f} MB{wire / payload:>8.3f}")
    print(f"{'all':<12}{total[0] / 1e6:>9.2f} MB{total[1] / 1e6:>11.2f} MB{total[1] / total[0]:>8.3f}")  # fmt: skip  # noqa: E501
    (model,) = (d.run / "models").glob("*.safetensors")
    bound = 3 * largest + model.stat().st_size
    print(f"largest upload {largest / 1e6:.1f} MB, model {model.stat().st_size / 1e6:.1f} MB")
    print_memory(memory, bound)


def print_memory(memory: Memory, bound: int) -> None:
    """Print the server's memory by stage against `bound`, in bytes."""
    loaded, idle, run = (memory.largest[stage] for stage in STAGES)
    print(f"{'server, largest until then':<48}{'resident':>12}{'anonymous':>12}")
    for text, (resident, anonymous) in (
        ("libraries loaded, it does not listen yet", loaded),
        ("idle: data and pre-trained model read, judged", idle),
        ("run: clusters exchange", run),
    ):
        print(f"{text:<48}{resident / 1e6:>9.0f} MB{anonymous / 1e6:>9.0f} MB")
    print(f"target, 3 uploads and the model: {bound / 1e6:.0f} MB")
    for text, found in (
        ("in total", run[0]),
        ("above the libraries", run[0] - loaded[0]),
        ("above an idle server", run[0] - idle[0]),
    ):
        verdict = "met" if found <= bound else "MISSED"
        print(f"  resident {text}: {found / 1e6:.0f} MB, {verdict}")


if __name__ == "__main__":
    main()
