"""Split a full-size checkpoint into four and merge it back: speed against a plain copy, and memory.

Run: python benchmarks/checkpoint_streaming.py [--layers 16] [--folder DIR] [--json FILE]

Needs about 60 GB of disk for the 13.8 GB of OLMoE-1B-7B (16 layers), all of it removed at the end.
A copy is timed by `shutil.copyfile` and `fsync`, since split and merge end with `fsync` too; rates
are bytes written per second. Split and merge also hash every byte that they read. The second
split is killed (SIGKILL) half-way and started again.
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
from pathlib import Path

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
    print(f"{'':22}{'GB written':>12}{'seconds':>10}{'MB/s':>8}{'of a copy':>11}{'peak RSS':>10}")
    for name in ("copy", "split", "merge"):
        row = figures[name]
        rss = f"{row['peak_rss_MB']:.0f} MB" if "peak_rss_MB" in row else ""
        share = f"{row['rate'] / figures['copy']['rate']:.2f}"
        print(
            f"{name:22}{row['bytes'] / 1e9:12.2f}{row['seconds']:10.1f}"
            f"{row['rate'] / 1e6:8.0f}{share:>11}{rss:>10}"
        )
    print(f"merged files identical to the original: {figures['identical']}")
    print(f"after kill -9: folders that look whole {figures['whole_after_kill']}", end=", ")
    print(f"files kept {figures['files_kept']}, same result {figures['same_after_kill']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["identical"] and figures["same_after_kill"] else 1)


def measure(work: Path, num_layers: int) -> dict[str, dict[str, float] | bool | int]:
    """Return all figures."""
    base = work / "base"
    make_checkpoint(base, num_layers)
    size = total_bytes(base)
    write_assignment(work, base)
    copy = timed_copy(base, work / "copy")
    shutil.rmtree(work / "copy")
    command = ["split", str(base), "--assignment", str(work / "assignment.json"), "--json"]
    split = timed(*command, "--out", str(work / "parts"))
    parts = sorted((work / "parts").iterdir())
    split_bytes = sum(total_bytes(part) for part in parts)
    updates = [word for part in parts for word in ("--updates", str(part))]
    merge = timed("merge", str(base), *updates, "--out", str(work / "merged"), "--json")
    identical = manifest_files(work / "merged") == base_files(parts[0])
    shutil.rmtree(work / "merged")
    first = [manifest_files(part) for part in parts]
    shutil.rmtree(work / "parts")
    kill_half_way(work / "parts", split_bytes // 2, *command, "--out", str(work / "parts"))
    left = list((work / "parts").iterdir())
    whole = [folder for folder in left if not folder.name.startswith(".")]
    kept = len(list((work / "parts").glob(f"*/[!.]*{SUFFIX}")))
    timed(*command, "--out", str(work / "parts"))
    complete = all(manifest_files(folder) == first[parts.index(folder)] for folder in whole)
    again = [manifest_files(part) for part in sorted((work / "parts").iterdir())]
    return {
        "copy": {**copy, "bytes": size, "rate": size / copy["seconds"]},
        "split": {**split, "bytes": split_bytes, "rate": split_bytes / split["seconds"]},
        "merge": {**merge, "bytes": size, "rate": size / merge["seconds"]},
        "identical": identical,
        "whole_after_kill": len(whole),
        "files_kept": kept,
        "same_after_kill": complete and again == first,
    }


def total_bytes(folder: Path) -> int:
    """Return the bytes of a folder's tensor files."""
    return sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))


def manifest_files(folder: Path) -> dict[str, str]:
    """Return the tensor files and hashes that a manifest lists."""
    files: dict[str, str] = json.loads((folder / "emsfl.json").read_text())["files"]
    return files


def base_files(part: Path) -> dict[str, str]:
    """Return the original's tensor files and hashes, as a part's manifest lists them."""
    files: dict[str, str] = json.loads((part / "emsfl.json").read_text())["base"]["file_sha256"]
    return files


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
    """Copy the tensor files and wait until they are on disk."""
    target.mkdir()
    start = time.monotonic()
    for path in source.glob(f"*{SUFFIX}"):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as copied:
            os.fsync(copied.fileno())
    return {"seconds": time.monotonic() - start}


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
    return {"seconds": time.monotonic() - start, "peak_rss_MB": usage.ru_maxrss * 1024 / 1e6}


def kill_half_way(folder: Path, num_bytes: int, *arguments: str) -> None:
    """Start an emsfl command and kill it when so many bytes lie in `folder`."""
    process = start_command(*arguments)
    while bytes_below(folder) < num_bytes:
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "it ended before it was killed"


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder in which a process is writing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size
    return total


if __name__ == "__main__":
    main()
