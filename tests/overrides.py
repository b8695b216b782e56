"""Hydra's overrides applied to a plain request, without composing: what a user pastes, judged in a millisecond.

Parsed by Hydra's own grammar. `group=option` loads our option file; `~key` deletes; several overrides may stand in one
string, separated by blanks.
"""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_overlap import Finding, GatingError, resolve
from hydra_overlap.resolver.normalise import normalise
from hydra_overlap.schema.fields import DEFAULTS

CONF = Path(__file__).parent.parent / "conf"
Request = dict[str, Any]


@lru_cache(maxsize=1024)
def _parse(text: str) -> Any:
    return OverridesParser.create().parse_overrides([text])[0]


def parsed(text: str) -> list[Any]:
    """Overrides separated by blanks, read by Hydra's own grammar; raises OverrideParseException."""
    return [_parse(one) for one in text.split()]


@lru_cache(maxsize=64)
def _option(group: str, name: str) -> dict[str, Any] | None:
    path = CONF / group / f"{name}.yaml"
    if not path.exists():
        return None
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    values.pop("defaults", None)
    return values


def overridden(request: Request, *overrides: str) -> Request:
    """A copy of the request with the overrides applied in order."""
    result = copy.deepcopy(request)
    for override in " ".join(overrides).split():
        parsed = _parse(override)
        path = parsed.get_key_element().lstrip("~+").replace("/", ".").split(".")
        node: Any = result
        for name in path[:-1]:
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
        if parsed.is_delete():
            del node[path[-1]]
            continue
        value = parsed.value()
        option = _option("/".join(path), str(value)) if ".".join(path) not in DEFAULTS else None
        node[path[-1]] = copy.deepcopy(value if option is None else option)
    return result


def request_of(*overrides: str) -> Request:
    """The smallest request that says these overrides."""
    return overridden({}, *overrides)


def flat_of(request: Request) -> dict[str, Any]:
    """The flat request as rules see it before anything is derived."""
    return normalise(request, lambda key: "")


def errors_of(request: Request) -> tuple[Finding, ...]:
    """Errors that refuse the request; empty if it resolves."""
    try:
        resolve(request)
    except GatingError as refusal:
        return refusal.findings
    return ()


def refusing(*overrides: str) -> list[str]:
    """Ids of the rules that refuse these overrides."""
    return [finding.rule for finding in errors_of(request_of(*overrides))]


def remarks(*overrides: str) -> list[str]:
    """Ids of the warnings and notes on a legal request."""
    return [finding.rule for finding in resolve(request_of(*overrides)).findings]
