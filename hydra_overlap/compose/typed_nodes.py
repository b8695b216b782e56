"""The schema as nodes of a config: typed nodes, each made when an option file asks for it.

Hydra imports our plugin in every app on the machine, and an app that uses none of our option files pays for none of
this. Where one does, `structured` makes what `OmegaConf.structured` would, at a tenth of its price: of a field it needs
to know only a plain type and a default. A test compares the two, node by node.
"""

import copy
import dataclasses
import typing
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import omegaconf
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..schema.annotations import default_of, unwrapped

_VALUES: dict[Any, Any] = {
    bool: omegaconf.BooleanNode,
    int: omegaconf.IntegerNode,
    float: omegaconf.FloatNode,
    str: omegaconf.StringNode,
}
_NODES = "hydra_overlap.schema.nodes"
SCHEMAS: dict[str, str | dict[str, str]] = {
    "bundle": {
        "parallelism": f"{_NODES}.Parallelism",
        "comm_overlap": f"{_NODES}.CommOverlap",
        "userbuffers": f"{_NODES}.Userbuffers",
        "platform": f"{_NODES}.Platform",
        "software": f"{_NODES}.Software",
        "overlap": f"{_NODES}.Overlap",
    },
    "model": f"{_NODES}.Model",
    "precision": f"{_NODES}.Precision",
    "ddp": f"{_NODES}.Ddp",
    "optimizer": f"{_NODES}.Optimizer",
    "training": f"{_NODES}.Training",
    "data": f"{_NODES}.Data",
    "checkpoint": f"{_NODES}.Checkpoint",
    "launch": f"{_NODES}.Launch",
}
"""Schema, `/_overlap/schema/NAME` in a defaults list -> the class that types it, or the class of each of its nodes."""
AS_KNOWN = omegaconf.__version__.startswith("2.3.")  # another release may keep other things in its nodes


def store(group: str, name: str, kinds: str | dict[str, str], provider: str) -> None:
    """Put a schema into Hydra's ConfigStore by name. `ConfigStore.store` would import its classes and make its nodes.

    kinds: the full name of a dataclass, or of several, by node.
    """
    folder = ConfigStore.instance().repo
    for part in group.split("/"):
        folder = folder.setdefault(part, {})
    file = f"{name}.yaml"
    folder[file] = _Stored(name=file, node=_Schema(kinds), group=group, package=None, provider=provider)  # type: ignore[arg-type]


class _Stored(ConfigNode):
    """An entry of the ConfigStore. Nobody changes it, and Hydra copies the whole store for every composition."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Stored":
        return self


class _Schema:
    """One schema in the ConfigStore. Hydra asks for a copy of what it stored, and gets a new node; pickled, it is a name."""

    def __init__(self, kinds: str | dict[str, str]) -> None:
        self.kinds = kinds

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        return _new(self.kinds)


def schema(name: str) -> DictConfig:
    """A new node of one of SCHEMAS."""
    return _new(SCHEMAS[name])


def _new(kinds: str | dict[str, str]) -> DictConfig:
    return copied(_made(kinds), Fresh) if AS_KNOWN else OmegaConf.structured(_classes(kinds))


def _classes(kinds: str | dict[str, str]) -> Any:
    if isinstance(kinds, dict):
        return {key: _classes(kind) for key, kind in kinds.items()}
    module, _, name = kinds.rpartition(".")
    return getattr(import_module(module), name)


def _made(kinds: str | dict[str, str]) -> DictConfig:
    """The typed node of a schema; never changed, only copied."""
    if isinstance(kinds, str):
        return _made_of(kinds)
    node = DictConfig({})
    for key, kind in kinds.items():
        put(node, key, copied(_made_of(kind)))
    return node


@cache
def _made_of(kind: str) -> DictConfig:
    return structured(_classes(kind))


class Fresh(DictConfig):
    """A node on its way into a config. Hydra copies it once more to put it in its package; this copy is quick, and plain."""

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        return copied(self, DictConfig)


def copied(node: Any, kind: Any = None) -> Any:
    """What `copy.deepcopy` makes of a node, without asking of each value and each flag how it is copied.

    kind: the class of the copy itself; as it is by default.
    """
    twin = object.__new__(kind or type(node))
    twin.__dict__.update(node.__dict__)
    twin.__dict__["_flags_cache"] = None
    twin.__dict__["_metadata"] = metadata = object.__new__(type(node._metadata))
    metadata.__dict__.update(node._metadata.__dict__)
    metadata.flags = dict(metadata.flags)
    metadata.resolver_cache = copy.deepcopy(metadata.resolver_cache)
    content = node.__dict__.get("_content")
    if isinstance(content, dict):
        twin.__dict__["_content"] = {name: copied(child) for name, child in content.items()}
    elif isinstance(content, list):
        twin.__dict__["_content"] = [copied(child) for child in content]
    for child in _children(twin):
        child.__dict__["_parent"] = twin
    return twin


def _children(node: Any) -> Iterable[Any]:
    content = node.__dict__.get("_content")
    return content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()


def structured(kind: Any) -> DictConfig:
    """What `OmegaConf.structured(kind)` makes of a dataclass whose fields are plain values, lists, mappings and dataclasses."""
    return _structured(kind, None, Any, True)


def _structured(kind: Any, key: str | None, ref_type: Any, optional: bool) -> DictConfig:
    node = DictConfig({}, key=key, is_optional=optional)
    node._metadata.ref_type = ref_type
    node._metadata.object_type = kind
    for field in dataclasses.fields(kind):
        put(node, field.name, _field(field))
    return node


def _field(field: "dataclasses.Field[Any]") -> Any:
    kind, optional = unwrapped(field.type)
    if dataclasses.is_dataclass(kind):
        return _structured(kind, field.name, kind, optional)
    default = default_of(field)
    if kind in _VALUES:
        return copied(_value(kind, optional, default))
    said = {"key": field.name, "ref_type": kind, "is_optional": optional}
    if typing.get_origin(kind) is list:
        return ListConfig(default, element_type=typing.get_args(kind)[0], **said)
    key_type, element_type = typing.get_args(kind)
    return DictConfig(default, key_type=key_type, element_type=element_type, **said)


@cache
def _value(kind: Any, optional: bool, default: Any) -> Any:
    """Of many fields one: fields differ in little but their names."""
    return _VALUES[kind](default, is_optional=optional)


def put(node: Any, key: Any, child: Any) -> None:
    """Set a child of a mapping, or append one to a list, as a new node has them."""
    child._set_key(key)
    child._set_parent(node)
    content = node.__dict__["_content"]
    if isinstance(content, list):
        content.append(child)
    else:
        content[key] = child
