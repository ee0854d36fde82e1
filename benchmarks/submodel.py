"""What a sub-model costs to tune against the full model: bytes, memory and time per step.

Run: python benchmarks/submodel.py [--repeats 3] [--json FILE]

Mixtral class, 4 layers, hidden size 256, expert size 512, 16 experts, top-2; batches of 8 x 128
tokens, Adam, experts train, shared parameters frozen, float32, one thread. Every measurement is a
process of its own, since peak memory is one number per process; sizes take turns, and the medians
over repeats are printed, since shared machines are noisy. Splitting saves memory, traffic and
optimiser state; products per token stay, for the number of experts per token does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEPT = (16, 8, 4)
NUM_EXPERTS = 16
NUM_STEPS = 8
BATCH, LENGTH, VOCABULARY = 8, 128, 3584


def main() -> None:
    """Print one table, or (in a process of its own) one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--measure", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as work:
        folders = make_parts(Path(work))
        found: dict[int, list[dict[str, float]]] = {kept: [] for kept in KEPT}
        for _ in range(arguments.repeats):
            for kept in KEPT:
                found[kept].append(measured(folders[kept]))
    rows = {
        kept: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for kept, runs in found.items()
    }
    full = rows[NUM_EXPERTS]
    columns = {
        "trained, M": ("trained", 1e6),
        "experts, MB": ("expert_bytes", 1e6),
        "optimiser, MB": ("optimizer_bytes", 1e6),
        "upload, MB": ("update_bytes", 1e6),
        "ms per step": ("step_s", 1e-3),
        "peak RSS, MB": ("peak_rss_bytes", 1e6),
    }
    print("experts kept" + "".join(f"{name:>22}" for name in columns))
    for kept, row in rows.items():
        cells = [
            f"{row[key] / unit:.1f} ({row[key] / full[key]:.2f})" for key, unit in columns.values()
        ]
        print(f"{kept:12}" + "".join(f"{cell:>22}" for cell in cells))
    print("in brackets: as a share of the full model's")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def make_parts(work: Path) -> dict[int, Path]:
    """Save a random model and sub-models of it with fewer experts; return their folders."""
    import torch
    import transformers

    from emsfl.moe.inspection import inspect_checkpoint
    from emsfl.moe.manifests import AssignmentFile
    from emsfl.moe.split_checkpoint import split_checkpoint

    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).save_pretrained(work / "base")
    found = inspect_checkpoint(work / "base")
    folders = {}
    for kept in KEPT:
        assignment = AssignmentFile.model_validate(
            {
                "structure_sha256": found.structure_sha256,
                "kind": "mean_gate",
                "layers": [layer.name for layer in found.layers],
                "num_experts": NUM_EXPERTS,
                "clusters": {
                    f"keep{kept}": {
                        "owned": [list(range(kept))] * len(found.layers),
                        "mass_kept": [kept / NUM_EXPERTS] * len(found.layers),
                        "num_samples": 1,
                    }
                },
            }
        )
        folders[kept] = split_checkpoint(work / "base", assignment, work, name="x")[0].folder
    return folders


def measured(folder: Path) -> dict[str, float]:
    """Measure in a process of its own, on one thread."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def measure(folder: Path) -> dict[str, float]:
    """Take steps as `emsfl tune` does and return what they cost."""
    import torch
    from torch.nn import functional

    from emsfl.training.tunable import Tunable
    from emsfl.training.tune_state import TuneState

    torch.set_num_threads(1)
    tunable = Tunable(folder, train_shared=False, low_precision=False, lora=None)
    state = TuneState(tunable.trained, tunable.groups, 1e-4, 1e-4)
    tunable.train_mode()
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(NUM_STEPS):
        ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
        start = time.perf_counter()
        logits = tunable.model(input_ids=ids).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        state.step(loss)
        times.append(time.perf_counter() - start)
    trained = sum(p.numel() for p in tunable.trained.values())
    experts = sum(p.numel() * p.element_size() for p in tunable.experts.values())
    return {
        "trained": trained,
        "expert_bytes": experts,
        "optimizer_bytes": state.optimizer_bytes,
        "update_bytes": 4 * trained,
        "step_s": statistics.median(times[2:]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
