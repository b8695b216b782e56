"""`resolve`: the only place that decides. Pure: no torch, megatron, GPU, clock, log or environment."""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import dotted
from ..errors import GatingError
from ..findings import Finding
from ..rules import DERIVATIONS, RULES, Derivation, Rule, trn
from ..rules._base import Origin
from ..rules.cfg import CfgRule
from ..rules.dp import BASES
from ..rules.env import EnvValue, launch_environment
from ..schema.fields import DEFAULTS, VERSIONS
from ..schema.keys import VPP, WORLD
from ..schema.targets import DDP_FIELDS, LEDGER_KEYS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS
from . import bridge_mode
from .fixes import Refused, proven
from .ledger import LedgerRow, userbuffers_row
from .normalise import normalise
from .resolution import Resolution

_DERIVED = {derivation.key: derivation for derivation in DERIVATIONS}


def resolve(cfg: Any, *, origins: Mapping[str, str] | None = None) -> Resolution:
    """Judge a request by all rules, decide what it left open, and answer it.

    cfg: a DictConfig, or a plain nested mapping with the nodes of `schema.Request`; absent nodes and fields mean their
    defaults. A config that was judged at its composition is read as it was there: an app's own nodes, `overlap.reads`, and
    the facts and the preset that `auto` stood for. origins: flat key -> where its value came from, for the ledger and for messages.
    Raises GatingError with every rule that refuses, in rule order.
    """
    known = {} if origins is None else origins  # not `or`: compose hands over a lazy mapping that starts empty

    def origin(key: str) -> str:
        return known.get(key, "")

    flat = normalise(_plain(cfg), origin)
    if flat["gating"] == "bridge":
        return _with_trainers_rules(bridge_mode.resolve(flat, origin), flat, origin)
    return _resolve_strict(flat, known)


def _plain(cfg: Any) -> Any:
    """A DictConfig becomes a plain dict; anything else stays what it is."""
    if isinstance(cfg, dict):
        return cfg
    from .from_config import request_of  # omegaconf only where one of its configs comes in

    return request_of(cfg)


def _with_trainers_rules(answer: Resolution, flat: dict[str, Any], origin: Origin) -> Resolution:
    """Bridge's answer, where the plan is one that train.py can run. Raises GatingError where it is not."""

    def neighbour(changes: Mapping[str, Any]) -> Refused:
        changed = {**flat, **changes}
        return Refused(flat=changed, rules=[rule for rule in _of_train_py(changed) if rule.severity == "error"])

    findings = [rule.finding(flat, origin) for rule in _of_train_py(flat)]
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise GatingError(proven(errors, flat, neighbour))
    return replace(answer, findings=(*answer.findings, *findings))


def _of_train_py(flat: Mapping[str, Any]) -> list[type[Rule]]:
    """Rules TRN that refuse or warn, all others left aside."""
    verdicts = {rule.__name__: "not applicable" for rule in RULES}
    for rule in trn.RULES:
        verdicts[rule.__name__] = _verdict(rule, flat, verdicts)
    return [rule for rule in trn.RULES if verdicts[rule.__name__] == "refused"]


@dataclass(frozen=True)
class _Complete:
    """A request with every null decided.

    asked: with the base values of ddp and optimizer taken in. flat: with derived values. reasons: of what was derived.
    inherited: key -> the base it came from.
    """

    asked: dict[str, Any]
    flat: dict[str, Any]
    reasons: dict[str, str]
    inherited: dict[str, str]


def _complete(request: Mapping[str, Any]) -> _Complete:
    asked = dict(request)
    inherited = _take_bases(asked)
    flat, reasons = dict(asked), {}
    for derivation in _derive(flat):
        reasons[derivation.key] = derivation.explain(flat)
    return _Complete(asked, flat, reasons, inherited)


def _derive(flat: dict[str, Any]) -> Iterator[Derivation]:
    """Decide every null of a request, in place; -> each derivation that did, before the next one does."""
    for derivation in DERIVATIONS:
        if flat[derivation.key] is not None:
            continue
        value = flat[derivation.key] = derivation.value(flat)
        if value is not None or derivation.key in LEDGER_KEYS:  # VPP mostly stays null: nobody decided that
            yield derivation


