"""Turn a dense checkpoint into a mixture of experts (sparse upcycling, arXiv 2212.05055).

Every feed-forward block becomes E copies of itself under a fresh router. Since the copies agree
and the weights of the chosen ones sum to 1, the outputs stay those of the dense model.

Decoders become a stock class (Llama and Mistral become Mixtral, Qwen3 becomes Qwen3-MoE), their
files copied byte range by byte range. Encoders become `modeling_upcycled.py`'s class.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emsfl.errors import ConfigError, DataError
from emsfl.files import sha256_of, write_json
from emsfl.moe.checkpoint import INDEX_NAME, Checkpoint, open_checkpoint
from emsfl.moe.pretrained import (
    CARRIED_SUFFIXES,
    full_config,
    import_transformers,
    skeleton,
)
from emsfl.moe.split_checkpoint import finish_partial, prepare_partial, shard_names
from emsfl.moe.tensor_files import DTYPES, NewTensor, StoredTensor, new_header, write_file

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece*.model",
    "spiece.model",
    "chat_template*",
    "preprocessor_config.json",
)
SEQUENCES = "ForSequenceClassification"
ROUTER_DEVIATION = 0.02
"""Standard deviation of a fresh router's weights."""


@dataclass(frozen=True)
class DecoderTarget:
    """The stock mixture that a dense decoder becomes."""

    config_class: str
    model_class: str
    count_field: str
    router: str
    expert: str
    """Name of an expert's tensor; `{}` are its number and its part."""
    parts: Mapping[str, str]
    """Dense projection -> part of an expert."""
    settings: Mapping[str, Any]
    """Further fields of the configuration."""


