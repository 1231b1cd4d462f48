"""The reference of policies, made from the code: the table of ``policy.md`` and ``policy.schema.json``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import inspect

from lxcbuild.config.policy_schema import Table, keys, policy_file

_WRITTEN: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        **{unit: {"type": ["string", "integer"]} for unit in ("bytes", "relative", "rate", "cpus")},
        "percent": {"type": "string", "pattern": "%$"},
        "seconds": {"type": ["string", "number"]},
        "limits": {"type": ["string", "array"], "items": {"type": "string"}},
    }
)


def reference_table() -> str:
    """The table of keys in ``docs/reference/policy.md``."""
    lines = ["| key | meaning | cgroup v1 | cgroup v2 |", "|---|---|---|---|"]
    lines += [
        "| `description` | one line for `policy list` | | |",
        "| `inherits` | the policy that this one starts from | | |",
    ]
    for key in keys():
        beyond = "".join(f". Beyond it: class `{stop}`" for stop in key.stops[:1])
        lines.append(f"| `{key.name}` | {key.text}{beyond} | {key.v1} | {key.v2} |".replace("|  |", "| |"))
    lines.append(
        "| `packages` | list of `match` (pattern or patterns of names, as in `torch*`) and any limits from above | | |"
    )
    return "\n".join(lines).replace("|  |", "| |")


def json_schema() -> dict[str, Any]:
    """A policy file's schema as editors take it (JSON Schema 2020-12)."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "An isolation policy of lxcbuild"}
    return {**head, **_schema(policy_file())}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


def _schema(node: Any) -> dict[str, Any]:
    match node:
        case Table():
            inner = {name: _schema(each) for name, each in node.keys.items()}
            inner |= {name: _or_null(each) for name, each in inner.items() if name not in node.required}
            need = {"required": sorted(node.required)} if node.required else {}
            return {"type": "object", "additionalProperties": False, "properties": inner, **need}
        case inspect.Metadata():
            extra = node.extra or {}
            told = {"description": extra["text"]} if "text" in extra else {}
            return {**told, **(_WRITTEN.get(extra.get("unit", "")) or _schema(node.type))}
        case inspect.IntType() | inspect.FloatType():
            bounds = {"minimum": node.ge, "exclusiveMinimum": node.gt, "maximum": node.le}
            kind = "integer" if isinstance(node, inspect.IntType) else "number"
            return {"type": kind, **{name: bound for name, bound in bounds.items() if bound is not None}}
        case inspect.StrType():
            return {"type": "string"} | ({"pattern": node.pattern.replace(r"\Z", "$")} if node.pattern else {})
        case inspect.EnumType():
            return {"enum": [each.value for each in node.cls]}
        case inspect.BoolType():
            return {"type": "boolean"}
    return {"type": "array", "items": _schema(node.item_type)}
