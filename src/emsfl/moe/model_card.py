"""The README.md of the checkpoints that emsfl writes: where they come from."""

from __future__ import annotations

from collections.abc import Sequence

from emsfl.moe.manifests import Manifest


def sub_model_card(manifest: Manifest) -> str:
    """Return the card of one cluster's sub-model."""
    return f"""---
library_name: transformers
tags: [mixture-of-experts, federated-learning, emsfl]
---
# Sub-model of {manifest.base.name} for cluster {manifest.cluster}

Cut out by `emsfl split`: all shared parameters, {_counts(manifest)} experts, and their router rows.
It loads with the stock class. `emsfl.json` lists the original expert ids and the files' hashes.

| layer | experts, by their ids in the base model |
|---|---|
{_rows(manifest)}

Base model: {manifest.base.name}, SHA-256 {manifest.base.sha256}.
"""


def merged_card(manifests: Sequence[Manifest], has_gate: bool) -> str:
    """Return the card of a merged model."""
    base = manifests[0].base
    rows = "\n".join(
        f"| {m.cluster} | {_counts(m)} | {m.training.num_steps if m.training else 0} "
        f"| {m.num_samples} | {m.training.mode if m.training else 'as cut'} |"
        for m in manifests
    )
    gate = (
        "\nA domain gate lies beside the weights (`domain_gate.safetensors`): "
        "`emsfl.moe.load_gated(folder)` loads the model with it. If layers below the first expert "
        "layer were tuned, `domain_gate_layers.safetensors` holds their tensors as pre-trained, "
        "which the gate reads.\n"
        if has_gate
        else ""
    )
    return f"""---
library_name: transformers
tags: [mixture-of-experts, federated-learning, emsfl]
---
# {base.name}, merged from {len(manifests)} clusters

Written by `emsfl merge`: every cluster's experts at their places in the base model; shared
parameters moved by the mean of the clusters' changes, weighted by their samples. It loads with the
stock class. `emsfl.json` holds the provenance.

| cluster | experts per layer | steps | samples | mode |
|---|---|---|---|---|
{rows}
{gate}
Base model: {base.name}, SHA-256 {base.sha256}.
"""


def _counts(manifest: Manifest) -> str:
    """Return how many of a layer's experts are held, such as `4 of 16`."""
    held = sorted({len(layer.owned) for layer in manifest.layers})
    shown = str(held[0]) if len(held) == 1 else f"{held[0]} to {held[-1]}"
    return f"{shown} of {manifest.layers[0].num_experts}"


def _rows(manifest: Manifest) -> str:
    return "\n".join(
        f"| {layer.name} | {', '.join(str(e) for e in layer.owned)} |" for layer in manifest.layers
    )
