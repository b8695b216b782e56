"""From what a user hands over to the flat, complete request that rules read: `{"parallelism.world_size": 8, ...}`."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from .. import dotted
from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules import cfg
from ..rules._base import Origin
from ..rules.cfg import CFG001, CFG002
from ..schema.annotations import unwrapped
from ..schema.nodes import Request


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One field: its type, whether it may be null, its default; of a list, the type of its items."""

    kind: type
    optional: bool
    default: Any
    item: type = str

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is float:
            return isinstance(value, (int, float))
        if self.kind is list:
            return isinstance(value, (list, tuple)) and all(type(item) is self.item for item in value)
        if self.kind is dict:
            return isinstance(value, Mapping) and all(_is_entry(*item) for item in value.items())
        return isinstance(value, self.kind)

    def describe(self) -> str:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        names[list] = "a list of whole numbers" if self.item is int else "a list of texts"
        text = names.get(self.kind, "a mapping")
        return f"{text}, or null" if self.optional else text

    def copy(self, value: Any) -> Any:
        """`value`, shared with nobody; entries of a mapping that are null are left out."""
        if isinstance(value, Mapping):
            return {name: dict(entry) for name, entry in value.items() if entry is not None}
        return list(value) if self.kind is list and value is not None else value


def _is_entry(name: Any, value: Any) -> bool:
    """Whether an item of a mapping leaf is text -> mapping; null is an entry left out."""
    return isinstance(name, str) and (
        value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value))
    )


_Tree = dict[str, Any]  # name -> _Leaf or _Tree


def _tree(node: type) -> _Tree:
    hints = typing.get_type_hints(node)
    tree: _Tree = {}
    for field in dataclasses.fields(node):
        kind, optional = unwrapped(hints[field.name])
        if dataclasses.is_dataclass(kind):
            tree[field.name] = _tree(typing.cast(type, kind))
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        listed = typing.get_origin(kind) is list
        item = typing.get_args(kind)[0] if listed else str
        tree[field.name] = _Leaf(typing.get_origin(kind) or kind, optional, default, item)
    return tree


TREE = _tree(Request)
NODES = tuple(TREE)
IGNORED = ("hydra", "overlap")  # in every composed config: Hydra's own node, and our answer


LEAVES: dict[str, _Leaf] = dotted.flatten(TREE)
DEFAULTS = {key: leaf.default for key, leaf in LEAVES.items()}
cfg.DEFAULTS.update(DEFAULTS)


def normalise(request: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The flat, complete request: every key of the schema, defaults where nothing was said.

    request: nested mapping with any of the schema's nodes; `userbuffers` may be None. Raises GatingError (CFG rules)
    with every unknown key, wrong type, unknown choice and value out of range.
    """
    if not isinstance(request, Mapping):
        why = f"A request is a mapping with the nodes {', '.join(NODES)}."
        raise GatingError([CFG002.refuse("request", request, "", why)])
    flat = {key: leaf.copy(leaf.default) for key, leaf in LEAVES.items()}
    findings: list[Finding] = []
    _read(request, TREE, "", flat, findings, origin)
    if not findings:
        findings = list(cfg.judge_values(flat, origin))
    if findings:
        raise GatingError(findings)
    return flat


def _read(
    node: Mapping[str, Any], tree: _Tree, prefix: str, flat: dict[str, Any], findings: list[Finding], origin: Origin
) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key in IGNORED:
            continue
        spec = tree.get(name)
        if spec is None:
            findings.append(CFG001.unknown(key, value, origin(key), tuple(tree)))
        elif isinstance(spec, _Leaf):
            if spec.accepts(value):
                flat[key] = spec.copy(value)
            else:
                fixes = [Fix(f"{key}={yaml_value(spec.default)}", "the default")]
                if spec.kind is list and type(value) is spec.item:
                    fixes.insert(0, Fix(f"{key}=[{value}]", "a list of it"))
                why = f"{key} is {spec.describe()}."
                if key == "comm_overlap.dp.bucket_size":
                    why += " It counts parameters, not bytes and not megabytes."
                findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))
        elif isinstance(value, Mapping):
            _read(value, spec, f"{key}.", flat, findings, origin)
        elif value is not None or key != "userbuffers":
            why = f"{key} is a group of settings: {', '.join(spec)}."
            option = Fix(f"{key.replace('.', '/')}={value}", "chooses that option, if the group has it")
            fixes = [option] if isinstance(value, str) and value.isidentifier() else []
            findings.append(CFG002.refuse(key, value, origin(key), why, *fixes))


def flattened(request: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of the schema with its value in a nested request that was judged; the default where it says nothing."""
    return {key: dotted.get(request, key, leaf.default) for key, leaf in LEAVES.items()}
