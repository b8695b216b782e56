"""From the declarations, for every rule and derivation: examples, fixes, sources and order."""

import itertools
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest

from hydra_overlap.resolver.fixes import OPTIONS, changes
from hydra_overlap.resolver.resolve import _complete, outcomes
from hydra_overlap.rules import DERIVATIONS, RULES, Rule
from hydra_overlap.rules._base import Derivation
from hydra_overlap.rules.cfg import CFG001, CfgRule
from hydra_overlap.schema.fields import DEFAULTS
from tests.each import each
from tests.overrides import errors_of, flat_of, overridden, refusing, remarks, request_of

JUDGED_AT_COMPOSITION = [
    "CFG006",
    "CFG007",
    "CFG008",
    "CFG009",
    "CFG010",
    "CFG012",
    "ENV002",
]  # compose.py makes these findings; tests/compose
EXAMPLES = [rule for rule in RULES if rule.__name__ not in JUDGED_AT_COMPOSITION]
JUDGED = [rule for rule in RULES if not issubclass(rule, CfgRule)]


def by_name(rule: Any) -> str:
    return str(rule.__name__ if isinstance(rule, type) else rule.id)


@pytest.mark.parametrize("rule", EXAMPLES, ids=by_name)
def test_the_example_is_refused_by_its_rule(rule: type[Rule]) -> None:
    found = refusing(*rule.refused) if rule.severity == "error" else remarks(*rule.refused)
    assert rule.__name__ in found, f"{' '.join(rule.refused)} -> {found}"


@pytest.mark.parametrize("rule", [rule for rule in EXAMPLES if len(rule.refused) > 1], ids=by_name)
def test_no_override_of_the_example_can_be_left_out(rule: type[Rule]) -> None:
    for index, left_out in enumerate(rule.refused):
        rest = rule.refused[:index] + rule.refused[index + 1 :]
        errors = refusing(*rest)
        found = errors if rule.severity == "error" or errors else remarks(*rest)
        assert found != [rule.__name__], f"{left_out} is not needed: {' '.join(rest)} -> {found}"


@pytest.mark.parametrize("rule", [rule for rule in EXAMPLES if rule.severity == "error"], ids=by_name)
def test_every_fix_lifts_the_refusal_and_wakes_no_other_rule(rule: type[Rule]) -> None:
    request = request_of(*rule.refused)
    errors = errors_of(request)
    refused = {finding.rule for finding in errors}
    finding = next(finding for finding in errors if finding.rule == rule.__name__)
    assert finding.fixes
    if rule is CFG001:  # its fix stands in place of the key that does not exist
        request = {}
    for fix in finding.fixes:
        after = {error.rule for error in errors_of(overridden(request, fix.override))}
        assert rule.__name__ not in after, fix
        if not issubclass(rule, CfgRule):  # while CFG refuses, the others have not been judged
            assert after <= refused, f"{fix} wakes {after - refused}"


@each("rule", [rule for rule in JUDGED if rule.severity != "error" and rule.fixes], ids=by_name)
def test_every_fix_of_a_note_silences_it_or_is_refused_openly(rule: type[Rule]) -> None:
    for fix in rule.fixes:
        request = overridden(request_of(*rule.refused), fix.override)
        if not errors_of(request):
            assert outcomes(_complete(flat_of(request)).flat)[rule.__name__] != "refused", fix


@each("rule", [rule for rule in JUDGED if rule.severity == "error"], ids=by_name)
def test_our_own_reading_of_a_fix_is_hydras(rule: type[Rule]) -> None:
    request = request_of(*rule.refused)
    flat = flat_of(request)
    for finding in errors_of(request):
        for fix in finding.fixes:
            pasted = flat_of(overridden(request, fix.override))
            judged = flat | changes(flat, fix.override)
            ours = {key: value for key, value in judged.items() if value != pasted[key]}
            described = ("platform.", "userbuffers.source", "userbuffers.name")  # of an option file, not read by rules
            assert all(key.startswith(described) for key in ours), f"{fix.override}: {ours}"


@pytest.mark.parametrize("option", OPTIONS)
def test_option_files_that_fixes_name_say_what_fixes_expect(option: str) -> None:
    flat = flat_of(request_of(option))
    assert {key: flat[key] for key in OPTIONS[option]} == OPTIONS[option]


