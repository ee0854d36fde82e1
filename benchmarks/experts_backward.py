"""Training steps of upcycled experts, against the loop that indexes the stacked tensors.

Run: python benchmarks/experts_backward.py [--steps 60] [--json FILE]

Two layers of MiniLM's size, 8 experts each, 2 per token, 400 to 900 tokens in a batch, Adam, one
thread. Indexing a stacked parameter gives every expert a gradient of the whole stack's size. Each
loop runs in a process of its own; memory is the most that it held.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.moe.modeling_upcycled import Experts, Router

SIZE, INNER, NUM_EXPERTS, TOP_K, NUM_LAYERS = 384, 1536, 8, 2, 2


class Indexed(Experts):
    """The same experts, indexed one by one."""

    def forward(self, tokens: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Return sum_k weights[:, k] * expert_{indices[:, k]}(tokens), [T, D]."""
        mixed = torch.zeros_like(tokens)
        for expert in indices.unique().tolist():
            rows, column = (indices == expert).nonzero(as_tuple=True)
            inner = functional.linear(tokens[rows], self.up[expert], self.up_bias[expert])
            inner = self.activation(inner)
            outer = functional.linear(inner, self.down[expert], self.down_bias[expert])
            mixed.index_add_(0, rows, outer * weights[rows, column, None])
        return mixed


def measure(kind: type[Experts], steps: int) -> dict[str, float]:
    """Train for `steps` steps; return seconds per step, peak bytes and the last loss."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    layers = nn.ModuleList()
    for _ in range(NUM_LAYERS):
        experts = kind(nn.Linear(SIZE, INNER), NUM_EXPERTS, functional.gelu)
        layers.append(nn.ModuleList([Router(SIZE, NUM_EXPERTS, TOP_K), experts]))
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-4)
    counts = torch.randint(400, 900, (steps,), generator=generator).tolist()
    batches = [torch.randn(count, SIZE, generator=generator) for count in counts]
    loss = torch.tensor(0.0)
    start = time.perf_counter()
    for hidden in batches:
        for layer in layers:
            router, experts = layer.children()
            _, weights, indices = router(hidden)
            hidden = hidden + experts(hidden, weights, indices)
        loss = hidden.square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    seconds = (time.perf_counter() - start) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds_per_step": seconds, "peak_bytes": peak, "loss": loss.item()}


def main() -> None:
    """Measure both and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    rows = {}
    for kind in (Indexed, Experts):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows[kind.__name__] = pool.apply(measure, (kind, arguments.steps))
    print(f"{'':10}{'ms a step':>12}{'peak GB':>10}{'loss':>12}")
    for name, row in rows.items():
        print(
            f"{name:10}{1e3 * row['seconds_per_step']:12.0f}{row['peak_bytes'] / 1e9:10.2f}"
            f"{row['loss']:12.6f}"
        )
    for key in ("seconds_per_step", "peak_bytes"):
        print(f"{key}: {rows['Experts'][key] / rows['Indexed'][key]:.2f} of the indexed loop's")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": arguments.steps, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
