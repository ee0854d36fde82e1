"""Real processes, real faults: no accepted update lost, none applied twice, the right bits.

`make test-faults` runs all of them; CI runs those that are `short`.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from benchmarks.deployment import deployment, finals

pytestmark = pytest.mark.faults

CONFIG = Path(__file__).parents[1] / "deploy" / "rehearsal.yaml"
VICTIM = "Svalbard"
"""In contact four times, Alert twice."""
NAMES = [VICTIM, "Alert"]
OVERRIDES = [
    "orbit.hours=2.5",
    f"orbit.sites=[{{name: {VICTIM}, latitude_deg: 78.23, longitude_deg: 15.41}}, "
    "{name: Alert, latitude_deg: 82.5, longitude_deg: -62.3}]",
]
"""Short, and everybody uploads."""
SMALL_PARTS = [*OVERRIDES, "deploy.part_bytes=8192"]
SLOW_BYTES_S = 15_000.0
"""An update takes five seconds at this rate."""
END_S = 1500


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """What the simulator gives: the hash of the final model, and the events."""
    folder = tmp_path_factory.mktemp("simulated")
    with deployment(folder, CONFIG, overrides=OVERRIDES) as found:
        found.simulate()
        run = found.folder / "simulated"
        return finals(run), (run / "events.jsonl").read_text()


@pytest.fixture
def federation(tmp_path):
    """A server and two nodes that are under way; parts are small."""
    with deployment(tmp_path / "d", CONFIG, overrides=SMALL_PARTS) as found:
        found.start_server()
        for name in NAMES:
            found.start_node(name)
        yield found


def finish(federation, expected, nodes=NAMES):
    """Wait for the end; check that everything happened once and as it should."""
    assert federation.wait("server", END_S) == 0, (federation.folder / "server.log").read_text()
    for name in nodes:
        assert federation.wait(name, 60) == 0, (federation.folder / f"{name}.log").read_text()
    hashes, events = expected
    assert finals(federation.run) == hashes
    assert (federation.run / "events.jsonl").read_text() == events
    received = [n["work"] for n in federation.notes() if n["event"] == "update_received"]
    merged = [json.loads(line) for line in events.splitlines() if '"merged"' in line]
    assert len(set(received)) == len(merged)


def in_mid_upload(federation, after=1):
    """Return when the victim has begun an upload and not ended it."""
    federation.wait_for("update_received", after, END_S, cluster=VICTIM)
    proxy = federation.proxies[VICTIM]
    proxy.rate_bytes_s = SLOW_BYTES_S
    count = len(done(federation))
    begun = proxy.sent_up
    while proxy.sent_up - begun < 40_000 or len(done(federation)) != count:
        if len(done(federation)) != count:
            count, begun = len(done(federation)), proxy.sent_up
        time.sleep(0.02)


def done(federation):
    return [
        n for n in federation.notes() if n["event"] == "update_received" and n["cluster"] == VICTIM
    ]


@pytest.mark.parametrize("seconds", [20, 200, 600], ids="{}s".format)
def test_link_cut_in_mid_upload(federation, expected, seconds):
    in_mid_upload(federation)
    federation.proxies[VICTIM].up.clear()
    time.sleep(seconds)
    federation.proxies[VICTIM].rate_bytes_s = None
    federation.proxies[VICTIM].up.set()
    finish(federation, expected)


@pytest.mark.parametrize("num_kills", [pytest.param(1, marks=pytest.mark.short), 3])
def test_node_killed_while_training_and_at_once_again(federation, expected, num_kills):
    for count in range(1, num_kills + 1):
        federation.wait_for("update_received", count, END_S, cluster=VICTIM)
        federation.kill(VICTIM)
        federation.start_node(VICTIM)
    finish(federation, expected)


def test_node_killed_while_uploading(federation, expected):
    in_mid_upload(federation)
    federation.kill(VICTIM)
    federation.proxies[VICTIM].rate_bytes_s = None
    federation.start_node(VICTIM)
    finish(federation, expected)


def test_server_killed_three_times(federation, expected):
    for count in (2, 4, 6):
        federation.wait_for("update_received", count, END_S)
        federation.kill("server")
        time.sleep(0.5)
        federation.start_server()
    finish(federation, expected)


def test_superlink_killed(federation, expected):
    federation.wait_for("update_received", 2, END_S)
    server = federation.processes["server"].pid
    listed = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True)
    for child in listed.stdout.split():
        os.kill(int(child), 9)
    finish(federation, expected)
    assert any(note["event"] == "superlink_died" for note in federation.notes())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which only root may")
def test_disk_full_on_a_node(tmp_path, expected):
    with deployment(tmp_path / "d", CONFIG, overrides=SMALL_PARTS) as federation:
        disk = federation.folder / f"node-{VICTIM}"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("no file system may be mounted here")
        try:
            federation.start_server()
            for name in NAMES:
                federation.start_node(name)
            federation.wait_for("update_received", 2, END_S, cluster=VICTIM)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"\0" * 4096)
                except OSError:
                    pass
            federation.wait_for("node_error", 1, END_S, cluster=VICTIM)
            assert "space" in next(
                n["reason"] for n in federation.notes() if n["event"] == "node_error"
            )
            filler.unlink()
            finish(federation, expected)
        finally:
            federation.close()
            subprocess.run(["umount", str(disk)], check=False)
