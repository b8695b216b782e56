"""Fixes that are known to work: every override a refusal prints has been judged on the request it refuses.

A rule proposes the smallest change that satisfies it. That change may wake another rule (twice the ranks, and the batch no
longer divides); then the other rule's own fix is joined to it. What never comes out right is not printed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..findings import Finding, Fix
from ..rules import ARCHITECTURE
from ..rules._base import GIVES_UP, KEEPS
from ..schema.keys import GBS, WORLD

Flat = Mapping[str, Any]
Judge = Callable[[Flat], tuple[Finding, ...]]  # a flat request as asked -> the errors it gets

MAX_JOINED = 6  # fixes joined to one; more would be another plan, not a fix
SIZES = (WORLD, GBS)  # may be adjusted twice in one fix; another key set twice would take something back
KERNELS = ("model.gradient_accumulation_fusion", "model.moe_grouped_gemm")  # of the model's keys, no part of what it is
OPTIONS: dict[str, dict[str, Any]] = {
    "platform=h100": {"platform.name": "h100", "platform.sm": 90, "platform.nvlink_domain_size": 8},
    "platform=b200": {"platform.name": "b200", "platform.sm": 100, "platform.nvlink_domain_size": 8},
    "userbuffers=none": {"userbuffers.name": "none", "userbuffers.layers": {}, "userbuffers.tuned_for.tp": None},
}
"""Option files that fixes name, and what they say about keys that rules read. A test compares them with conf/."""


def changed(asked: Flat, override: str) -> dict[str, Any]:
    """The flat request after the overrides of one fix (separated by blanks)."""
    flat = dict(asked)
    for token in override.split():
        if token in OPTIONS:
            flat.update(OPTIONS[token])
        else:
            key, _, value = token.partition("=")
            _change(flat, key, _value(value))
    return flat


def _change(flat: dict[str, Any], key: str, value: Any) -> None:
    prefix, _, path = key.lstrip("~").partition("userbuffers.layers.")
    if prefix or not path:
        flat[key] = value
        return
    layers = {gemm: dict(entry) for gemm, entry in flat["userbuffers.layers"].items()}
    gemm, _, argument = path.partition(".")
    if not key.startswith("~"):
        layers.setdefault(gemm, {})[argument] = value
    elif argument:
        layers.get(gemm, {}).pop(argument, None)
    else:
        layers.pop(gemm, None)
    flat["userbuffers.layers"] = layers


def _value(text: str) -> Any:
    """`null`, `true`, `8`, `[a,b]` or text, as Hydra reads them."""
    if text.startswith("["):
        return [item for item in text[1:-1].split(",") if item]
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    try:
        return int(text)
    except ValueError:
        return text


def proven(errors: Iterable[Finding], asked: Flat, judge: Judge) -> tuple[Finding, ...]:
    """The same errors, each with those of its fixes that lift it and make no other rule refuse.

    Where none does, those that at least lift it, each saying which rule refuses then.
    """
    errors = tuple(errors)
    refused = {finding.rule for finding in errors}
    return tuple(replace(finding, fixes=_proven(finding, refused, asked, judge)) for finding in errors)


def _proven(finding: Finding, refused: set[str], asked: Flat, judge: Judge) -> tuple[Fix, ...]:
    clean: dict[str, Fix] = {}
    far: list[Fix] = []  # clean as well, but another rule's fix that was joined changes the model
    lifting: list[Fix] = []
    for proposed in finding.fixes:
        fix, woken = _joined(proposed, finding.rule, refused, asked, judge)
        if not woken and _model(fix) <= _model(proposed):
            clean.setdefault(fix.override, fix)
        elif not woken:
            far.append(fix)
        elif woken[0].rule != finding.rule:
            lifting.append(replace(fix, effect=f"{fix.effect} (then {woken[0].rule} refuses)"))
    return tuple(clean.values()) or tuple(far) or tuple(lifting)


def _model(fix: Fix) -> set[str]:
    """The keys of the model that a fix sets; which kernels compute it is another matter."""
    return {key for key in _settings(fix) if key.startswith("model.") and key not in KERNELS}


def _joined(fix: Fix, rule: str, refused: set[str], asked: Flat, judge: Judge) -> tuple[Fix, tuple[Finding, ...]]:
    """`fix` with the fixes of the rules it wakes; and what still refuses: `rule` itself first, if it does."""
    for _ in range(MAX_JOINED):
        found = judge(changed(asked, fix.override))
        unlifted = tuple(finding for finding in found if finding.rule == rule)
        woken = unlifted or tuple(finding for finding in found if finding.rule not in refused)
        extra = None if unlifted or not woken else _extra(woken[0], fix)
        if extra is None:
            return fix, woken
        fix = _join(fix, extra)
    return fix, woken


def _extra(finding: Finding, fix: Fix) -> Fix | None:
    """The first fix of a woken rule that leaves the architecture alone and takes nothing back that `fix` asks for."""
    asked = _settings(fix)

    def fits(other: Fix) -> bool:
        settings = _settings(other)
        back = any(key not in SIZES and asked.get(key, token) != token for key, token in settings.items())
        return other.effect != ARCHITECTURE and not back and not settings.items() <= asked.items()

    return next((other for other in finding.fixes if fits(other)), None)


def _settings(fix: Fix) -> dict[str, str]:
    """Key -> the override that sets it."""
    return {token.partition("=")[0]: token for token in fix.override.split()}


def _join(first: Fix, second: Fix) -> Fix:
    """Both overrides, the second wins where both set a key; the effect of the first, and what the second adds to it."""
    added = second.effect.removeprefix(KEEPS).lstrip(", ")
    if added == GIVES_UP and first.effect.startswith(KEEPS):  # not the overlap that the first one keeps
        off = (key for key, token in _settings(second).items() if token.endswith(("=false", "=null")))
        added = f"gives {', '.join(key.rpartition('.')[2] for key in off)} up"
    added = added[1:-1] if added.startswith("(") else added
    news = "" if not added or added in first.effect else f"; {added}"
    return Fix(" ".join((_settings(first) | _settings(second)).values()), first.effect + news)
