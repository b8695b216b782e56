"""What a rule says about its own example: the smallest request it refuses."""

from typing import Any

from .errors import GatingError
from .findings import Finding
from .resolve import resolve
from .rules import Rule


def example(rule: type[Rule]) -> Finding | None:
    """The finding of `rule` on its example; None for rules that only a composition can trip."""
    if not rule.refused:
        return None
    try:
        findings = resolve(_request(rule.refused)).findings
    except GatingError as refusal:
        findings = refusal.findings
    return next(finding for finding in findings if finding.rule == rule.__name__)


def _request(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The request that says just these overrides, read by Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    request: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        *path, name = override.get_key_element().split(".")
        node = request
        for part in path:
            node = node.setdefault(part, {})
        node[name] = override.value()
    return request
