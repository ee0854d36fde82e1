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


class Memory:
    """The largest resident set of a process: before its first session, and ever."""

    def __init__(self, d: Deployment) -> None:
        self.d, self.idle, self.peak = d, 0, 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        path = Path(f"/proc/{self.d.processes['server'].pid}/status")
        while path.exists():
            try:
                lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
                now = int(lines["VmRSS"].split()[0]) * 1024
            except (OSError, KeyError, ValueError):
                return
            if not any(note["event"] == "listening" for note in self.d.notes()):
                self.idle = max(self.idle, now)
            self.peak = max(self.peak, now)
            time.sleep(0.05)


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
    print(
        f"server's memory: {memory.idle / 1e6:.0f} MB before it listens (Python, torch, Flower), "
        f"{memory.peak / 1e6:.0f} MB at most; grown by {(memory.peak - memory.idle) / 1e6:.0f} MB; "
        f"3 uploads and the model: {bound / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