MIXTRAL = DecoderTarget(
    "MixtralConfig",
    "MixtralForCausalLM",
    "num_local_experts",
    "block_sparse_moe.gate.weight",
    "block_sparse_moe.experts.{}.{}.weight",
    {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
    {"router_jitter_noise": 0.0},
)
QWEN3 = DecoderTarget(
    "Qwen3MoeConfig",
    "Qwen3MoeForCausalLM",
    "num_experts",
    "mlp.gate.weight",
    "mlp.experts.{}.{}.weight",
    {"gate_proj": "gate_proj", "down_proj": "down_proj", "up_proj": "up_proj"},
    {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
)
DECODERS = {"llama": MIXTRAL, "mistral": MIXTRAL, "qwen3": QWEN3}
"""Dense model type -> what it becomes."""


@dataclass(frozen=True, kw_only=True)
class UpcycleSettings:
    """What mixture to make."""

    num_experts: int
    top_k: int
    layers: tuple[int, ...] | None
    """Numbers of the layers that get experts (encoders); None for all."""
    labels: tuple[str, ...]
    """Classes of a fresh classifier on an encoder; empty for the bare encoder."""
    seed: int


def upcycle(folder: Path, out: Path, settings: UpcycleSettings) -> None:
    """Write the mixture that a dense checkpoint becomes.

    Raises:
        DataError: a model type that is neither a known decoder nor a known encoder, or `out` is
            there already.
        ConfigError: settings out of range.
    """
    config = full_config(folder)
    kind = str(config.get("model_type"))
    if not 1 <= settings.top_k <= settings.num_experts:
        raise ConfigError(
            f"top-k = {settings.top_k} must lie in 1..{settings.num_experts}, the experts"
        )
    labels = settings.labels
    if labels and (len(set(labels)) < max(2, len(labels)) or "" in labels):
        raise ConfigError(f"labels = {','.join(labels)!r} must be two or more different names")
    if out.exists():
        raise DataError(f"{out} exists; remove it or choose another out")
    encoders = _modeling().ENCODERS
    if kind not in DECODERS and kind not in encoders:
        raise DataError(
            f"{folder} is of type {kind!r}; upcycling knows {', '.join([*DECODERS, *encoders])}"
        )
    partial_folder = out.with_name(f".{out.name}.partial")
    prepare_partial(partial_folder, sha256_of("upcycle", str(folder), repr(settings)))
    if kind in DECODERS:
        if settings.layers is not None or settings.labels:
            raise ConfigError(f"a decoder ({kind}) takes neither layers nor labels")
        _write_decoder(folder, partial_folder, config, settings)
    else:
        _write_encoder(folder, partial_folder, config, settings)
    for pattern in TOKENIZER_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.suffix in CARRIED_SUFFIXES:
                shutil.copyfile(path, partial_folder / path.name)
    finish_partial(partial_folder, out)


def _write_decoder(
    folder: Path, out: Path, config: Mapping[str, Any], settings: UpcycleSettings
) -> None:
    transformers = import_transformers()
    target = DECODERS[str(config["model_type"])]
    for field in ("attention_bias", "mlp_bias"):
        if config.get(field):
            raise DataError(f"{folder}: {field} = true has no place in {target.model_class}")
    config_class = getattr(transformers, target.config_class)
    known = set(inspect.signature(config_class).parameters)
    fields = {key: value for key, value in config.items() if key in known}
    fields.update(
        {
            **target.settings,
            target.count_field: settings.num_experts,
            "num_experts_per_tok": settings.top_k,
            "architectures": [target.model_class],
        }
    )
    if target is QWEN3:
        fields["moe_intermediate_size"] = config["intermediate_size"]
    config_class(**fields).save_pretrained(out)
    checkpoint = open_checkpoint(folder)
    names = skeleton(folder).state_dict().keys()
    generator = torch.Generator().manual_seed(settings.seed)
    contents = [
        [
            new
            for tensor in tensors
            if tensor.name in names
            for new in _upcycled(tensor, target, settings, generator)
        ]
        for tensors in checkpoint.files.values()
    ]
    _write_shards(out, contents, checkpoint)


def _upcycled(
    tensor: StoredTensor,
    target: DecoderTarget,
    settings: UpcycleSettings,
    generator: torch.Generator,
) -> Iterator[NewTensor]:
    """Yield what one dense tensor becomes: itself, or the same part of every expert."""
    match = re.fullmatch(r"(.*\.)mlp\.(\w+)\.weight", tensor.name)
    if match is None:
        yield NewTensor(
            name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, pieces=tensor.whole
        )
        return
    prefix, projection = match.groups()
    for expert in range(settings.num_experts):
        name = prefix + target.expert.format(expert, target.parts[projection])
        yield NewTensor(name=name, dtype=tensor.dtype, shape=tensor.shape, pieces=tensor.whole)
    if projection == "gate_proj":
        shape = (settings.num_experts, tensor.shape[1])
        router = torch.randn(shape, generator=generator) * ROUTER_DEVIATION
        content = router.to(DTYPES[tensor.dtype]).view(torch.uint8).numpy().tobytes()
        yield NewTensor(
            name=prefix + target.router,
            dtype=tensor.dtype,
            shape=shape,
            pieces=lambda: [content],
        )


def _write_shards(out: Path, contents: Sequence[list[NewTensor]], checkpoint: Checkpoint) -> None:
    names = shard_names(len(checkpoint.headers))
    for name, tensors in zip(names, contents, strict=True):
        write_file(out / name, new_header(tensors), tensors, lambda _count: None)
    if len(names) > 1:
        places = {t.name: n for n, tensors in zip(names, contents, strict=True) for t in tensors}
        write_json(out / INDEX_NAME, {"metadata": {}, "weight_map": places})


def _write_encoder(
    folder: Path, out: Path, config: Mapping[str, Any], settings: UpcycleSettings
) -> None:
    modeling = _modeling()
    transformers = import_transformers()
    kind = str(config["model_type"])
    dense = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, **modeling.encoder_settings(kind)
    )
    model = upcycle_encoder(dense, settings)
    task = "ForImageClassification" if kind == "vit" else "ForSequenceClassification"
    model.config.auto_map = {
        "AutoConfig": "modeling_upcycled.UpcycledConfig",
        "AutoModel": "modeling_upcycled.UpcycledModel",
        **(
            {f"AutoModel{task}": f"modeling_upcycled.{type(model).__name__}"}
            if settings.labels
            else {}
        ),
    }
    model.to(dense.dtype).save_pretrained(out)
    shutil.copyfile(inspect.getfile(modeling), out / "modeling_upcycled.py")


def upcycle_encoder(dense: Any, settings: UpcycleSettings) -> Any:
    """Return the mixture that a dense encoder becomes, in float32.

    Args:
        dense: a model of a type in `modeling_upcycled.ENCODERS`, without pooler.
        settings: which layers become mixtures; with `labels`, a fresh classifier comes on top.

    Raises:
        ConfigError: layers out of range.
    """
    modeling = _modeling()
    config = upcycled_config(dense.config, settings)
    num_layers = len(dense.get_submodule(modeling.ENCODERS[dense.config.model_type].layers))
    if not config.moe_layers or not all(0 <= n < num_layers for n in config.moe_layers):
        raise ConfigError(f"layers = {settings.layers} must lie in 0..{num_layers - 1}")
    task = "ForImageClassification" if dense.config.model_type == "vit" else SEQUENCES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # draws the classifier
        model = modeling.CLASSES[f"Upcycled{task}" if settings.labels else "UpcycledModel"](config)
    generator = torch.Generator().manual_seed(settings.seed)
    _copy_dense(dense, model.encoder if settings.labels else model, config, generator)
    return model


def upcycled_config(dense: Any, settings: UpcycleSettings) -> Any:
    """Return the configuration of the mixture that the encoder of `dense` becomes."""
    modeling = _modeling()
    names = dict(enumerate(settings.labels))
    layers = range(dense.num_hidden_layers) if settings.layers is None else settings.layers
    return modeling.UpcycledConfig(
        dense=dense.to_dict(),
        num_experts=settings.num_experts,
        num_experts_per_tok=settings.top_k,
        moe_layers=sorted(set(layers)),
        **({"id2label": names, "label2id": {v: k for k, v in names.items()}} if names else {}),
    )


@torch.no_grad()
def _copy_dense(dense: nn.Module, upcycled: Any, config: Any, generator: torch.Generator) -> None:
    """Give every expert the weights of the dense block, and all else its own; draw routers."""
    modeling = _modeling()
    blocks = modeling.ENCODERS[config.dense["model_type"]]
    for number, layer in modeling.moe_layers(dense, config):
        mixture = upcycled.dense.get_submodule(f"{blocks.layers}.{number}.{blocks.replaced}")
        up: Any = layer.get_submodule(blocks.up)
        down: Any = layer.get_submodule(blocks.down)
        mixture.router.weight.normal_(std=ROUTER_DEVIATION, generator=generator)
        experts = mixture.experts
        for target, source in (
            (experts.up, up.weight),
            (experts.up_bias, up.bias),
            (experts.down, down.weight),
            (experts.down_bias, down.bias),
        ):
            target.copy_(source.expand_as(target))
    rest = {
        name: tensor
        for name, tensor in dense.state_dict().items()
        if name in upcycled.dense.state_dict()
    }
    upcycled.dense.load_state_dict(rest, strict=False)


def _modeling() -> Any:
    import_transformers()
    from emsfl.moe import modeling_upcycled

    return modeling_upcycled
