"""`emsfl inspect`: what a mixture-of-experts checkpoint holds."""

from __future__ import annotations

from emsfl.cli.model_options import AsJson, Model, human_bytes, print_json, print_table


def inspect(model: Model, as_json: AsJson = False) -> None:
    """Show a checkpoint's MoE layers, sizes, and how many clusters can share its experts.

    Reads the headers of the files only.
    """
    from emsfl.moe.inspection import inspect_checkpoint
    from emsfl.moe.pretrained import resolve_folder

    found = inspect_checkpoint(resolve_folder(model))
    if as_json:
        print_json(found)
        return
    known = "" if found.known_family else ", a family not described: defaults are taken"
    print_table(
        ["layer", "experts", "top-k", "bytes per expert", "tensors of one expert"],
        [
            [
                layer.name,
                layer.num_experts,
                layer.top_k,
                human_bytes(layer.bytes_per_expert),
                ", ".join(f"{n} {s}" for n, s in layer.expert_shapes.items()),
            ]
            for layer in found.layers
        ],
    )
    print_table(
        [f"{found.model_class} ({found.model_type}{known})", ""],
        [
            ["all tensors", human_bytes(found.total_bytes)],
            ["shared parameters", human_bytes(found.shared_bytes)],
            ["least experts per cluster and layer", found.min_experts_per_cluster],
            ["clusters that fit", found.max_clusters],
        ],
    )
