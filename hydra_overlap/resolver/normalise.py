"""From what a user hands over to the flat, complete request that rules read: `{"parallelism.world_size": 8, ...}`."""

from collections.abc import Mapping
from typing import Any

from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules import cfg
from ..rules._base import Origin
from ..rules.cfg import CFG001, CFG002
from ..schema.fields import FIELDS, IGNORED, NODES, TREE, Field, Tree


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
                fixes = [Fix(f"{key}={yaml_value(spec.default)}", "the default")]
                if spec.kind is list and type(value) is spec.item:
                    fixes.insert(0, Fix(f"{key}=[{value}]", "a list with this one item"))
                why = f"{key} takes {spec.describe()}."
                if key == "comm_overlap.dp.bucket_size":
                    why += " It counts parameters, not bytes and not megabytes."
                findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))
        elif isinstance(value, Mapping):
            _read(value, spec, f"{key}.", flat, findings, origin)
        elif value is not None or key != "userbuffers":
            why = f"{key} is a group of settings: {', '.join(spec)}."
            option = Fix(f"{key.replace('.', '/')}={value}", "chooses this option, if the group has it")
            fixes = [option] if isinstance(value, str) and value.isidentifier() else []
            findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))