class Recorder(Mapping[str, Any]):
    """A request that remembers which keys were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.read = values, set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


RICH = (
    (
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        "parallelism.world_size=4", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
        "comm_overlap.dp.align_param_gather=true", "comm_overlap.dp.bucket_size=7", "ddp.bucket_size=7",
        "comm_overlap.dp.overlap_param_gather_with_optimizer_step=true", "ddp.overlap_grad_reduce=true",
        "ddp.overlap_param_gather=true", "optimizer.overlap_param_gather=true", "ddp.align_param_gather=true",
        "optimizer.overlap_param_gather_with_optimizer_step=true", "precision.fp8_param_gather=true", "precision.fp8=hybrid",
        "precision.fp4_param_gather=true", "precision.fp4=e2m1", "training.eval_interval=10",
    ),
    (
        "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall",
        "comm_overlap.ep.overlap_moe_expert_parallel_comm=true", "comm_overlap.ep.delay_wgrad_compute=true",
        "model.moe_shared_expert_intermediate_size=64", "model.cuda_graph_scope=[moe_router]", "model.mtp_num_layers=1",
        "software.transformer_engine=2.12.0", "model.gradient_accumulation_fusion=true",
    ),
    ("model.num_moe_experts=4", "model.cuda_graph_scope=[moe]", "model.moe_expert_capacity_factor=1.0",
     "model.moe_pad_expert_input_to_capacity=true", "model.moe_token_dispatcher_type=flex"),
    ("model.cuda_graph_scope=[attn]", "comm_overlap.ep.delay_wgrad_compute=true", "software.transformer_engine=2.12.0",
     "model.gradient_accumulation_fusion=true"),
    (
        "model.num_moe_experts=4", "model.moe_shared_expert_intermediate_size=64", "model.moe_shared_expert_overlap=true",
    ),
    (
        "parallelism.world_size=4", "comm_overlap.dp.bucket_size=1000", "model.num_layers=4", "model.hidden_size=64",
        "model.num_attention_heads=4", "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2",
    ),
    ("parallelism.pipeline_model_parallel_size=2", "model.num_layers=4", "model.hidden_size=64",
     "model.num_attention_heads=4", "model.num_layers_in_last_pipeline_stage=1", "comm_overlap.dp.bucket_size=1000"),
    (
        "comm_overlap.tp.tp_comm_overlap=true", "parallelism.tensor_model_parallel_size=2", "precision.bf16=true",
        "parallelism.sequence_parallel=true", "software.transformer_engine=2.11.0", "platform.sm=80",
    ),
    (
        "comm_overlap.tp.tp_comm_overlap=true", "parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true",
        "software.transformer_engine=2.11.0", "userbuffers.layers.qkv_fprop={method:ring_exchange}",
        "userbuffers.layers.fc1_wgrad={method:bulk}",
    ),
    (
        "launch.trainer=train.py", "training.rampup_batch_size=[4,4,24]", "training.global_batch_size=16",
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
    ),
)  # fmt: skip
"""Requests that reach what no example reaches: the later half of an `and`."""


@cache
def completed() -> list[dict[str, Any]]:
    """Every example, and what none reaches, as rules see it once values are derived."""
    examples = (*(other.refused for other in EXAMPLES if not issubclass(other, CfgRule)), *RICH, ())
    return [_complete(flat_of(request_of(*example))).flat for example in examples]


@each("rule", JUDGED, ids=by_name)
def test_a_rule_reads_what_it_declares_and_nothing_else(rule: type[Rule]) -> None:
    read = set[str]()
    for flat in completed():
        recorder = Recorder(flat)
        if rule.applies(recorder):
            rule.holds(recorder)
        read |= recorder.read
    assert read <= set(rule.reads)
    unread = set(rule.reads) - read
    assert not unread, f"{rule.__name__} declares {unread} and never reads it"


@each("rule", RULES, ids=by_name)
def test_a_rule_says_what_why_and_from_where(rule: type[Rule]) -> None:
    assert re.fullmatch(r"(CFG|PAR|PREC|TP|UB|CP|PP|DP|EP|CG|ENV|VER|TRN|ADV)\d{3}", rule.__name__)
    assert rule.source
    assert rule.severity in ("error", "warning", "note")
    assert rule.why or issubclass(rule, CfgRule) or "why_for" in vars(rule)
    assert set(rule.reads) | set(rule.shows) <= set(DEFAULTS)
    assert set(rule.requires) <= {other.__name__ for other in RULES}


@each("derivation", DERIVATIONS, ids=by_name)
def test_a_derivation_says_why_and_from_where(derivation: Derivation) -> None:
    flat = _complete(dict(DEFAULTS)).flat
    assert derivation.key in DEFAULTS
    assert len(derivation.explain(flat)) > 5
    assert derivation.source


def test_ids_are_unique_and_rise_within_a_family() -> None:
    ids = [rule.__name__ for rule in RULES] + [derivation.id for derivation in DERIVATIONS]
    assert len(ids) == len(set(ids))
    for group in ([rule.__name__ for rule in RULES], [derivation.id for derivation in DERIVATIONS]):
        for family, members in itertools.groupby(group, key=lambda name: name.rstrip("0123456789")):
            listed = list(members)
            assert listed == sorted(listed), family


def test_a_derivation_decides_each_field_once() -> None:
    keys = [derivation.key for derivation in DERIVATIONS]
    assert len(keys) == len(set(keys))


def test_every_rule_class_is_listed() -> None:
    def below(base: type[Rule]) -> Iterator[type[Rule]]:
        for child in base.__subclasses__():
            yield child
            yield from below(child)

    declared = {rule for rule in below(Rule) if re.search(r"\d{3}$", rule.__name__)}
    assert declared == set(RULES)


def test_every_rule_but_those_of_composition_has_an_example() -> None:
    assert [rule.__name__ for rule in RULES if not rule.refused] == JUDGED_AT_COMPOSITION


def test_the_four_outcomes_occur() -> None:
    flat = _complete(flat_of(request_of("comm_overlap.tp.tp_comm_overlap=true"))).flat
    verdicts = outcomes(flat)
    assert verdicts["TP001"] == "refused"
    assert verdicts["TP002"] == "not evaluated"
    assert verdicts["PAR001"] == "holds"
    assert verdicts["PP001"] == "not applicable"
