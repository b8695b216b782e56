"""The request in a composed config: which nodes are ours, what they say, and what no rule reads.

`comm_overlap`, `parallelism`, `userbuffers`, `platform` and `software` come with every bundle and are ours. A node such
as `model` or `optimizer` may be the app's own, in an app that never heard of us: it is ours if our schema types it;
else we take the fields we know and say which keys nobody read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..machine import local
from ..rules.cfg import CFG002
from ..schema.fields import DEFAULTS, FIELDS, NODES
from ..schema.nodes import AUTO, Request
from . import key_mapping
from .interpolations import of_the_job, written

ALWAYS_OURS = ("comm_overlap", "parallelism", "userbuffers", "platform", "software")
UNJUDGED = "data"  # no rule reads it; its paths may be known only when the job runs
OPEN = {"checkpoint": ("save", "load")}  # paths of which rules read only whether there is one
IN_THE_JOBS = "'${hydra:runtime.output_dir}/checkpoints'"  # such a path in the job's own folder, as it is typed
_UNKNOWN = object()


# Node -> the dataclass that types it.
SCHEMAS: dict[str, Any] = {
    field.name: field.type for field in fields(Request) if field.name not in (*ALWAYS_OURS, "gating")
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """request: nested plain dict, facts filled in. filled: those facts. unread: keys of an app's own no rule reads.

    origins: flat key -> why it has its value, for what was chosen here.
    """

    request: dict[str, Any]
    filled: dict[str, Any]
    unread: tuple[str, ...]
    origins: dict[str, str]


def read(
    cfg: DictConfig, *, foreign_nodes: bool, plain: Mapping[str, Any] | None = None, composing: bool = False
) -> Reading:
    """The request nodes of a composed config.

    foreign_nodes: a node without our schema may be the app's own. plain: nodes of ours that the caller holds as plain
    data already, of this very config; they are shared, not copied. composing: before the job has a folder and a number:
    a path in OPEN that needs them (`${hydra:runtime.output_dir}`) stays as it is written. Raises GatingError on a value
    of ours that is missing or cannot be resolved.
    """
    known = plain or {}
    request: dict[str, Any] = {}
    unread: list[str] = []
    for name in NODES:
        if name not in cfg:
            continue
        if name in known:
            request[name] = known[name]
        elif foreign_nodes and not ours(cfg, name):
            request[name] = _known_fields(cfg, name, unread)
        else:
            request[name] = plain_node(cfg, name, composing=composing)
    mapped = key_mapping.take(cfg, request, unread) if foreign_nodes else {}
    filled = local.fill(request)
    chosen = _choose_userbuffers(request)
    return Reading(request=request, filled=filled, unread=tuple(sorted(unread)), origins=mapped | chosen)


def _choose_userbuffers(request: dict[str, Any]) -> dict[str, str]:
    """Put what `userbuffers=auto` means for this plan in its place; -> the origin of that choice.

    Entries written beside `auto` stay, over those of the preset.
    """
    node = request.get("userbuffers")
    if not isinstance(node, dict) or node.get("name") != AUTO:
        return {}
    from ..presets import catalogue  # reads every preset's file

    choice = catalogue.choose(request)
    chosen = catalogue.none() if choice.preset is None else choice.preset.node()
    written = node.get("layers") or {}
    for gemm, entry in written.items():
        chosen["layers"][gemm] = {**chosen["layers"].get(gemm, {}), **(entry or {})}
    request["userbuffers"] = chosen
    return {"userbuffers.name": choice.reason}


def ours(cfg: DictConfig, name: str) -> bool:
    """Whether the node of that name is one of our request: ours by name, or typed by our schema."""
    if name in ALWAYS_OURS or name == "gating":
        return True
    kind = OmegaConf.get_type(cfg, name)
    return isinstance(kind, type) and issubclass(kind, SCHEMAS[name])


def plain_node(cfg: DictConfig, name: str, *, composing: bool = False) -> Any:
    """One node of ours as plain data. composing: as in `read`."""
    try:
        node = cfg[name]
        paths = OPEN.get(name, ()) if composing else ()
        kept = {path: written(node, path) for path in paths if of_the_job(node._get_node(path))}
        if kept:
            return {key: kept[key] if key in kept else node[key] for key in map(str, node)}
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        if name == UNJUDGED:
            return {}
        raise GatingError(list(_unreadable(cfg, name, name)) or [_without_value(name, str(error))]) from None


def _unreadable(parent: DictConfig, name: str, key: str) -> Iterator[Finding]:
    """A finding for every value of a node that is `???` or whose interpolation fails."""
    if OmegaConf.is_missing(parent, name):
        yield _without_value(key, "It is ???: your config says that somebody has to set it.")
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


def _known_fields(cfg: DictConfig, name: str, unread: list[str]) -> dict[str, Any]:
    """The fields of an app's own node that mean what ours do; the keys of all others go to `unread`."""
    fields: dict[str, Any] = {}
    node = None if OmegaConf.is_missing(cfg, name) else _value(cfg, name)
    if not isinstance(node, DictConfig):
        return fields
    for child in map(str, node):
        key = f"{name}.{child}"
        value = _UNKNOWN if OmegaConf.is_missing(node, child) else _value(node, child)
        if key in FIELDS and FIELDS[key].allows(value):
            fields[child] = value
        else:
            unread.append(key)
    return fields


def _value(node: DictConfig, name: Any) -> Any:
    """One value of an app's own; what cannot be resolved yet (`${hydra:...}`) is not read."""
    try:
        value = node[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    except OmegaConfBaseException:
        return _UNKNOWN
