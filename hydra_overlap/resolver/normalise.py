"""From what a user hands over to the flat, complete request that rules read: `{"parallelism.world_size": 8, ...}`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import GatingError
from ..findings import Finding, Fix, typable, typed, yaml_value
from ..rules import cfg
from ..rules._base import Origin
from ..rules.cfg import CFG001, CFG002
from ..schema.fields import FIELDS, IGNORED, NODES, TREE, Field, Tree
from ..schema.nodes import AUTO


def normalise(request: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The flat, complete request: every key of the schema, defaults where nothing was said.

    request: nested mapping with any of the schema's nodes; `userbuffers` may be None. Raises GatingError (CFG rules)
    with every unknown key, wrong type, unknown choice and value out of range.
    """
    if not isinstance(request, Mapping):
        why = f"A request is a mapping with the nodes {', '.join(NODES)}."
        raise GatingError([CFG002.refuse("request", request, "", why)])
    flat = {key: field.copy(field.default) for key, field in FIELDS.items()}
    findings: list[Finding] = []
    _read(request, TREE, "", flat, findings, origin)
    if not findings:
        findings = list(cfg.judge_values(flat, origin))
    if findings:
        raise GatingError(findings)
    return flat


def _read(
    node: Mapping[str, Any], tree: Tree, prefix: str, flat: dict[str, Any], findings: list[Finding], origin: Origin
) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key in IGNORED:
            continue
        spec = tree.get(name)
        if spec is None:
            findings.append(CFG001.unknown(key, value, origin(key), tuple(tree)))
        elif isinstance(spec, Field):
            if spec.accepts(value):
                flat[key] = spec.copy(value)
            else:
                fixes = list(_as_typed(key, value, spec)) or [Fix(f"{key}={yaml_value(spec.default)}", "the default")]
                empty = isinstance(value, str) and not value.strip()
                why = f"{key} is empty." if empty else f"{key} takes {spec.describe()}."
                if key == "comm_overlap.dp.bucket_size":
                    why += " It counts parameters, not bytes and not megabytes."
                findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))
        elif isinstance(value, Mapping):
            _read(value, spec, f"{key}.", flat, findings, origin)
        elif value is not None or key != "userbuffers":
            why = f"{key} is a group of settings: {', '.join(spec)}."
            option = Fix(f"{key.replace('.', '/')}={value}", "chooses this option, if the group has it")
            named = isinstance(value, str) and value.isidentifier() and value != AUTO and _stays(value)
            fixes = [option] if named else []
            findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))


def _as_typed(key: str, value: Any, spec: Field) -> Iterator[Fix]:
    """The same value in the type of the field, where only the way of writing it is wrong: `1e6`, `"8"`, one item of a list."""
    if spec.kind is list and type(value) is spec.item and spec.allows([value]) and _stays(value):
        yield Fix(f"{key}=[{value}]", "a list with this one item")
    number = _whole(value) if spec.kind is int else None
    if number is not None and spec.allows(number):
        yield Fix(f"{key}={number}", "the same as a whole number")


def _stays(value: Any) -> bool:
    """Whether an override of this value is read as what it is: the text `true` would become a truth value."""
    return value != "" and typable(value) and type(typed(yaml_value(value))) is type(value)


def _whole(value: Any) -> int | None:
    """`1e6`, `"8"`, `"20_000_000"`, `"25M"` as a whole number; None for what is none."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    found = re.fullmatch(r"(\d[\d_]*)([kKmMgG]?)", value) if isinstance(value, str) else None
    return int(found[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[found[2].lower()] if found else None
