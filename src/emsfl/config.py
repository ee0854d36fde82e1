"""Load, override and validate configuration files; the fields themselves belong to the rooms."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from emsfl.errors import ConfigError


class ConfigModel(BaseModel):
    """Base of every config section: frozen, keyword-only, strict about unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(
    model: type[ConfigT],
    source: Path | str | Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> ConfigT:
    """Read `source` (a YAML file or a mapping) into `model`.

    Precedence: `overrides` ("dotted.key=value", value in YAML) > file > default.

    Raises:
        ConfigError: missing or empty file, YAML that does not parse, unknown key (with the nearest
            valid name), or a value out of range (with field, value and range).
    """
    if isinstance(source, Mapping):
        tree: Any = _copy(source)
    else:
        tree = _read_yaml(Path(source))
    for override in overrides:
        _apply(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(model, error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"config file {path} is not valid YAML: {where}") from None
    if tree is None:
        raise ConfigError(f"config file {path} is empty; start from configs/demo.yaml")
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold keys and values, not {tree!r}")
    return tree


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _copy(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_copy(value) for value in tree]
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} must read key=value, such as orbit.hours=24")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    node: Any = tree
    *parents, last = key.strip().split(".")
    for part in parents:
        if isinstance(node, list):
            node = node[_index(override, part, node)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            raise ConfigError(f"override {override!r}: {part!r} lies below a plain value")
    if isinstance(node, list):
        node[_index(override, last, node)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"override {override!r}: {last!r} lies below a plain value")


def _index(override: str, part: str, node: list[Any]) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"override {override!r}: {part!r} must be an index from 0 to {len(node) - 1}"
        )
    return int(part)


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """Return one line for the first problem, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join(location) or "config"
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        line = f"unknown key {name!r}"
        line += f"; did you mean {near[0]!r}?" if near else "; it takes no keys"
    elif first["type"] == "missing":
        line = f"{name} is missing; add it"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        value = first["input"]
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        line = f"{name} = {shown}: {reason[:1].lower()}{reason[1:]}"
    more = len(problems) - 1
    return line + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the valid key names of the section at `location`."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        found: list[type[BaseModel]] = []
        for current in models:
            field = current.model_fields.get(str(part))
            if field is not None:
                found += _models_in(field.annotation)
        models = found or models
    return sorted({name for current in models for name in current.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
