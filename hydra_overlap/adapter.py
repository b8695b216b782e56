"""Where an app keeps under names of its own what our rules read: `overlap.reads`, a mapping in the app's own config.

    overlap:
      reads:
        model: {hidden_size: model.net.d_model}      # field of our request: the place where this app says it
        training: {micro_batch_size: data.batch_size}

The value is read from that place when the rules run and counts as if it stood in the field. Interpolations are resolved,
so arithmetic is the app's own, with a resolver of its own. Where the field itself says something else in a node that our
schema types, that is refused. See docs/hosts.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import GatingError
from .findings import Finding, Fix, yaml_value
from .request import LEAVES
from .rules.cfg import CFG001, CFG002
from .suggest import nearest

READS = "overlap.reads"
_ABSENT = object()


def take(cfg: DictConfig, request: dict[str, Any], unread: list[str]) -> dict[str, str]:
    """Fill mapped fields into the nested `request`, in place; -> key -> where its value came from.

    unread: keys of the app's own that no rule reads; those that are read now are taken out. Raises GatingError on a
    field or place that does not exist, a node that is ours, and a value that the field cannot hold.
    """
    findings: list[Finding] = []
    origins: dict[str, str] = {}
    for key, place in _mapping(OmegaConf.select(cfg, READS), ""):
        value = _value(cfg, place)
        refusal = _refusal(cfg, request, key, place, value)
        if refusal is not None:
            findings.append(refusal)
            continue
        _set(request, key, value)
        origins[key] = f"{place} ({READS})"
        unread[:] = [name for name in unread if not f"{place}.".startswith(f"{name}.")]
    if findings:
        raise GatingError(findings)
    return origins


@contextmanager
def in_its_words(cfg: DictConfig) -> Iterator[None]:
    """Let fixes name the places that the app maps, so that they can be pasted there."""
    try:
        yield
    except GatingError as refusal:
        places = dict(_mapping(OmegaConf.select(cfg, READS), ""))
        raise GatingError([_reworded(finding, places) for finding in refusal.findings]) from None


def _reworded(finding: Finding, places: dict[str, str]) -> Finding:
    fixes = []
    for fix in finding.fixes:
        pairs = (token.partition("=") for token in fix.override.split())
        fixes.append(
            replace(fix, override=" ".join(f"{places.get(key, key)}{sign}{value}" for key, sign, value in pairs))
        )
    return replace(finding, fixes=tuple(fixes))


def _mapping(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(field of the request, place) of every line."""
    if isinstance(node, DictConfig):
        for name in map(str, node):
            yield from _mapping(node[name], f"{prefix}{name}.")
    elif node is not None and prefix:
        yield prefix.rstrip("."), str(node)


def _refusal(cfg: DictConfig, request: dict[str, Any], key: str, place: str, value: Any) -> Finding | None:
    """What is wrong with one line of the mapping."""
    line = f"{READS}.{key}"
    if key not in LEAVES:
        near = nearest(key, LEAVES)
        fixes = (Fix(f"++{READS}.{near}={place}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no field {key}.", *fixes)
    if value is _ABSENT:
        near = nearest(place, _places(cfg))
        fixes = (Fix(f"++{line}={near}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no value at {place}.", *fixes)
    if not LEAVES[key].accepts(value):
        why = f"{key} is {LEAVES[key].describe()}; {place} holds {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why)
    said = _said(cfg, request, key)
    if said not in (None, value):
        why = f"{key} itself says {yaml_value(said)}, {place} says {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why, Fix(f"{key}=${{{place}}}", "one of them says it"))
    return None


def _said(cfg: DictConfig, request: dict[str, Any], key: str) -> Any:
    """What the field says already, if it stands in a node that our schema types; else None."""
    node, _, _ = key.partition(".")
    kind = OmegaConf.get_type(cfg, node) if node in cfg else None
    if not isinstance(kind, type) or not kind.__module__.startswith("hydra_overlap."):
        return None
    value: Any = request
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _value(cfg: DictConfig, place: str) -> Any:
    """What stands at `place`, resolved; _ABSENT if nothing does."""
    try:
        value = OmegaConf.select(cfg, place, default=_ABSENT, throw_on_missing=True)
    except OmegaConfBaseException:
        return _ABSENT
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


def _set(request: dict[str, Any], key: str, value: Any) -> None:
    *path, name = key.split(".")
    node = request
    for part in path:
        node = node.setdefault(part, {})
    node[name] = value
