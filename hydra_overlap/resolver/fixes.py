"""Fixes that are known to work: every override a refusal prints has been judged on the request it refuses.

A rule proposes the smallest change that satisfies it. That change may wake another rule (twice the ranks, and the batch no
longer divides); then the other rule's own fix is joined to it. What never comes out right is not printed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..findings import Finding, Fix
from ..rules import ARCHITECTURE
from ..rules._base import GIVES_UP, KEEPS, Rule
from ..schema.fields import FIELDS
from ..schema.keys import GBS, UB_LAYERS, WORLD

Flat = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The rules that refuse a request, in rule order; and the complete request, which their fixes depend on."""

    flat: Flat
    rules: Sequence[type[Rule]]


Judge = Callable[[Mapping[str, Any]], Refused]  # other values for some keys of the request -> its errors then
Overridden = Callable[
    [str], Refused | None
]  # the overrides of a fix -> the errors of the request then; None: not a request

MAX_JOINED = 6  # fixes joined to one; more would be another plan, not a fix
SIZES = (WORLD, GBS)  # may be adjusted twice in one fix; another key set twice would take something back
KERNELS = ("model.gradient_accumulation_fusion", "model.moe_grouped_gemm")  # of the model's keys, no part of what it is
OPTIONS: dict[str, dict[str, Any]] = {
    "platform=h100": {"platform.name": "h100", "platform.sm": 90, "platform.nvlink_domain_size": 8},
    "platform=b200": {"platform.name": "b200", "platform.sm": 100, "platform.nvlink_domain_size": 8},
    "userbuffers=none": {"userbuffers.name": "none", "userbuffers.layers": {}, "userbuffers.tuned_for.tp": None},
}
"""Option files that fixes name, and what they say about keys that rules read. A test compares them with conf/."""


def changes(asked: Flat, override: str) -> dict[str, Any]:
    """Key -> value of all that the overrides of one fix (separated by blanks) set in a flat request."""
    found: dict[str, Any] = {}
    for token in override.split():
        if token in OPTIONS:
            found.update(OPTIONS[token])
        else:
            key, _, value = token.partition("=")
            _change(found, asked, key, _value(value))
    return found


def _change(found: dict[str, Any], asked: Flat, key: str, value: Any) -> None:
    prefix, _, path = key.lstrip("~").partition(f"{UB_LAYERS}.")
    if prefix or not path:
        found[key] = value
        return
    before = found[UB_LAYERS] if UB_LAYERS in found else asked[UB_LAYERS]
    layers = {gemm: dict(entry) for gemm, entry in before.items()}
    gemm, _, argument = path.partition(".")
    if not key.startswith("~"):
        layers.setdefault(gemm, {})[argument] = value
    elif argument:
        layers.get(gemm, {}).pop(argument, None)
    else:
        layers.pop(gemm, None)
    found[UB_LAYERS] = layers


def _value(text: str) -> Any:
    """`null`, `true`, `8`, `3e-05`, `[a,b]`, `{}` or text, as Hydra reads them."""
    if text == "{}":
        return {}
    if text.startswith("["):
        return [_value(item) for item in text[1:-1].split(",") if item]
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def proven(errors: Iterable[Finding], asked: Flat, judge: Judge) -> tuple[Finding, ...]:
    """The same errors, each with those of its fixes that lift it and make no other rule refuse.

    Where none does, those that at least lift it, each saying which rule refuses then. A number of GPUs that was said stays,
    unless nothing else is left to change.
    """
    errors = tuple(errors)
    refused = {finding.rule for finding in errors}
    found = cache(lambda override: _tried(changes(asked, override), judge))  # several rules propose the same
    proof = (replace(finding, fixes=_proven(finding, refused, found)) for finding in errors)
    return tuple(replace(finding, fixes=_on_the_same_gpus(finding.fixes, asked)) for finding in proof)


def _tried(values: Mapping[str, Any], judge: Judge) -> Refused | None:
    """In two steps, as requests are: rules may only see values that their fields allow. A world_size of 0 is refused before."""
    allowed = all(key in FIELDS and FIELDS[key].allows(value) for key, value in values.items())
    return judge(values) if allowed else None


def _on_the_same_gpus(fixes: tuple[Fix, ...], asked: Flat) -> tuple[Fix, ...]:
    """The fixes that leave the number of GPUs as it was asked for; all of them where none does, or none was asked for."""
    ranks = asked.get(WORLD)
    kept = tuple(fix for fix in fixes if changes(asked, fix.override).get(WORLD, ranks) == ranks)
    return kept if ranks is not None and kept else fixes


def _proven(finding: Finding, refused: set[str], judge: Overridden) -> tuple[Fix, ...]:
    clean: dict[str, Fix] = {}
    far: list[Fix] = []  # clean as well, but another rule's fix that was joined changes the model
    lifting: list[Fix] = []
    for proposed in finding.fixes:
        fix, woken = _joined(proposed, finding.rule, refused, judge)
        if not woken and _model(fix) <= _model(proposed):
            clean.setdefault(fix.override, fix)
        elif not woken:
            far.append(fix)
        elif woken != finding.rule:
            lifting.append(replace(fix, effect=f"{fix.effect} (then {woken} refuses)"))
    return tuple(clean.values()) or tuple(far) or tuple(lifting)


def _model(fix: Fix) -> set[str]:
    """The keys of the model that a fix sets; which kernels compute it is another matter."""
    return {key for key in _settings(fix) if key.startswith("model.") and key not in KERNELS}


def _joined(fix: Fix, rule: str, refused: set[str], judge: Overridden) -> tuple[Fix, str]:
    """`fix` with the fixes of the rules it wakes; and which rule still refuses, `rule` itself first, or none."""
    left = ""
    for _ in range(MAX_JOINED):
        found = judge(fix.override)
        if found is None:
            return fix, rule
        names = {one.__name__: one for one in found.rules}
        left = rule if rule in names else next((name for name in names if name not in refused), "")
        if left in ("", rule):
            break
        extra = _extra(names[left].fixes_for(found.flat), fix)
        if extra is None:
            break
        fix = _join(fix, extra)
    return fix, left


def _extra(fixes: Iterable[Fix], fix: Fix) -> Fix | None:
    """The first of the fixes of a woken rule that leaves the architecture alone and takes nothing back that `fix` asks for."""
    asked = _settings(fix)

    def fits(other: Fix) -> bool:
        settings = _settings(other)
        back = any(key not in SIZES and asked.get(key, token) != token for key, token in settings.items())
        return other.effect != ARCHITECTURE and not back and not settings.items() <= asked.items()

    return next((other for other in fixes if fits(other)), None)


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
