"""The request as a JSON Schema: what an editor needs to complete and explain our YAML.

Option files hold one node each (`model/llama3_70b.yaml` is a `model`), a primary config holds them all: there is a schema
for each. Choices and limits are those of `schema.fields`; those of a userbuffers entry, those of UB002 to UB004.
"""

import dataclasses
import json
import typing
from typing import Any

from .. import dotted
from ..option_files import options
from ..rules.ub import DGRAD, GEMMS, MAX_SM, REDUCE_SCATTER, UB_ARGUMENTS, legal_methods
from ..schema.annotations import unwrapped
from ..schema.descriptions import descriptions
from ..schema.fields import FIELDS, Field
from ..schema.keys import GPU, UB_LAYERS
from ..schema.nodes import AUTO, Request

DIALECT = "http://json-schema.org/draft-07/schema#"  # what yaml-language-server reads
TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$"}
VERSION = {"type": "string", "pattern": rf"^({AUTO}|v?\d.*)$"}  # CFG004 reads the rest of it
COUNTED = {"num_sm": {"maximum": MAX_SM}, "cga_size": {}, "num_splits": {}}
"""Arguments of a userbuffers entry that are at least 1, and what else bounds them; a test holds them against UB003."""

LIST = {"type": "array", "description": "Hydra's defaults list."}


class UnknownNodeError(LookupError):
    """There is no such node."""


def schema(node: str = "") -> dict[str, Any]:
    """The schema of a primary config, or of an option file of one node: `model`, `comm_overlap`, `comm_overlap.tp`.

    Raises UnknownNodeError.
    """
    made = _object(Request, "")
    if node:
        made = dotted.get(made["properties"], node.replace(".", ".properties."), {})
    if "properties" not in made:
        raise UnknownNodeError(node)
    what = f"options of {node}" if node else "primary config; other keys belong to the app or to Hydra"
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
        inner, optional = unwrapped(hints[field.name])
        if dataclasses.is_dataclass(inner):
            made = _object(inner, f"{key}.")
            properties[field.name] = made | {"type": ["object", "null"]} if optional else made
        else:
            properties[field.name] = _leaf(key)
    described = (node.__doc__ or "").strip()
    return {"type": "object", "description": described, "properties": properties, "additionalProperties": False}


def _leaf(key: str) -> dict[str, Any]:
    """One field: its type or an interpolation, its choices and limits, what it means."""
    field = FIELDS[key]
    alternatives = [_value(key, field), *([{"type": "null"}] if field.optional else []), INTERPOLATION]
    return {"description": descriptions()[key], "default": field.default, "anyOf": alternatives}


def _value(key: str, field: Field) -> dict[str, Any]:
    """What may stand there that is neither null nor an interpolation."""
    if key == UB_LAYERS:
        return _layers()
    if field.kind is dict:
        return {"type": "object"}
    if field.listed:
        return {
            "type": "array",
            "items": {"enum": list(field.choices)} if field.choices else _ranged(TYPES[field.item], field),
        }
    if key == GPU:  # rules take the name of any GPU; a mistyped one is read as a GPU of no known kind
        return {"enum": list(options("platform"))}
    if field.choices:
        return {"enum": list(field.choices)}
    if field.version:
        return dict(VERSION)
    if field.kind is str and field.optional:
        return {"type": "string", "pattern": r"\S"}
    return _ranged(TYPES[field.kind], field)


def _ranged(kind: str, field: Field) -> dict[str, Any]:
    """A type with the limits of a field."""
    most = field.ceiling.most if field.ceiling else None
    limits = {"minimum": field.minimum, "exclusiveMaximum": field.below, "maximum": most}
    return {"type": kind, **{name: limit for name, limit in limits.items() if limit is not None}}


def _layers() -> dict[str, Any]:
    gemms = {gemm: _entry(gemm) for gemm in GEMMS}
    return {"type": "object", "properties": gemms, "additionalProperties": False}


def _entry(gemm: str) -> dict[str, Any]:
    """What Transformer Engine can do at one GEMM; null takes the entry out."""
    arguments: dict[str, dict[str, Any]] = {name: {"type": TYPES[kind]} for name, kind in UB_ARGUMENTS.items()}
    arguments["method"] = {"enum": list(legal_methods(gemm))}
    for name, bounds in COUNTED.items():
        arguments[name] |= {"minimum": 1, **bounds}
    if gemm not in DGRAD:  # whose method decides
        arguments["is_reduce_scatter"] = {"const": gemm in REDUCE_SCATTER}
    return {"type": ["object", "null"], "properties": arguments, "additionalProperties": False}
