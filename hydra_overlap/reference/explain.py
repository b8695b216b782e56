"""One page of text about a rule, a derivation or a field."""

import inspect
import shlex
import textwrap
from collections.abc import Iterable, Iterator

from ..findings import yaml_value
from ..rules import DERIVATIONS, RULES, Derivation, Rule
from ..schema.descriptions import descriptions
from ..schema.fields import DEFAULTS, FIELDS
from ..suggest import nearest
from .examples import decisions, example

WIDTH = 100  # columns of wrapped prose


class UnknownError(LookupError):
    """Nothing bears this name; the message lists near ones."""


def explain(name: str) -> str:
    """The page of `TP002`, `TP101` or `comm_overlap.dp.bucket_size`. Raises UnknownError."""
    rules = {rule.__name__: rule for rule in RULES}
    derivations = {derivation.id: derivation for derivation in DERIVATIONS}
    if name.upper() in rules:
        return "\n".join(_rule(rules[name.upper()]))
    if name.upper() in derivations:
        return "\n".join(_derivation(derivations[name.upper()]))
    if name in DEFAULTS:
        return "\n".join(_field(name))
    match = nearest(name, [*rules, *derivations, *DEFAULTS])
    hint = f" Did you mean {match}?" if match else ""
    raise UnknownError(
        f"There is no rule, derivation or field called {name}.{hint} `hydra-overlap rules` lists the rules."
    )


def _rule(rule: type[Rule]) -> Iterator[str]:
    yield f"{rule.__name__}  {rule.title()}"
    yield ""
    yield f"{rule.severity}" + (f", judged only if {', '.join(rule.requires)} did not refuse" if rule.requires else "")
    finding = example(rule)
    why = rule.why or (finding.why if finding else "")
    if why:
        yield ""
        yield _wrapped(why)
    body = inspect.cleandoc(rule.__doc__ or "").partition("\n")[2].strip()
    if body:
        yield ""
        yield body
    if rule.reads:
        yield from _block("reads", rule.reads)
    if finding is not None:
        yield from _block("example", (shlex.join(["hydra-overlap", "check", *rule.refused]),))
        fixes = [line for fix in finding.fixes for line in (fix.override, f"    {fix.effect}") if line.strip()]
        yield from _block("fix", fixes)
    yield from _block("source", (rule.source,))


def _derivation(derivation: Derivation) -> Iterator[str]:
    yield f"{derivation.id}  decides {derivation.key} if it is null"
    lines: list[str] = []
    for decision in decisions(derivation):
        lines += [f"{yaml_value(decision.value)}: {decision.reason}"]
        lines += [f"    {' '.join(decision.plan) or 'with nothing set'}"]
    if lines:
        yield from _block("becomes, for example", lines)
    elif isinstance(derivation.reason, str):  # of no row of the ledger
        yield ""
        yield _wrapped(derivation.reason)
    yield from _block("source", (derivation.source,))


def _field(key: str) -> Iterator[str]:
    yield f"{key}  (default: {yaml_value(DEFAULTS[key])})"
    yield ""
    yield _wrapped(descriptions()[key])
    yield from _block("holds", (FIELDS[key].wanted(),))
    if FIELDS[key].since:
        yield from _block("since", (f"megatron-core {FIELDS[key].since}",))
    decided = [f"{derivation.id}" for derivation in DERIVATIONS if derivation.key == key]
    if decided:
        yield from _block("null is decided by", decided)
    readers = [f"{rule.__name__}  {rule.title()}" for rule in RULES if key in rule.reads]
    if readers:
        yield from _block("read by", readers)


def _block(label: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield label
    for line in lines:
        yield f"  {line}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
