"""Models from checkpoint folders or hub names: configuration, skeleton, weights, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.moe.checkpoint import loaded_names, open_checkpoint
from emsfl.moe.tensor_files import DTYPES, StoredTensor

CARRIED_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".py")
"""Small files that travel with a checkpoint: configurations, tokenizer, chat template, code."""

OWN_FILES = ("emsfl.json", "domain_gate.json")
"""What emsfl says about one folder and no other."""


def resolve_folder(model: str) -> Path:
    """Return the folder of a model: the path itself, or a download from the Hugging Face hub.

    Raises:
        DataError: neither a folder nor a name that the hub (or its local cache) knows.
    """
    path = Path(model)
    if path.is_dir():
        return path
    hub = import_transformers("huggingface_hub")
    try:
        folder = hub.snapshot_download(
            model, allow_patterns=["*.safetensors", *(f"*{s}" for s in CARRIED_SUFFIXES)]
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"model {model!r} is no folder, and the hub did not give it: {_reason(error)}"
        ) from None
    return Path(folder)


def import_transformers(name: str = "transformers") -> Any:
    """Import a package of the `hf` extra.

    Raises:
        DataError: it is not installed; the message says how to install it.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"this needs the package {name.partition('.')[0]}; run: pip install 'emsfl[hf]'"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint folder.

    Raises:
        DataError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; is {path.parent} the right folder?") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def full_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's configuration with all fields, those at their defaults included."""
    fields: dict[str, Any] = _config(folder).to_dict()
    return fields


def skeleton(folder: Path) -> nn.Module:
    """Return the model of a checkpoint folder without weights: all tensors on the meta device."""
    config = _config(folder)
    with torch.device("meta"):
        model: nn.Module = _model_class(folder, config)._from_config(config)
    return model


def load_model(folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model of a checkpoint folder with its weights, in evaluation mode.

    Args:
        folder: where config and safetensors are.
        dtype: floating-point type to hold the weights in; default: as stored.

    Raises:
        DataError: tensor files that are no safetensors or are damaged, or tensors that the class
            needs are missing or do not fit.
    """
    stored = open_checkpoint(folder).tensors
    _check_dtypes(folder, stored)
    config = _config(folder)
    model, info = _model_class(folder, config).from_pretrained(
        folder,
        config=config,
        dtype=dtype or "auto",
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # to name one below, in place of a table on stderr
        local_files_only=True,
        output_loading_info=True,
    )
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info[problem]:
            first = str(sorted(info[problem])[0])
            raise DataError(f"{folder}: {problem.replace('_', ' ')}: {first}")
    loaded: nn.Module = model.eval()
    return loaded


def _check_dtypes(folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    """Raise DataError if integers are stored where the model has floating-point numbers."""
    empty = skeleton(folder)
    state = empty.state_dict()
    for name, target in loaded_names(empty, stored).items():
        if target is None or not state[target].is_floating_point():
            continue
        if not DTYPES[stored[name].dtype].is_floating_point:
            raise DataError(
                f"{stored[name].path}: tensor {name} is {stored[name].dtype} where the model has "
                "floating-point numbers"
            )


def stored_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a loaded model under the names, and in the pieces, that its files have."""
    if not hasattr(model, "base_model_prefix"):
        return dict(state)
    convert = import_transformers("transformers.core_model_loading").revert_weight_conversion
    stored: dict[str, Tensor] = convert(model, dict(state))
    return stored


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a checkpoint folder, with a padding token.

    Raises:
        DataError: the folder holds none.
    """
    tokenizer = _load_auto("AutoTokenizer", folder, "tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_image_processor(folder: Path) -> Any:
    """Return the image processor of a checkpoint folder.

    Raises:
        DataError: the folder holds none.
    """
    return _load_auto("AutoImageProcessor", folder, "image processor")


def _load_auto(class_name: str, folder: Path, what: str) -> Any:
    loader = getattr(import_transformers(), class_name)
    try:
        return loader.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} holds no {what} that can be read: {_reason(error)}") from None


def carried_files(folder: Path, *, with_index: bool = False) -> list[Path]:
    """Return the small files that a copy of a checkpoint takes along; emsfl's own stay behind."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix in CARRIED_SUFFIXES
        and path.name not in OWN_FILES
        and (with_index or not path.name.endswith(".safetensors.index.json"))
    )


def _config(folder: Path) -> Any:
    read_json(folder / "config.json")
    transformers = import_transformers()
    ill_typed = import_transformers("huggingface_hub.errors").StrictDataclassError
    _register_own(transformers)
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ill_typed) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder / 'config.json'} is no configuration known here: {reason}"
        ) from None


def _register_own(transformers: Any) -> None:
    """Let transformers know the configuration of upcycled encoders."""
    from emsfl.moe.modeling_upcycled import UpcycledConfig

    transformers.AutoConfig.register(UpcycledConfig.model_type, UpcycledConfig, exist_ok=True)


def _model_class(folder: Path, config: Any) -> Any:
    transformers = import_transformers()
    from emsfl.moe.modeling_upcycled import CLASSES

    names = config.architectures or []
    known = [getattr(transformers, name, None) or CLASSES.get(name) for name in names]
    found = next(filter(None, known), None)
    if found is None:
        raise DataError(
            f"{folder / 'config.json'}: architectures = {names} names no class of transformers "
            f"{transformers.__version__}"
        )
    return found


def _reason(error: Exception) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
