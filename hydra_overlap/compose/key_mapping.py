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

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..resolver import mapped_fields
from ..rules.cfg import CFG001
from ..schema.fields import NODES
from .option_source import PREFIX, PREFIXED, seen_by_host
from .overrides import COMMAND_LINE, task_overrides

BROUGHT = ("parallelism", "userbuffers", "platform", "software")  # nodes and groups of a bundle beside comm_overlap
OWN_NODE = "A node {0} of your app's own needs another name beside a bundle: docs/hosts.md."


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
    places = dict(mapped_fields.places(cfg))
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
            if key in PREFIXED and not value.startswith("{") and _is_host(cfg):
                key = f"{PREFIX}/{key}"
                token = f"{key}={value}"
            plus = _plus(cfg, key, value)
            lost |= dict.fromkeys(_replaced(cfg, key)) if plus else {}
            token = plus + token
        tokens.append(token)
    effects = (fix.effect, *(f"takes the place of {text}" for text in lost))
    return replace(fix, override=" ".join(tokens), effect="; ".join(filter(None, effects)))


def _is_host(cfg: DictConfig) -> bool:
    """Whether the app has our groups under the names for other apps."""
    hydra: Any = cfg.hydra if "hydra" in cfg else HydraConfig.get() if HydraConfig.initialized() else None
    return hydra is not None and seen_by_host(hydra.runtime.choices)


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
