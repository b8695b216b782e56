"""What an app says in places of its own, by `overlap.reads`: taken into the request, each line checked.

    overlap:
      reads:
        model: {hidden_size: model.net.d_model}      # field of our request: the place where this app says it

Fixes in the app's own words are made by compose/key_mapping.py.
"""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import dotted
from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules.cfg import CFG001, CFG002
from ..schema.fields import FIELDS
from ..suggest import nearest

READS = "overlap.reads"


def take(cfg: DictConfig, request: dict[str, Any], unread: list[str]) -> dict[str, str]:
    """Fill mapped fields into the nested `request`, in place; -> key -> where its value came from.

    unread: keys of the app's own that no rule reads; those that are read now are taken out. Raises GatingError on a
    field or place that does not exist, a node that is ours, and a value that the field cannot hold.
    """
    findings: list[Finding] = []
    origins: dict[str, str] = {}
    for key, place in places(cfg):
        value = _value(cfg, place)
        refusal = _refusal(cfg, request, key, place, value)
        if refusal is not None:
            findings.append(refusal)
            continue
        dotted.put(request, key, value)
        origins[key] = f"{place} ({READS})"
        unread[:] = [name for name in unread if not f"{place}.".startswith(f"{name}.")]
    if findings:
        raise GatingError(findings)
    return origins


def places(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """(field of the request, place in the app's own config) of every line of `overlap.reads`."""
    yield from _lines(OmegaConf.select(cfg, READS), "")


def _lines(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(field of the request, place) of every line."""
    if isinstance(node, DictConfig):
        for name in map(str, node):
            yield from _lines(node[name], f"{prefix}{name}.")
    elif node is not None and prefix:
        yield prefix.rstrip("."), str(node)


def _refusal(cfg: DictConfig, request: dict[str, Any], key: str, place: str, value: Any) -> Finding | None:
    """What is wrong with one line of the mapping."""
    line = f"{READS}.{key}"
    if key not in FIELDS:
        near = nearest(key, FIELDS)
        fixes = (Fix(f"~{line} ++{READS}.{near}={place}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no field {key}.", *fixes)
    if value is dotted.ABSENT:
        near = nearest(place, _places(cfg))
        fixes = (Fix(f"++{line}={near}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no value at {place}.", *fixes)
    if not FIELDS[key].accepts(value):
        why = f"{key} takes {FIELDS[key].describe()}; {place} holds {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why)
    said = _said(cfg, request, key)
    if said not in (None, value):
        why = f"{key} is {yaml_value(said)}, but {place} is {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why, Fix(f"{key}='${{{place}}}'", "keeps only one of them"))
    return None


def _said(cfg: DictConfig, request: dict[str, Any], key: str) -> Any:
    """What the field says already, if it stands in a node that our schema types; else None."""
    node, _, _ = key.partition(".")
    kind = OmegaConf.get_type(cfg, node) if node in cfg else None
    if not isinstance(kind, type) or not kind.__module__.startswith("hydra_overlap."):
        return None
    return dotted.get(request, key)


def _value(cfg: DictConfig, place: str) -> Any:
    """What stands at `place`, resolved; dotted.ABSENT if nothing does."""
    try:
        value = OmegaConf.select(cfg, place, default=dotted.ABSENT, throw_on_missing=True)
    except OmegaConfBaseException:
        return dotted.ABSENT
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _places(cfg: DictConfig) -> list[str]:
    """Every place of the app's own that holds a value."""

    def walk(node: DictConfig, prefix: str) -> list[str]:
        found = []
        for name in map(str, node):
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
                found += walk(child, f"{prefix}{name}.")
            else:
                found.append(prefix + name)
        return found

    return [place for place in walk(cfg, "") if place.partition(".")[0] not in ("hydra", "overlap", "comm_overlap")]
