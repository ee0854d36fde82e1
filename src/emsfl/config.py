"""Load, override and validate configuration files; the fields themselves belong to the rooms."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticSerializationError, to_jsonable_python

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

    Precedence: `overrides` ("dotted.key=value", value in YAML) > file > default. Values are not
    bent into another type: text is no number, true is not 1, 1.5 is no integer.

    Raises:
        ConfigError: missing or empty file, YAML that does not parse, a key given twice, unknown key
            (with the nearest valid name), or a value out of range (with field, value and range).
    """
    if isinstance(source, Mapping):
        name, tree = "config", _plain(source)
    else:
        name, tree = f"config file {source}", _read_yaml(Path(source))
    if not tree:
        raise ConfigError(f"{name} is empty; start from configs/demo.yaml")
    for override in overrides:
        _apply(tree, override)
    try:
        return model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(model, tree, error)) from None


def to_yaml(config: BaseModel) -> str:
    """Return every field of `config` as YAML that `load_config` reads back to an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


# --- reading -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (1e-3 is a number, NO is text, dates stay text); no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key != "<<":
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"key {key!r} is given twice, again in line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that would read as something else is quoted."""


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


def _use_yaml_1_2(kind: type[_Loader | _Dumper]) -> None:
    prefix = "tag:yaml.org,2002:"
    dropped = {prefix + name for name in (*_SCALARS, "timestamp")}
    kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in dropped]
        for first, resolvers in kind.yaml_implicit_resolvers.items()
    }
    for name, (pattern, first) in _SCALARS.items():
        kind.add_implicit_resolver(prefix + name, re.compile(f"^(?:{pattern})$"), list(first))


_use_yaml_1_2(_Loader)
_use_yaml_1_2(_Dumper)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"config file {path} is not valid YAML: {where}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold keys and values, not {_shown(tree)}")
    return _plain(tree)


