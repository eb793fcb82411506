"""The page of manifest.json, from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from torchlift.manifest import manifest_schema

_INTRODUCTION = """# The manifest

What `manifest.json` of a bundle holds, generated from its JSON Schema
([manifest.schema.json](../manifest.schema.json)). `Manifest` is the whole file; the others are its parts.
"""


def page() -> str:
    """Each part of the manifest with its fields."""
    parts = [_INTRODUCTION]
    for name, entity in manifest_schema()["$defs"].items():
        parts.extend(_entity(name, entity))
    return "\n".join(parts)


def _entity(name: str, entity: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{entity.get('description', '')}\n"
    if "properties" in entity:
        yield "| field | type | default |\n|---|---|---|"
        required = entity.get("required", ())
        for field, kind in entity["properties"].items():
            yield f"| `{field}` | {_type(kind)} | {'' if field in required else _default(kind)} |"
        yield ""


def _default(kind: dict[str, Any]) -> str:
    """What a field holds where it is left out; the schema does not state containers without entries."""
    return f"`{json.dumps(kind['default'], ensure_ascii=False)}`" if "default" in kind else "empty"


def _type(kind: dict[str, Any]) -> str:
    """A type in words, for example "array of [Axis](#axis)"."""
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(_type(each) for each in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(f"`{json.dumps(value)}`" for value in kind["enum"])
    if "prefixItems" in kind:
        return f"array of {', '.join(_type(each) for each in kind['prefixItems'])}"
    if isinstance(kind.get("items"), dict):
        return f"array of {_type(kind['items'])}"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"object of {_type(kind['additionalProperties'])}"
    return str(kind.get("type", "anything"))
