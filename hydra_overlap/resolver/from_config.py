"""What a composed config asks, as plain data: the nodes that are ours, and the fields of an app's own that mean the same.

`comm_overlap`, `parallelism`, `userbuffers`, `platform` and `software` come with every bundle and are ours. A node such
as `model` or `optimizer` may be the app's own, in an app that never heard of us: it is ours if our schema types it;
else we take the fields we know. Nothing here looks at the machine: what `auto` stands for was written into `overlap` when the
config was composed. The only module below `compose` that knows OmegaConf; imported where such a config comes in.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules.cfg import CFG002, CFG003
from ..rules.trn import OURS as TRAIN_PY
from ..schema.fields import DEFAULTS, FIELDS, IGNORED, NODES, OUTPUT
from ..schema.keys import TRAINER, UB_NAME
from ..schema.nodes import AUTO, Request
from . import mapped_fields

ALWAYS_OURS = ("comm_overlap", "parallelism", "userbuffers", "platform", "software")
FOR_TRAIN_PY = "data"  # rules read it of a plan for train.py alone; elsewhere what cannot be resolved yet is not read
PRESET = "preset"  # in overlap.effective: the node that `userbuffers=auto` chose
_UNKNOWN = object()

# Node -> the dataclass that types it.
SCHEMAS: dict[str, Any] = {
    field.name: field.type for field in fields(Request) if field.name not in (*ALWAYS_OURS, "gating")
}


def request_of(cfg: Any) -> Any:
    """The nested request of a DictConfig, interpolations resolved; what is none stays what it is.

    A config that was judged at its composition is read as it was there. Raises GatingError on a value that is missing or
    cannot be resolved.
    """
    if not isinstance(cfg, DictConfig):
        return cfg
    plain: dict[Any, Any] = {}
    key: Any = ""
    try:
        if OmegaConf.select(cfg, f"{OUTPUT}.plan") is not None:
            return _as_composed(cfg)
        for key in cfg:
            if key not in IGNORED:  # their interpolations are not ours to resolve
                plain[key] = plain_value(cfg[key])
    except (OmegaConfBaseException, TypeError) as error:
        where = str(getattr(error, "full_key", None) or key)
        raise GatingError([CFG002.refuse(where, None, "", f"It cannot be read: {error}")]) from error
    return plain


def _as_composed(cfg: DictConfig) -> dict[str, Any]:
    """The request of a config that was judged, with the facts and the preset that were recorded then."""
    request = {
        name: plain_node(cfg, name) if ours(cfg, name) else known_fields(cfg, name)[0] for name in NODES if name in cfg
    }
    mapped_fields.take(cfg, request, [])
    platform, software, userbuffers = (request.get(name) for name in ("platform", "software", "userbuffers"))
    if isinstance(platform, dict) and platform.get("name") == AUTO:
        said = {key: value for key, value in platform.items() if value not in (None, AUTO)}
        request["platform"] = {**_recorded(cfg, "platform", platform), **said}
    if isinstance(software, dict) and AUTO in software.values():
        known = _recorded(cfg, "software", software)
        request["software"] = {key: known.get(key) if value == AUTO else value for key, value in software.items()}
    if isinstance(userbuffers, dict) and userbuffers.get("name") == AUTO:
        preset = _recorded(cfg, PRESET, None)
        if preset is None:
            why = "The preset that auto stood for is not recorded in this config. Compose it again, or name the preset."
            raise GatingError([CFG003.refuse(UB_NAME, AUTO, "", why)])
        request["userbuffers"] = chosen_preset(preset, userbuffers)
    return request


def _recorded(cfg: DictConfig, name: str, default: Any) -> Any:
    """What the composition wrote down under one name of overlap.effective; the default where it did not."""
    node = OmegaConf.select(cfg, f"{OUTPUT}.effective.{name}")
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else default


def chosen_preset(preset: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """The `userbuffers` node of a preset, with the entries that are written beside `auto` over its own."""
    layers = {gemm: dict(entry) for gemm, entry in (preset.get("layers") or {}).items()}
    for gemm, entry in (written.get("layers") or {}).items():
        layers[gemm] = {**layers.get(gemm, {}), **(entry or {})}
    return {**preset, "layers": layers}


def ours(cfg: DictConfig, name: str) -> bool:
    """Whether the node of that name is one of our request: ours by name, or typed by our schema."""
    if name in ALWAYS_OURS or name == "gating":
        return True
    kind = OmegaConf.get_type(cfg, name)
    return isinstance(kind, type) and issubclass(kind, SCHEMAS[name])


def plain_value(value: Any) -> Any:
    """A value of a config as plain data, interpolations resolved. Raises OmegaConfBaseException where one cannot be, or is ???."""
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def written(parent: Any, name: str) -> Any:
    """The value of a field as it is written: the text of an interpolation."""
    return parent._get_node(name)._value()


def plain_node(cfg: DictConfig, name: str) -> Any:
    """One node of ours as plain data. Raises GatingError that names each value without one."""
    try:
        return plain_value(cfg[name])
    except OmegaConfBaseException as error:
        if name == FOR_TRAIN_PY and OmegaConf.select(cfg, TRAINER) != TRAIN_PY:
            return {}
        raise GatingError(list(_unreadable(cfg, name, name)) or [_without_value(name, str(error))]) from None


def _unreadable(parent: DictConfig, name: str, key: str) -> Iterator[Finding]:
    """A finding for every value of a node that is `???` or whose interpolation fails."""
    if OmegaConf.is_missing(parent, name):
        yield _without_value(key, "It is ???, which means that it has to be set.")
        return
    try:
        node = parent[name]
    except OmegaConfBaseException as error:
        yield _without_value(key, str(error).splitlines()[0] + ".", written(parent, name))
        return
    if isinstance(node, DictConfig):
        for child in map(str, node):
            yield from _unreadable(node, child, f"{key}.{child}")


def _without_value(key: str, why: str, text: Any = "???") -> Finding:
    fixes = [Fix(f"{key}={yaml_value(DEFAULTS[key])}", "the default")] if key in DEFAULTS else []
    return CFG002.refuse(key, text, "", f"{key} has no value. {why}", *fixes)


def known_fields(cfg: DictConfig, name: str) -> tuple[dict[str, Any], list[str]]:
    """(the fields of an app's own node that mean what ours do, the keys of all others)."""
    found: dict[str, Any] = {}
    unread: list[str] = []
    node = None if OmegaConf.is_missing(cfg, name) else _value(cfg, name)
    if not isinstance(node, DictConfig):
        return found, unread
    for child in map(str, node):
        key = f"{name}.{child}"
        value = _UNKNOWN if OmegaConf.is_missing(node, child) else _value(node, child)
        if key in FIELDS and FIELDS[key].allows(value):
            found[child] = value
        else:
            unread.append(key)
    return found, unread


def _value(node: DictConfig, name: Any) -> Any:
    """One value of an app's own; what cannot be resolved yet (`${hydra:...}`) is not read."""
    try:
        value = node[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    except OmegaConfBaseException:
        return _UNKNOWN
