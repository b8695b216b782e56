"""Where an app keeps under names of its own what our rules read: `overlap.reads`, a mapping in the app's own config.

    overlap:
      reads:
        model: {hidden_size: model.net.d_model}      # field of our request: the place where this app says it
        training: {micro_batch_size: data.batch_size}

The value is read from that place when the rules run and counts as if it stood in the field. Interpolations are resolved,
so arithmetic is the app's own, with a resolver of its own. Where the field itself says something else in a node that our
schema types, that is refused. Fixes are worded for the app as well, so that they can be pasted there. See docs/hosts.md.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import dotted
from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules.cfg import CFG001, CFG002
from ..schema.fields import FIELDS, NODES
from ..suggest import nearest
from .pitfalls import COMMAND_LINE, task_overrides

READS = "overlap.reads"
BROUGHT = ("parallelism", "userbuffers", "platform", "software")  # nodes and groups of a bundle beside comm_overlap
OWN_NODE = "A node {0} of your app's own needs another name beside a bundle: docs/hosts.md."
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
        dotted.put(request, key, value)
        origins[key] = f"{place} ({READS})"
        unread[:] = [name for name in unread if not f"{place}.".startswith(f"{name}.")]
    if findings:
        raise GatingError(findings)
    return origins


@contextmanager
def in_its_words(cfg: DictConfig) -> Iterator[None]:
    """Word the fixes of a refusal for this config."""
    try:
        yield
    except GatingError as refusal:
        raise GatingError(reworded(cfg, refusal.findings)) from None


def reworded(cfg: DictConfig, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, their fixes worded for this config, so that they can be pasted there.

    A fix names the places that the app maps; `++` stands before a key that the config has not got, `+` before a group.
    """
    findings = tuple(findings)
    if not any(finding.fixes or finding.rule == CFG001.__name__ for finding in findings):
        return findings
    places = dict(_mapping(OmegaConf.select(cfg, READS), ""))
    return tuple(_reworded(cfg, finding, places) for finding in findings)


def _reworded(cfg: DictConfig, finding: Finding, places: dict[str, str]) -> Finding:
    if finding.rule == CFG001.__name__ and not finding.fixes:
        node, _, inside = finding.where[0].key.partition(".")
        if node in BROUGHT and inside and finding.where[0].origin != COMMAND_LINE:
            return replace(finding, why=f"{finding.why} {OWN_NODE.format(node)}")
    return replace(finding, fixes=tuple(_pasteable(cfg, fix, places) for fix in finding.fixes))


def _pasteable(cfg: DictConfig, fix: Fix, places: dict[str, str]) -> Fix:
    tokens, lost = [], dict[str, None]()
    for token in fix.override.split(" "):
        key, sign, value = token.partition("=")
        if key in places:
            token = f"{places[key]}{sign}{value}"
        elif sign and key.partition(".")[0] in NODES:
            plus = _plus(cfg, key, value)
            lost |= dict.fromkeys(_replaced(cfg, key)) if plus else {}
            token = plus + token
        tokens.append(token)
    effects = (fix.effect, *(f"takes the place of {text}" for text in lost))
    return Fix(" ".join(tokens), "; ".join(filter(None, effects)))


def _plus(cfg: DictConfig, key: str, value: str) -> str:
    """What Hydra wants before an override of `key` in this app: nothing where the config has it."""
    if "." in key or key == "gating" or value.startswith("{"):
        return "" if _stands(cfg, key) else "++"
    if "hydra" not in cfg:
        return "" if key in cfg else "+"
    listed = any(line.startswith(f"{key}=") for line in task_overrides(cfg.hydra))  # `model=[a,b]` is no single choice
    return "" if listed or key in cfg.hydra.runtime.choices else "+"


def _stands(cfg: DictConfig, key: str) -> bool:
    """Whether the config has this key, whatever its value."""
    *way, name = key.split(".")
    node: Any = cfg
    for part in way:
        node = _children(node).get(part)
        node = None if node is None else node._maybe_dereference_node()
    return name in _children(node)


def _children(node: Any) -> dict[Any, Any]:
    content = node._content if isinstance(node, DictConfig) else None
    return content if isinstance(content, dict) else {}


def _replaced(cfg: DictConfig, key: str) -> Iterator[str]:
    """A value of the app's own that stands where `key` needs a mapping."""
    name, _, inside = key.partition(".")
    node = _children(cfg).get(name) if inside else None
    if node is not None and not OmegaConf.is_dict(node) and not node._is_none() and not node._is_missing():
        yield f"{name}={yaml_value(node._value())}"


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
    if key not in FIELDS:
        near = nearest(key, FIELDS)
        fixes = (Fix(f"++{READS}.{near}={place}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no field {key}.", *fixes)
    if value is _ABSENT:
        near = nearest(place, _places(cfg))
        fixes = (Fix(f"++{line}={near}", "did you mean this?"),) if near else ()
        return CFG001.refuse(line, place, "", f"There is no value at {place}.", *fixes)
    if not FIELDS[key].accepts(value):
        why = f"{key} is {FIELDS[key].describe()}; {place} holds {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why)
    said = _said(cfg, request, key)
    if said not in (None, value):
        why = f"{key} itself says {yaml_value(said)}, {place} says {yaml_value(value)}."
        return CFG002.refuse(line, place, "", why, Fix(f"{key}='${{{place}}}'", "one of them says it"))
    return None


def _said(cfg: DictConfig, request: dict[str, Any], key: str) -> Any:
    """What the field says already, if it stands in a node that our schema types; else None."""
    node, _, _ = key.partition(".")
    kind = OmegaConf.get_type(cfg, node) if node in cfg else None
    if not isinstance(kind, type) or not kind.__module__.startswith("hydra_overlap."):
        return None
    return dotted.get(request, key)


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
