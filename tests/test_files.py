"""Atomic writes and content hashes: whole or not there, and the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emsfl.errors import RunFolderError
from emsfl.files import (
    atomic_path,
    canonical_json,
    sha256_of,
    sole_writer,
    write_json,
    write_text,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_write_makes_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    write_text(target, "first")
    write_text(target, "zweitens: \u00e4")
    assert target.read_text(encoding="utf-8") == "zweitens: \u00e4"
    assert [path.name for path in target.parent.iterdir()] == ["b.txt"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "b.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_text("new, but")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_devices_and_pipes_are_written_to_and_links_stay_links(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        write_text(pipe, "through")
        assert reader.communicate()[0] == "through"
    assert pipe.is_fifo()
    (tmp_path / "to-null").symlink_to(os.devnull)
    write_text(tmp_path / "to-null", "gone")
    assert Path(os.devnull).is_char_device()
    write_text(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_json_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_permissions_of_any_other_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "atomic", "")
    plain, atomic = ((tmp_path / name).stat().st_mode for name in ("plain", "atomic"))
    assert stat.S_IMODE(plain) == stat.S_IMODE(atomic)


WRITER = """
import sys
from emsfl.files import write_json
numbers = list(range(20_000))
print("ready", flush=True)
generation = 0
while True:
    generation += 1
    write_json(sys.argv[1], {"generation": generation, "numbers": numbers, "again": generation})
"""


def test_a_killed_writer_never_leaves_a_half_written_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    generations = []
    for delay_s in (0.01, 0.03, 0.05, 0.08):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(delay_s)
            writer.send_signal(signal.SIGKILL)
        if target.exists():
            state = json.loads(target.read_text())
            assert state["again"] == state["generation"]
            assert len(state["numbers"]) == 20_000
            generations.append(state["generation"])
    assert generations, "no writer got as far as one whole file; the delays are too short"
    assert all(path == target or path.suffix == ".part" for path in tmp_path.iterdir())


@given(value=values)
def test_written_json_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


@given(value=st.dictionaries(st.text(), values, max_size=5))
def test_the_order_of_keys_does_not_change_a_hash(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert sha256_of(turned) == sha256_of(value)


def test_hashes_are_stable_over_versions_and_processes() -> None:
    # Stored plans and caches are found again by these; a change orphans all of them.
    array = np.arange(6, dtype="<i8").reshape(2, 3)
    text = rb'{"a":"\u00e4","b":[1,null,2.5]}'
    known = hashlib.sha256(
        b"json %d\n" % len(text)
        + text
        + b"array <i8 (2, 3) 48\n"
        + b"".join(number.to_bytes(8, "little") for number in range(6))
        + b"bytes 1\nx"
    ).hexdigest()
    assert sha256_of({"b": [1, None, 2.5], "a": "\u00e4"}, array, b"x") == known
    program = (
        "import numpy as np; from emsfl.files import sha256_of;"
        "a = np.arange(6, dtype='<i8').reshape(2, 3);"
        "print(sha256_of({'a': '\u00e4', 'b': [1, None, 2.5]}, a, b'x'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert printed.strip() == known


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from emsfl.files import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match="in use by another process"), sole_writer(tmp_path):
        raise AssertionError("two writers")
    other.kill()
    other.communicate()
    for _ in range(2):
        with sole_writer(tmp_path):
            pass


def test_hashes_tell_apart_what_differs() -> None:
    array = np.arange(6, dtype=np.int64)
    parts: list[tuple[object, ...]] = [
        (),
        (b"",),
        (b"a", b"b"),
        (b"ab",),
        (b"a\x00b",),
        ("ab",),
        (b'"ab"',),
        (array,),
        (array.reshape(2, 3),),
        (array.reshape(3, 2),),
        (array.astype(np.uint64),),
        (array.tobytes(),),
        (array.tolist(),),
        (1,),
        (1.0,),
        (True,),
        (None,),
    ]
    assert len({sha256_of(*part) for part in parts}) == len(parts)


def test_an_array_counts_by_its_values_not_its_layout() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert sha256_of(np.asfortranarray(array)) == sha256_of(array)
    assert sha256_of(array[:, ::2]) == sha256_of(array[:, ::2].copy())


def test_what_has_no_stable_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="objects"):
        sha256_of(np.array([object()]))
    with pytest.raises(TypeError):
        sha256_of(object())
    with pytest.raises(ValueError, match="JSON compliant"):
        sha256_of(float("inf"))
