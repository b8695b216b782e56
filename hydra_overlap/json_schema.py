"""The request as a JSON Schema: what an editor needs to complete and explain our YAML.

Option files hold one node each (`model/llama3_70b.yaml` is a `model`), a primary config holds them all: there is a schema
for each. Choices and limits are those of the CFG rules.
"""

import dataclasses
import json
import typing
from typing import Any

from .fields import descriptions
from .request import DEFAULTS
from .rules.cfg import CHOICES, LISTS, MINIMUM
from .rules.ub import FIELDS, GEMMS, METHODS
from .schema import Request

DIALECT = "http://json-schema.org/draft-07/schema#"  # what yaml-language-server reads
TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$"}


LIST = {"type": "array", "description": "Hydra's defaults list."}


class UnknownNodeError(LookupError):
    """There is no such node."""


def schema(node: str = "") -> dict[str, Any]:
    """The schema of a primary config, or of an option file of one node: `model`, `comm_overlap`, `comm_overlap.tp`.

    Raises UnknownNodeError.
    """
    made = _object(Request, "")
    for part in node.split(".") if node else ():
        made = made.get("properties", {}).get(part, {})
    if "properties" not in made:
        raise UnknownNodeError(node)
    what = f"options of {node}" if node else "primary config; other keys are the app's own, or Hydra's"
    closed = {"additionalProperties": False} if node else {}
    return {
        "$schema": DIALECT,
        "title": f"hydra-overlap: {what}",
        "type": "object",
        "properties": {"defaults": LIST, **made["properties"]},
        **closed,
    }


def text(node: str = "") -> str:
    """The schema as JSON, the same text each time."""
    return json.dumps(schema(node), indent=1) + "\n"


def _object(node: Any, prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(node)
    properties = {}
    for field in dataclasses.fields(node):
        key = f"{prefix}{field.name}"
        inner, optional = _unwrapped(hints[field.name])
        if dataclasses.is_dataclass(inner):
            made = _object(inner, f"{key}.")
            properties[field.name] = made | {"type": ["object", "null"]} if optional else made
        else:
            properties[field.name] = _leaf(key, inner, optional)
    described = (node.__doc__ or "").strip()
    return {"type": "object", "description": described, "properties": properties, "additionalProperties": False}


def _unwrapped(annotation: Any) -> tuple[Any, bool]:
    arguments = typing.get_args(annotation)
    if type(None) in arguments:
        return next(argument for argument in arguments if argument is not type(None)), True
    return annotation, False


def _leaf(key: str, kind: Any, optional: bool) -> dict[str, Any]:
    """One field: its type or an interpolation, its choices and limits, what it means."""
    if key == "userbuffers.layers":
        value: dict[str, Any] = _layers()
    elif typing.get_origin(kind) in (list, dict):
        listed = typing.get_origin(kind) is list
        value = {"type": "object"}
        if listed:
            value = {"type": "array", "items": {"type": TYPES[typing.get_args(kind)[0]]}}
        if key in LISTS:
            value["items"] = {"enum": list(LISTS[key])}
    else:
        value = {"type": TYPES[kind]}
        if key in CHOICES:
            value = {"enum": list(CHOICES[key])}
        if key in MINIMUM:
            value["minimum"] = MINIMUM[key]
    alternatives = [value, *([{"type": "null"}] if optional else []), INTERPOLATION]
    return {"description": descriptions()[key], "default": DEFAULTS[key], "anyOf": alternatives}


def _layers() -> dict[str, Any]:
    entry = {name: {"type": TYPES[kind]} for name, kind in FIELDS.items()} | {"method": {"enum": list(METHODS)}}
    gemm = {"type": "object", "properties": entry, "additionalProperties": False}
    return {"type": "object", "properties": dict.fromkeys(GEMMS, gemm), "additionalProperties": False}