def _resolve_strict(request: dict[str, Any], origins: Mapping[str, str]) -> Resolution:
    complete = _complete(request)
    flat = complete.flat

    def origin(key: str) -> str:
        if key in complete.reasons:
            return f"derived by {_DERIVED[key].id}"
        if key in complete.inherited:
            return complete.inherited[key]
        return origins.get(key, "default" if key in DEFAULTS and flat[key] == DEFAULTS[key] else "")

    verdicts = outcomes(flat)
    findings = [rule.finding(flat, origin) for rule in _refusing(verdicts)]
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise GatingError(proven(errors, request, _Neighbours(request, flat, verdicts)))

    environment = launch_environment(flat)
    answered = dotted.nested(request)
    for key in (WORLD, VPP):
        dotted.put(answered, key, flat[key])
    on = flat["comm_overlap.tp.tp_comm_overlap"]
    return Resolution(
        gating="strict",
        transformer_config={name: flat[key] for name, key in TRANSFORMER_FIELDS.items()},
        optimizer_config={name: flat[key] for name, key in OPTIMIZER_FIELDS.items()},
        ddp_config={name: flat[key] for name, key in DDP_FIELDS.items()},
        userbuffers=({gemm: dict(entry) for gemm, entry in flat["userbuffers.layers"].items()} or None) if on else None,
        env={value.name: value.value for value in environment},
        ledger=tuple(_ledger(complete, origin, environment)),
        findings=tuple(findings),
        request=answered,
    )


def _take_bases(flat: dict[str, Any]) -> dict[str, str]:
    """A base value of ddp or optimizer is an ask where comm_overlap.dp says nothing. -> key: the base it came from."""
    taken: dict[str, str] = {}
    for key, bases in BASES.items():
        for base in bases:
            if flat[key] is None and flat[base] is not None:
                flat[key] = flat[base]
                taken[key] = base
    return taken


def _judging_order() -> tuple[type[Rule], ...]:
    """Rules such that each comes after those it requires, otherwise in their order."""
    order: list[type[Rule]] = []
    waiting = [rule for rule in RULES if not issubclass(rule, CfgRule)]
    while waiting:
        done = {rule.__name__ for rule in order}
        order.append(next(rule for rule in waiting if done.issuperset(rule.requires)))
        waiting.remove(order[-1])
    return tuple(order)


_ORDER = _judging_order()
_PLACES = {rule: place for place, rule in enumerate(RULES)}


def _turns(named: Callable[[type[Rule]], Iterable[str]]) -> dict[str, list[int]]:
    """Each name -> the turns, in judging order, of the rules that name it; advisories, which refuse nothing, left out."""
    turns: dict[str, list[int]] = {}
    required = {need for rule in _ORDER for need in rule.requires}
    for turn, rule in enumerate(_ORDER):
        for name in named(rule) if rule.severity == "error" or rule.__name__ in required else ():
            turns.setdefault(name, []).append(turn)
    return turns


_DECIDED = {*BASES, *_DERIVED}  # keys whose value may follow from others
_READERS = _turns(lambda rule: rule.reads)  # by key
_REQUIRING = _turns(lambda rule: rule.requires)  # by the id of the rule they require


def outcomes(flat: Mapping[str, Any]) -> dict[str, str]:
    """Rule id -> holds, refused, not applicable or not evaluated (a rule it requires refused)."""
    verdicts: dict[str, str] = {}
    for rule in _ORDER:
        verdicts[rule.__name__] = _verdict(rule, flat, verdicts)
    return verdicts


def _verdict(rule: type[Rule], flat: Mapping[str, Any], verdicts: Mapping[str, str]) -> str:
    """verdicts: of the rules that it requires, at least."""
    for need in rule.requires:
        if verdicts[need] in ("refused", "not evaluated"):
            return "not evaluated"
    if not rule.applies(flat):
        return "not applicable"
    return "holds" if rule.holds(flat) else "refused"