def _plain(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a copy that consists of dicts, lists, text, numbers, true, false and null only."""
    try:
        plain: dict[str, Any] = to_jsonable_python(dict(tree), inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise ConfigError(f"config holds a value that is not plain YAML: {error}") from None
    return plain


# --- overriding ----------------------------------------------------------------------------------


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r} must read key=value, such as orbit.hours=24")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    *parents, last = parts
    node: Any = tree
    for part in parents:
        place = _place(node, part, override)
        if node[place] is None:
            node[place] = {}
        node = node[place]
    node[_place(node, last, override)] = value


def _place(node: Any, part: str, override: str) -> str | int:
    """Return the key or index of `part` in `node`; a missing key is made, with None."""
    if isinstance(node, dict):
        node.setdefault(part, None)
        return part
    if not isinstance(node, list):
        raise ConfigError(f"override {override!r}: {part!r} lies below a plain value")
    if not (part.isascii() and part.isdigit()) or int(part) >= len(node):
        known = f"must be an index from 0 to {len(node) - 1}" if node else "lies in an empty list"
        raise ConfigError(f"override {override!r}: {part!r} {known}")
    return int(part)


# --- explaining ----------------------------------------------------------------------------------

Location = tuple[int | str, ...]


def _explain(model: type[BaseModel], tree: dict[str, Any], error: ValidationError) -> str:
    """Return one line for the problem to mend first, and how many more there are."""
    problems = _nearest_alternative(tree, error.errors(include_url=False))
    problems.sort(
        key=lambda problem: problem["type"] != "extra_forbidden"
    )  # explains a missing one
    first = problems[0]
    line = " ".join(_describe(model, tree, first).split())
    more = len(problems) - 1
    return line + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _describe(model: type[BaseModel], tree: dict[str, Any], problem: ErrorDetails) -> str:
    path, _ = _follow(tree, problem)
    name = ".".join(str(part) for part in path) or "config"
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _describe_unknown(path, sorted(_fields_at(model, problem["loc"][:-1])))
    if kind == "missing":
        return f"{name} is missing; add it"
    if kind == "union_tag_not_found":
        return f"{name}.{_tag_name(context)} is missing; add it"
    if kind == "union_tag_invalid":
        key = _tag_name(context)
        return f"{name}.{key} = {context['tag']!r}: must be one of {context['expected_tags']}"
    field = _fields_at(model, problem["loc"][:-1]).get(str(problem["loc"][-1])) if path else None
    bounds = value_range(field) if field and kind.startswith(("greater_", "less_")) else ""
    reason = (
        f"must be {bounds}"
        if bounds
        else problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    )
    reason = reason[:1].lower() + reason[1:]
    if isinstance(value, dict):
        return f"{name}: {reason}"
    return f"{name} = {_shown(value)}: {reason}"


def _tag_name(context: Mapping[str, Any]) -> str:
    """Return the key that tells alternatives apart: a field's name, or that of a function."""
    return str(context["discriminator"]).strip("'").removesuffix("()")


def _describe_unknown(path: Location, known: list[str]) -> str:
    *parents, last = (str(part) for part in path)
    line = f"unknown key {'.'.join([*parents, last])!r}"
    if not known:
        return f"{line}; this section takes no keys"
    near = difflib.get_close_matches(last, known, n=1, cutoff=0.0)[0]
    line += f"; did you mean {'.'.join([*parents, near])!r}?"
    if difflib.get_close_matches(last, known, n=1):
        return line
    return f"{line} Valid here: {', '.join(known)}"


_LIMITS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def value_range(field: FieldInfo) -> str:
    """Return the range that a field's value must be in, in words; "" when it has none."""
    limits = {
        word: _number(getattr(item, attribute))
        for item in _constraints(field)
        for attribute, word in _LIMITS.items()
        if getattr(item, attribute, None) is not None
    }
    if limits.keys() == {"at least", "at most"}:
        return f"from {limits['at least']} to {limits['at most']}"
    return " and ".join(f"{word} {limit}" for word, limit in limits.items())


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _constraints(field: FieldInfo) -> list[Any]:
    """Return what constrains the value itself, also where null is allowed beside it."""
    inner = [
        item
        for alternative in get_args(field.annotation)
        for part in getattr(alternative, "__metadata__", ())
        for item in (part.metadata if isinstance(part, FieldInfo) else [part])
    ]
    return [*field.metadata, *(inner if type(None) in get_args(field.annotation) else [])]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _follow(tree: Any, problem: ErrorDetails) -> tuple[Location, Location]:
    """Split a location into the path in the user's file and the first union's alternative.

    pydantic puts the name of a union's alternative between the keys; the user never wrote it.

    Returns:
        The keys and indices that the user wrote, and the location up to and with the first
        alternative, empty where there is none.
    """
    path: list[int | str] = []
    alternative: Location = ()
    location = problem["loc"]
    node = tree
    for depth, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        if inside or (isinstance(node, list) and isinstance(part, int) and part < len(node)):
            node = node[part]
            path.append(part)
        elif depth == len(location) - 1 and problem["type"] == "missing":
            path.append(part)
        elif not alternative:
            alternative = location[: depth + 1]
    return tuple(path), alternative


def _nearest_alternative(tree: Any, problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Of each union keep the problems of one alternative: of the right type, then the fewest."""
    found = [_follow(tree, problem)[1] for problem in problems]
    ranks: dict[Location, tuple[bool, int]] = {}
    for problem, alternative in zip(problems, found, strict=True):
        of_other_type, count = ranks.get(alternative, (False, 0))
        of_other_type |= problem["loc"] == alternative and problem["type"].endswith("_type")
        ranks[alternative] = (of_other_type, count + 1)
    best: dict[Location, Location] = {}
    for alternative in filter(None, found):
        rival = best.setdefault(alternative[:-1], alternative)
        if ranks[alternative] < ranks[rival]:
            best[alternative[:-1]] = alternative
    return [
        problem
        for problem, alternative in zip(problems, found, strict=True)
        if not alternative or best[alternative[:-1]] == alternative
    ]


def _fields_at(model: type[BaseModel], location: Location) -> dict[str, FieldInfo]:
    """Return the fields of the section at `location`, by name."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        found = [
            inner
            for current in models
            if str(part) in current.model_fields
            for inner in _models_in(current.model_fields[str(part)].annotation)
        ]
        models = found or [one for one in models if _is_alternative(one, part)] or models
    return {name: field for current in models for name, field in current.model_fields.items()}


def _is_alternative(model: type[BaseModel], part: int | str) -> bool:
    fields = model.model_fields.values()
    return part == model.__name__ or any(part in get_args(field.annotation) for field in fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
