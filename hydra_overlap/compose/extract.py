"""The request in a config that is being composed: its nodes, the facts of this machine, the preset that is chosen here.

Reading the nodes is resolver/from_config.py, which a later `resolve` of the same config uses with what is recorded here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..machine import local
from ..resolver import mapped_fields
from ..resolver.from_config import PRESET, chosen_preset, known_fields, ours, plain_node, plain_value, written
from ..schema.fields import FIELDS, NODES
from ..schema.nodes import AUTO
from .interpolations import of_the_job

OPEN = {"checkpoint": ("save", "load"), "data": ("cache_dir", "files")}
"""Paths of which rules read only whether there are any."""
IN_THE_JOBS = "'${hydra:runtime.output_dir}/checkpoints'"  # such a path in the job's own folder, as it is typed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read. request: nested plain dict, facts filled in. filled: those facts, and the chosen preset.

    unread: keys of an app's own that no rule reads. origins: flat key -> why it has its value, for what was chosen here.
    """

    request: dict[str, Any]
    filled: dict[str, Any]
    unread: tuple[str, ...]
    origins: dict[str, str]


def read(
    cfg: DictConfig, *, foreign_nodes: bool, plain: Mapping[str, Any] | None = None, composing: bool = False
) -> Reading:
    """The request in a composed config: its nodes as plain data, facts and preset filled in.

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
            request[name], others = known_fields(cfg, name)
            unread += others
        else:
            request[name] = _node(cfg, name, composing=composing)
    mapped = mapped_fields.take(cfg, request, unread) if foreign_nodes else {}
    filled = local.fill(request)
    chosen = _choose_userbuffers(request, filled)
    return Reading(request=request, filled=filled, unread=tuple(sorted(unread)), origins=mapped | chosen)


def _choose_userbuffers(request: dict[str, Any], filled: dict[str, Any]) -> dict[str, str]:
    """Put what `userbuffers=auto` means for this plan in its place; -> the origin of that choice.

    filled: gets the preset's node, to be recorded. Entries written beside `auto` stay, over those of the preset.
    """
    node = request.get("userbuffers")
    if not isinstance(node, dict) or node.get("name") != AUTO:
        return {}
    from ..presets import catalogue  # reads every preset's file

    choice = catalogue.choose(request)
    preset = catalogue.none() if choice.preset is None else choice.preset.node()
    request["userbuffers"] = chosen_preset(preset, node)
    filled[PRESET] = preset
    return {"userbuffers.name": choice.reason}


def _node(cfg: DictConfig, name: str, *, composing: bool) -> Any:
    """One node of ours as plain data. composing: as in `read`."""
    kept = _left_to_the_job(cfg, name) if composing and name in OPEN else {}
    if not kept:
        return plain_node(cfg, name)
    node = cfg[name]
    try:
        return {key: kept[key] if key in kept else plain_value(node[key]) for key in map(str, node)}
    except OmegaConfBaseException:
        return plain_node(cfg, name)  # which names every value without one


def _left_to_the_job(cfg: DictConfig, name: str) -> dict[str, Any]:
    """The paths of a node in OPEN that only the job knows, as they are written."""
    try:
        node = cfg[name]
    except OmegaConfBaseException:
        return {}  # plain_node says what is wrong with it
    if not isinstance(node, DictConfig):
        return {}
    return {path: _as_written(node, name, path) for path in OPEN[name] if of_the_job(node._get_node(path))}


def _as_written(node: DictConfig, name: str, path: str) -> Any:
    """A path, or a list of paths, with its interpolations as text."""
    value = written(node, path)
    if isinstance(value, list):
        return [item._value() for item in value]
    return [value] if FIELDS[f"{name}.{path}"].listed else value
