"""Windows, metrics, status, packets and journals by themselves."""

import json
import urllib.request

import pytest
from benchmarks.deployment import free_port

from emsfl.deploy import Notes, Status, Windows
from emsfl.deploy.clock import Clock
from emsfl.deploy.journal import Journal
from emsfl.deploy.metrics import serve_metrics
from emsfl.deploy.packets import from_packet, manifest_of, to_packet
from emsfl.deploy.status import NodeStatus
from emsfl.errors import RunFolderError, UpdateRefusedError

NODE = NodeStatus(
    name="north", phase="working", work="north-3", based_on=4, next_contact_s=7200.0,
    in_contact=False, uploaded_bytes=1000, downloaded_bytes=10, loss=0.5,
)  # fmt: skip
STATUS = Status(
    session="ems_fl-seed0", time_s=3600.0, duration_s=7200.0, next_event_s=3700.0, version=5,
    num_refused=1, finished=False, accuracy=None, nodes=[NODE],
)  # fmt: skip


def test_a_site_may_send_in_its_contacts_but_for_the_guard_times():
    windows = Windows([(100.0, 200.0), (300.0, 303.0), (400.0, 500.0)], guard_s=2.0)
    assert not windows.is_open(101.0)
    assert windows.is_open(102.0)
    assert windows.is_open(197.9)
    assert not windows.is_open(198.0)
    assert not windows.is_open(301.5), "too short for its guards"
    assert windows.is_open(450.0)
    assert windows.next_open_s(150.0) == 150.0
    assert windows.next_open_s(250.0) == 402.0
    assert windows.next_open_s(499.0) is None


def test_a_clock_runs_as_fast_as_it_is_told():
    clock = Clock(0.0, speedup=100.0)
    clock.set(5000.0)
    assert clock.now_s() == pytest.approx(5000.0, abs=50)
    assert clock.wall_until(6000.0) == pytest.approx(10.0, abs=0.5)


def test_status_comes_back_and_metrics_tell_the_same(tmp_path):
    with pytest.raises(RunFolderError, match="emsfl serve"):
        Status.read(tmp_path)
    STATUS.write(tmp_path)
    assert Status.read(tmp_path) == STATUS
    notes, port = Notes(tmp_path / "log.jsonl"), free_port()
    notes("upload_refused", cluster="north")
    server = serve_metrics(tmp_path, port, notes)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    server.shutdown()
    server.server_close()
    assert 'emsfl_uploaded_bytes_total{cluster="north"} 1000\n' in text
    assert 'emsfl_events_total{event="upload_refused"} 1\n' in text
    assert "\nemsfl_accuracy " not in text, "not judged yet"
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["level"] == "warning"


def test_status_command_prints_json_and_a_table(tmp_path, capsys):
    from emsfl.cli import call

    STATUS.write(tmp_path)
    assert call(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][0]["work"] == "north-3"
    assert call(["status", str(tmp_path)]) == 0
    assert "north-3" in capsys.readouterr().out


def test_what_is_no_packet_is_refused_and_never_run():
    for packet in (b"", b"\0" * 100, b"\x80\x04cposix\nsystem\n", to_packet({"a": 1})[:40]):
        with pytest.raises(UpdateRefusedError):
            from_packet(packet)
    assert from_packet(to_packet({"a": (1, "b")})) == {"a": (1, "b")}


def test_a_parcel_comes_in_any_order_and_is_kept_only_if_it_is_whole(tmp_path, federation):
    packet = to_packet({"tensors": dict(federation.pretrained)})
    manifest = manifest_of("north-1", packet, 0, 1024)
    journal = Journal(tmp_path, 1024)
    pieces = [packet[k * 1024 : (k + 1) * 1024] for k in range(manifest.num_parts)]
    order = list(range(manifest.num_parts))[::-1]
    for seen, k in enumerate(order, 1):
        assert sorted(journal.take_part(manifest, k, pieces[k])) == sorted(order[:seen])
    assert journal.take_part(manifest, 0, b"again, and wrong") == sorted(order)
    other = manifest_of("north-2", packet, 0, 1024)
    for k in order:
        have = journal.take_part(other, k, pieces[k][::-1])
    assert have == [], "another hash: all of it is asked for again"
    with pytest.raises(UpdateRefusedError, match="no id"):
        journal.read_parcel("../../etc/passwd")
