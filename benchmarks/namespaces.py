"""Network namespaces for a rehearsal: one for the server, one per node, a shaped link to each."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from emsfl.deploy.status import FILE_NAME, Status
from emsfl.errors import RunFolderError
from emsfl.orbit import ContactPlan

PREFIX = "emsfl"
SERVER = f"{PREFIX}-server"


def usable() -> bool:
    """Tell whether this process may make namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    tried = subprocess.run(["ip", "netns", "add", f"{PREFIX}-try"], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["ip", "netns", "delete", f"{PREFIX}-try"], check=False)
    return tried.returncode == 0


class Namespaces:
    """A star of links: veth pairs between the server's namespace and each node's."""

    def __init__(self, names: Sequence[str], up_bps: float, down_bps: float) -> None:
        """Make everything; the links are up and carry so many bits per second."""
        self.names = list(names)
        self.close()
        _run("ip", "netns", "add", SERVER)
        _run("ip", "-n", SERVER, "link", "set", "lo", "up")
        for index, name in enumerate(self.names):
            space = self.space(name)
            here, there = f"s{index}", f"n{index}"
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
            _run("ip", "-n", SERVER, "link", "add", here, "type", "veth", "peer", there,
                 "netns", space)  # fmt: skip
            _run("ip", "-n", SERVER, "address", "add", f"10.77.{index}.1/24", "dev", here)
            _run("ip", "-n", space, "address", "add", f"10.77.{index}.2/24", "dev", there)
            for where, device, rate in ((SERVER, here, down_bps), (space, there, up_bps)):
                _run("ip", "-n", where, "link", "set", device, "up")
                _run("tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf",
                     "rate", f"{int(rate)}bit", "burst", "256kb", "latency", "500ms")  # fmt: skip

    def space(self, name: str) -> str:
        """Return the namespace of a node."""
        return f"{PREFIX}-{self.names.index(name)}"

    def address(self, name: str) -> str:
        """Return the server's address as the node sees it."""
        return f"10.77.{self.names.index(name)}.1"

    def set_up(self, name: str, up: bool) -> None:
        """Let the node's link be up or down; its bytes are still counted."""
        state = "up" if up else "down"
        _run("ip", "-n", self.space(name), "link", "set", f"n{self.names.index(name)}", state)

    def bytes(self, name: str) -> tuple[int, int]:
        """Return the bytes on the wire (up, down), Ethernet and TCP headers included."""
        device = f"s{self.names.index(name)}"
        root = f"/sys/class/net/{device}/statistics"
        read = ["ip", "netns", "exec", SERVER, "cat", f"{root}/rx_bytes", f"{root}/tx_bytes"]
        found = subprocess.run(read, capture_output=True, text=True, check=True).stdout.split()
        return int(found[0]), int(found[1])

    def close(self) -> None:
        """Remove everything."""
        for space in (SERVER, *(self.space(name) for name in self.names)):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


class Cutter:
    """Opens and cuts every link by the contact plan, at the server's virtual time."""

    def __init__(self, plan: ContactPlan, run: Path, namespaces: Namespaces) -> None:
        """Start; all links are down until the server's time is known."""
        self.contacts = {n: [(c.start_s, c.end_s) for c in plan.contacts(n)] for n in plan.sites}
        self.run, self.namespaces = run, namespaces
        self.is_up = dict.fromkeys(plan.sites, True)
        self.num_cuts = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            for name, up in self._wanted().items():
                if up != self.is_up[name]:
                    self.namespaces.set_up(name, up)
                    self.is_up[name] = up
                    self.num_cuts += not up
            time.sleep(0.02)

    def _wanted(self) -> Mapping[str, bool]:
        """Return which links are up: those with a contact between the last event and the next."""
        try:
            status = Status.read(self.run)
        except RunFolderError:
            return dict.fromkeys(self.contacts, False) if not self._over() else {}
        if status.finished:
            return dict.fromkeys(self.contacts, True)
        begin_s, end_s = status.time_s - 1.0, status.next_event_s
        return {
            name: any(start_s <= end_s and begin_s <= stop_s for start_s, stop_s in contacts)
            for name, contacts in self.contacts.items()
        }

    def _over(self) -> bool:
        return (self.run / FILE_NAME).exists()

    def close(self) -> None:
        """Stop, with all links up."""
        self._stopped.set()
        self._thread.join()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
