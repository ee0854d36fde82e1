"""Split a full-size checkpoint into four and merge it back: speed against a plain copy, and memory.

Run: python benchmarks/checkpoint_streaming.py [--layers 16] [--folder DIR] [--json FILE]

Needs about 45 GB of disk for the 13.8 GB of OLMoE-1B-7B (16 layers), all of it removed at the end.
A copy is timed by `shutil.copyfile` and `fsync`, since split and merge end with `fsync` too; rates
are bytes written per second. Copies are made before, between and after, and a rate is divided by
the mean of the copies beside it, for the speed of shared machines drifts. The split leaves the
hashes of the checkpoint's files in the cache, where the merge finds them; "anew" is a merge without
them. Then a split and a merge
are killed (SIGKILL) half-way and started again, and every file of their results is compared with
the first ones by BLAKE3 hash, read back from disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from emsfl.moe.tensor_files import blake3_of_file
from make_checkpoint import make_checkpoint

NUM_PARTS = 4
NUM_EXPERTS = 64
SUFFIX = ".safetensors"


def main() -> None:
    """Make the checkpoint, measure, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there too")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="streaming-", dir=arguments.folder))
    try:
        figures = measure(work, arguments.layers)
    finally:
        shutil.rmtree(work)
    head = ("GB written", "seconds", "CPU s", "MB/s", "of a copy", "peak RSS")
    print(f"{'':6}" + "".join(f"{name:>12}" for name in head))
    for row in figures["timed"]:
        rss = f"{row['peak_rss_MB']:.0f} MB" if "peak_rss_MB" in row else ""
        share = f"{row['of_a_copy']:.2f}" if "of_a_copy" in row else ""
        print(
            f"{row['name']:6}{row['bytes'] / 1e9:12.2f}{row['seconds']:12.1f}{row['cpu_s']:12.1f}"
            f"{row['rate'] / 1e6:12.0f}{share:>12}{rss:>12}"
        )
    print(f"merged tensor files identical to the original: {figures['identical']}")
    for name, found in figures["killed"].items():
        print(
            f"{name} killed at {found['bytes_written'] / 1e9:.2f} GB: folders that look whole "
            f"{found['look_whole']}, of them whole {found['are_whole']}; started again: files kept "
            f"{found['files_kept']}, same result {found['same']}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    good = all(f["same"] and f["look_whole"] == f["are_whole"] for f in figures["killed"].values())
    sys.exit(0 if figures["identical"] and good else 1)


def measure(work: Path, num_layers: int) -> dict[str, Any]:
    """Return all figures."""
    base, parts, merged = work / "base", work / "parts", work / "merged"
    os.environ["EMSFL_CACHE_DIR"] = str(work / "cache")
    make_checkpoint(base, num_layers)
    write_assignment(work, base)
    split = ["split", str(base), "--assignment", str(work / "assignment.json"), "--json"]
    copies = [timed_copy(base, work / "copy")]
    split_row = timed(*split, "--out", str(parts)) | {"bytes": total_bytes(parts)}
    copies.append(timed_copy(base, work / "copy"))
    updates = [word for part in sorted(parts.iterdir()) for word in ("--updates", str(part))]
    merge = ["merge", str(base), *updates, "--json"]
    merge_row = timed(*merge, "--out", str(merged)) | {"bytes": total_bytes(merged)}
    hashes = hashes_below(merged)
    shutil.rmtree(merged)
    copies.append(timed_copy(base, work / "copy"))
    shutil.rmtree(work / "cache")
    anew_row = timed(*merge, "--out", str(merged)) | {"bytes": total_bytes(merged)}
    shutil.rmtree(merged)
    copies.append(timed_copy(base, work / "copy"))
    rows = [copies[0], split_row, copies[1], merge_row, copies[2], anew_row, copies[3]]
    for row in rows:
        row["rate"] = row["bytes"] / row["seconds"]
    for row, before, after in zip(
        (split_row, merge_row, anew_row), copies, copies[1:], strict=False
    ):
        row["of_a_copy"] = 2 * row["rate"] / (before["rate"] + after["rate"])
    names = ("copy", "split", "copy", "merge", "copy", "anew", "copy")
    killed = {"merge": killed_and_again(merge, merged, hashes, merge_row["bytes"] // 2)}
    shutil.rmtree(merged)
    expected = hashes_below(parts)
    shutil.rmtree(parts)
    killed["split"] = killed_and_again(split, parts, expected, split_row["bytes"] // 2)
    original = {name: value for name, value in hashes_below(base).items() if SUFFIX in name}
    return {
        "timed": [{"name": name, **row} for name, row in zip(names, rows, strict=True)],
        "identical": original == {name: hashes[name] for name in hashes if SUFFIX in name},
        "killed": killed,
    }


def killed_and_again(
    command: list[str], out: Path, expected: dict[str, str], num_bytes: int
) -> dict[str, Any]:
    """Kill a command half-way, look at what it left, start it again, compare with `expected`.

    Args:
        command: of emsfl, without `--out`.
        out: the folder that it makes, or fills with folders.
        expected: name of every file below `out` -> its hash.
        num_bytes: what it has written when it is killed.
    """
    written = kill_half_way(out, num_bytes, *command, "--out", str(out))
    left = hashes_below(out)
    look_whole = {Path(name).parent for name in left if not Path(name).parent.name.startswith(".")}
    are_whole = {
        folder
        for folder in look_whole
        if all(left.get(n) == v for n, v in expected.items() if Path(n).parent == folder)
    }
    hidden = [*out.glob(f".*/[!.]*{SUFFIX}"), *out.parent.glob(f".{out.name}.*/[!.]*{SUFFIX}")]
    timed(*command, "--out", str(out))
    return {
        "bytes_written": written,
        "look_whole": len(look_whole),
        "are_whole": len(are_whole),
        "files_kept": len(hidden),
        "same": hashes_below(out) == expected,
    }


def hashes_below(folder: Path) -> dict[str, str]:
    """Return the BLAKE3 hash of every file below a folder, by its name in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(2) as pool:
        hashes = pool.map(blake3_of_file, paths)
    return {str(path.relative_to(folder)): value for path, value in zip(paths, hashes, strict=True)}


def total_bytes(folder: Path) -> int:
    """Return the bytes of the tensor files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(f"*{SUFFIX}"))


def write_assignment(work: Path, base: Path) -> None:
    """Give every part a random quarter of the experts of each layer."""
    from emsfl.moe.inspection import inspect_checkpoint

    found = inspect_checkpoint(base)
    draw = random.Random(0)
    shuffled = [draw.sample(range(NUM_EXPERTS), NUM_EXPERTS) for _ in found.layers]
    share = NUM_EXPERTS // NUM_PARTS
    clusters = {
        f"part{part}": {
            "owned": [sorted(ids[part * share : (part + 1) * share]) for ids in shuffled],
            "mass_kept": [share / NUM_EXPERTS] * len(found.layers),
            "num_samples": 1,
        }
        for part in range(NUM_PARTS)
    }
    document = {
        "structure_sha256": found.structure_sha256,
        "kind": "mean_gate",
        "layers": [layer.name for layer in found.layers],
        "num_experts": NUM_EXPERTS,
        "clusters": clusters,
    }
    (work / "assignment.json").write_text(json.dumps(document))


def timed_copy(source: Path, target: Path) -> dict[str, float]:
    """Copy the tensor files and wait until they are on disk; then remove the copy."""
    target.mkdir()
    start, cpu_start = time.monotonic(), time.process_time()
    for path in source.glob(f"*{SUFFIX}"):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as copied:
            os.fsync(copied.fileno())
    seconds, cpu_s = time.monotonic() - start, time.process_time() - cpu_start
    num_bytes = total_bytes(target)
    shutil.rmtree(target)
    return {"seconds": seconds, "cpu_s": cpu_s, "bytes": num_bytes}


def start_command(*arguments: str) -> int:
    """Start an emsfl command in a process of its own, its output thrown away; return its id."""
    program = "from emsfl.cli import main; main()"
    devnull = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, devnull, 1)]
    words = [sys.executable, "-c", program, *arguments]
    return os.posix_spawn(sys.executable, words, os.environ, file_actions=actions)


def timed(*arguments: str) -> dict[str, float]:
    """Run an emsfl command; return its time and peak resident memory."""
    start = time.monotonic()
    _, status, usage = os.wait4(start_command(*arguments), 0)
    if status:
        raise SystemExit(f"emsfl {' '.join(arguments)} failed")
    return {
        "seconds": time.monotonic() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_MB": usage.ru_maxrss * 1024 / 1e6,
    }


def kill_half_way(folder: Path, num_bytes: int, *arguments: str) -> int:
    """Start an emsfl command and kill it when it has written `num_bytes` near `folder`."""
    before = bytes_below(folder.parent)
    process = start_command(*arguments)
    while (written := bytes_below(folder.parent) - before) < num_bytes:
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "it ended before it was killed"
    return written


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder in which a process is writing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size
    return total


if __name__ == "__main__":
    main()
