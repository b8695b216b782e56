"""Fixes are proven by judging again only what they touch; what is found is what judging everything again finds."""

import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from hydra_overlap import GatingError, resolve
from hydra_overlap.resolver import resolve as resolver
from hydra_overlap.resolver.fixes import changes
from hydra_overlap.resolver.normalise import normalise
from hydra_overlap.rules import RULES, Rule
from tests.strategies import plausible

many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def refusal_of(request: dict[str, Any]) -> GatingError | None:
    try:
        resolve(request)
    except GatingError as refusal:
        return refusal
    return None


def judged_whole(flat: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Rule that refuses a flat request -> the fixes it proposes, every rule judged."""
    complete = resolver._complete(flat).flat
    return {found.rule: found.fixes for found in resolver.judge(complete, str) if found.severity == "error"}


@many
@given(plausible())
def test_every_fix_lifts_its_refusal_and_adds_none_but_the_one_it_names(request: dict[str, Any]) -> None:
    refusal = refusal_of(request)
    if refusal is None or request.get("gating") == "bridge":
        return
    flat = normalise(request, str)
    refused = {finding.rule for finding in refusal.findings}
    for finding in refusal.findings:
        for fix in finding.fixes:
            left = judged_whole(flat | changes(flat, fix.override)).keys()
            named = {rule for rule in left - refused if f"(then {rule} refuses)" in fix.effect}
            assert finding.rule not in left, fix.override
            assert bool(left - refused) == bool(named), (fix.override, left - refused)


@many
@given(plausible(), plausible())
def test_the_neighbours_of_a_request_get_the_verdicts_that_judging_everything_gives(
    request: dict[str, Any], other: dict[str, Any]
) -> None:
    """Neighbours that differ in one field, in those of one node, and in all."""
    flat, beside = normalise(request, str), normalise(other, str)
    complete = resolver._complete(flat).flat
    neighbours = resolver._Neighbours(flat, complete, resolver.outcomes(complete))
    different = [key for key in flat if flat[key] != beside[key]]
    steps = [*([key] for key in different[:8]), [key for key in different if key.startswith("parallelism.")], different]
    for keys in steps:
        changed = {key: beside[key] for key in keys}
        found = neighbours(changed)
        expected = judged_whole(flat | changed)
        assert [rule.__name__ for rule in found.rules] == list(expected), keys
        assert {rule.__name__: rule.fixes_for(found.flat) for rule in found.rules} == expected, keys


def test_proving_the_fixes_of_eight_causes_judges_few_rules_again(monkeypatch: pytest.MonkeyPatch) -> None:
    request = {
        "comm_overlap": {
            "tp": {"tp_comm_overlap": True},
            "pp": {"overlap_p2p_comm": True, "defer_embedding_wgrad_compute": True},
            "dp": {"overlap_param_gather": True, "overlap_param_gather_with_optimizer_step": True, "align_param_gather": True},
            "ep": {"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True},
        },
        "parallelism": {"tensor_model_parallel_size": 1, "sequence_parallel": True},
    }  # fmt: skip
    refusal = refusal_of(request)
    assert refusal is not None
    causes = len({finding.rule for finding in refusal.findings})
    assert causes >= 8, causes
    verdicts, requests = resolver._verdict, resolver._Neighbours.__call__
    counts = {"verdicts": 0, "requests": 0}

    def counted(rule: type[Rule], *rest: Any) -> str:
        counts["verdicts"] += 1
        return verdicts(rule, *rest)

    def judged(self: Any, changed: Any) -> Any:
        counts["requests"] += 1
        return requests(self, changed)

    monkeypatch.setattr(resolver, "_verdict", counted)
    monkeypatch.setattr(resolver._Neighbours, "__call__", judged)
    again = refusal_of(request)
    assert pickle.dumps(again) == pickle.dumps(refusal)
    assert counts["requests"] > causes
    assert counts["verdicts"] < len(RULES) * (1 + counts["requests"] / 4), counts