def _refusing(verdicts: Mapping[str, str]) -> Iterator[type[Rule]]:
    """The rules that refuse or warn, in rule order."""
    return (rule for rule in RULES if verdicts.get(rule.__name__) == "refused")


def judge(flat: Mapping[str, Any], origin: Origin) -> list[Finding]:
    """Findings of all rules on a complete request, in rule order."""
    return [rule.finding(flat, origin) for rule in _refusing(outcomes(flat))]


class _Neighbours:
    """What refuses requests that differ from a judged one in a few keys.

    Only rules that read one of these keys are judged again, and those that require a rule whose verdict changed: a rule
    declares all it reads. request: as it is asked. flat, verdicts: of the same, complete.
    """

    def __init__(self, request: Mapping[str, Any], flat: Mapping[str, Any], verdicts: Mapping[str, str]) -> None:
        self._request, self._flat, self._verdicts = request, flat, verdicts
        self._refused = {_PLACES[rule] for rule in _refusing(verdicts) if rule.severity == "error"}

    def __call__(self, changes: Mapping[str, Any]) -> Refused:
        """The errors of the request with other values for some keys."""
        flat = {**self._request, **changes}
        _take_bases(flat)
        for _ in _derive(flat):
            pass
        before = self._flat
        differing = [key for key in {*changes, *_DECIDED} if flat[key] != before.get(key)]
        return Refused(flat=flat, rules=[RULES[place] for place in sorted(self._refused_of(flat, differing))])

    def _refused_of(self, flat: Mapping[str, Any], differing: Iterable[str]) -> set[int]:
        """Places in RULES of those that refuse. differing: the keys in which `flat` is not the judged request."""
        verdicts, refused = dict(self._verdicts), set(self._refused)
        turns = sorted({turn for key in differing for turn in _READERS.get(key, ())})
        for turn in turns:  # it may grow: a rule comes after those it requires
            rule = _ORDER[turn]
            verdict = _verdict(rule, flat, verdicts)
            if verdict != verdicts[rule.__name__]:
                verdicts[rule.__name__] = verdict
                if rule.severity == "error":
                    (refused.add if verdict == "refused" else refused.discard)(_PLACES[rule])
                for later in _REQUIRING.get(rule.__name__, ()):
                    if later not in turns:
                        insort(turns, later)
        return refused


def _ledger(complete: _Complete, origin: Origin, environment: Iterable[EnvValue]) -> Iterator[LedgerRow]:
    """One row per overlap field, then the userbuffers dictionary, assumed versions and the environment."""
    flat = complete.flat
    for key in LEDGER_KEYS:
        yield _row(key, complete, origin)
    yield from userbuffers_row(flat, flat["comm_overlap.tp.tp_comm_overlap"], origin)
    if flat["software.origin"] == "assumed":
        for key in VERSIONS:
            yield LedgerRow(
                field=key, asked=flat[key], effective=flat[key], origin="assumed", rule="",
                reason="the reference stack, for another machine; checked where the run starts", source="",
            )  # fmt: skip
    for value in environment:
        yield LedgerRow(
            field=f"env.{value.name}", asked=None, effective=value.value, origin="derived", rule=value.rule,
            reason=value.reason, source=value.source,
        )  # fmt: skip


def _said(where: str, limit: str) -> str:
    return "not set: the default" if where == "default" else f"asked; {limit}" if limit else "asked"


def _row(key: str, complete: _Complete, origin: Origin) -> LedgerRow:
    derived, limit = key in complete.reasons, _DERIVED[key].limit(complete.flat) if key in _DERIVED else ""
    where = "derived" if derived else origin(key)
    return LedgerRow(
        field=key,
        asked=complete.asked[key],
        effective=complete.flat[key],
        origin=where,
        rule=_DERIVED[key].id if derived else "",
        reason=complete.reasons.get(key) or _said(where, limit),
        source=_DERIVED[key].source if derived else "",
    )
