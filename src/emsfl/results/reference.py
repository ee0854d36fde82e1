"""The reference page of `result.json`, written from the schema itself."""

from __future__ import annotations

import json
from typing import Any

from emsfl.results.schema import SCHEMA_VERSION, RunResult

_INTRODUCTION = f"""# `result.json`

What a run reports, field by field: schema version {SCHEMA_VERSION}. This page is generated from
`emsfl.results.schema`; do not edit it.

Per-seed lists are in the order of `seeds`. Accuracies are shares from 0 to 1. Times are virtual
seconds since the contact plan's epoch, unless the name says `wall`; every physical name carries its
unit. A number is always finite. Of two runs with the same config, only `provenance.created_utc` and
`provenance.wall_time_s` differ. Reading it in Python checks it against the schema:

```python
from emsfl.results import RunFolder

result = RunFolder.open("runs/demo").read_result()
```

A result whose `schema_version` is newer than the installed emsfl knows is refused.
"""


def result_reference() -> str:
    """Return the page as Markdown: a table per section, then the JSON schema."""
    schema = RunResult.model_json_schema()
    sections = {"RunResult": schema, **schema["$defs"]}
    parts = [_INTRODUCTION]
    parts += [_section(name, section) for name, section in sections.items()]
    parts.append(f"## JSON schema\n\n```json\n{json.dumps(schema, indent=2)}\n```\n")
    return "\n".join(parts)


def _section(name: str, section: dict[str, Any]) -> str:
    rows = [
        f"| `{field}` | {_type(value)} | {_line(value['description'])} |"
        for field, value in section["properties"].items()
    ]
    head = "| field | type | meaning |\n| --- | --- | --- |"
    about = _line(section["description"])
    return f"## {name}\n\n{about}\n\n{head}\n" + "\n".join(rows) + "\n"


def _type(value: dict[str, Any]) -> str:
    """Return a JSON schema type in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(option) for option in value["anyOf"])
    if value.get("type") == "array":
        items = value.get("prefixItems")
        if items is not None:
            return f"[{', '.join(_type(item) for item in items)}]"
        return f"list of {_type(value['items'])}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"name → {_type(inner)}" if isinstance(inner, dict) else "object"
    return str(value["type"])


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
