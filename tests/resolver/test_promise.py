"""The promise: for any request, either it is refused by name, or everything that was asked for is in effect."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from omegaconf import OmegaConf

from hydra_overlap import GatingError, Resolution, resolve
from hydra_overlap.resolver.fixes import changes
from hydra_overlap.rules import DERIVATIONS, RULES
from hydra_overlap.schema.fields import DEFAULTS, FIELDS
from hydra_overlap.schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS
from tests.overrides import errors_of, overridden, parsed
from tests.strategies import SCENARIOS, nest, plausible, wild

OBJECTS = (
    ("transformer_config", TRANSFORMER_FIELDS),
    ("ddp_config", DDP_FIELDS),
    ("optimizer_config", OPTIMIZER_FIELDS),
)
DERIVED_BY = {derivation.key: derivation.id for derivation in DERIVATIONS}
HYBRID_SHARDED = {
    "parallelism": {"world_size": 16},
    "ddp": {
        "use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim_grads_params", "use_distributed_optimizer": True,
        "num_distributed_optimizer_instances": 2,
    },
    "optimizer": {"use_distributed_optimizer": True},
    "platform": {"name": "h100", "sm": 90},
    "software": {"megatron_core": "0.16.1", "transformer_engine": "2.11.0", "torch": "2.11.0"},
    "training": {"global_batch_size": 256},
}  # fmt: skip
"""Megatron FSDP in two groups: every overlap left to the derivation."""
SMALLER_THAN_TP = {
    "parallelism": {"tensor_model_parallel_size": 8, "sequence_parallel": True, "world_size": 4},
    "comm_overlap": {"tp": {"tp_comm_overlap": True}},
    "userbuffers": {"name": "tuned", "tuned_for": {"tp": 4}},
    "training": {"global_batch_size": 64},
}
"""Fewer ranks than TP, so that a whole number of replicas is none."""
RULE_IDS = {rule.__name__ for rule in RULES}
OVERLAP_KEYS = [key for key in DEFAULTS if key.startswith("comm_overlap.")]
MOST_STEPS = 12  # pastes to a legal request; the longest of 4,000 drawn requests took 8


def drawn(examples: int) -> settings:
    """The same requests on every run, so that a red test is red for everybody."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


many = drawn(400)


def value_of(request: dict[str, Any], key: str) -> Any:
    node: Any = request
    for name in key.split("."):
        node = node.get(name, DEFAULTS[key]) if isinstance(node, dict) else DEFAULTS[key]
    return DEFAULTS[key] if isinstance(node, dict) else node


def answer(request: Any) -> Resolution | GatingError:
    try:
        return resolve(request)
    except GatingError as refusal:
        return refusal


def settings_of(resolution: Resolution, key: str) -> dict[str, Any]:
    """Object -> value, on every object that has this overlap field."""
    return {
        owner: getattr(resolution, owner)[name]
        for owner, fields in OBJECTS
        for name, source in fields.items()
        if source == key
    }


@many
@given(plausible())
def test_either_refused_by_name_or_everything_asked_is_in_effect(request: dict[str, Any]) -> None:
    resolution = answer(request)
    if isinstance(resolution, GatingError):
        assert resolution.findings
        assert all(finding.severity == "error" and finding.rule in RULE_IDS for finding in resolution.findings)
        return
    rows = {row.field: row for row in resolution.ledger}
    for key in OVERLAP_KEYS:
        asked, effective, row = value_of(request, key), settings_of(resolution, key), rows[key]
        assert effective, key
        if asked is not None:
            assert all(value == asked and type(value) is type(asked) for value in effective.values()), key
            assert (row.asked, row.effective, row.rule) == (asked, asked, "")
        assert len(set(map(repr, effective.values()))) == 1, f"{key} differs between objects: {effective}"
        assert row.effective == next(iter(effective.values()))
        assert row.reason


@many
@given(plausible())
def test_what_was_left_null_is_derived_with_rule_reason_and_source(request: dict[str, Any]) -> None:
    resolution = answer(request)
    if isinstance(resolution, GatingError):
        return
    for row in resolution.ledger:
        if row.field in DERIVED_BY and row.asked is None:
            assert (row.origin, row.rule) == ("derived", DERIVED_BY[row.field])
            assert row.reason and row.source
            assert row.effective is not None or row.field == "comm_overlap.dp.bucket_size"
        if row.origin == "derived":
            assert row.rule and row.reason and row.source


@many
@given(plausible())
def test_an_overlap_in_effect_has_what_it_needs(request: dict[str, Any]) -> None:
    """The requirements once more, in other words than the rules'."""
    resolution = answer(request)
    if isinstance(resolution, GatingError):
        return
    layout, model = resolution.request["parallelism"], resolution.transformer_config
    tp, pp = layout["tensor_model_parallel_size"], layout["pipeline_model_parallel_size"]
    vpp, world = layout["virtual_pipeline_model_parallel_size"], layout["world_size"]
    if model["tp_comm_overlap"]:
        assert tp > 1 and layout["sequence_parallel"] and resolution.request["software"]["transformer_engine"]
        assert resolution.request["platform"]["name"] != "cpu"
        architecture, precision = resolution.request["model"], resolution.request["precision"]
        assert not precision["fp16"]
        assert precision["bf16"] or None in (architecture["seq_length"], architecture["hidden_size"])
        assert tp in (2, 4, 8, 16, 32)
        assert not (architecture["multi_latent_attention"] or architecture["variable_seq_lengths"])
        assert not architecture["mtp_num_layers"]
        assert precision["fp8"] is None or precision["fp8_recipe"] != "blockwise"
        kept = model["tp_comm_overlap_disable_qkv"] or model["tp_comm_overlap_disable_fc1"]
        bulk = model["tp_comm_bulk_dgrad"] or model["tp_comm_bulk_wgrad"]
        assert not (model["tp_comm_overlap_rs_dgrad"] and bulk) or kept
    if model["overlap_p2p_comm"]:
        assert pp > 1 and vpp and vpp > 1 and not model["batch_p2p_comm"]
    if resolution.ddp_config["overlap_grad_reduce"]:
        assert world // (tp * pp) > 1 and not model["defer_embedding_wgrad_compute"]
    if resolution.ddp_config["overlap_param_gather"]:
        assert resolution.ddp_config["overlap_grad_reduce"]
        assert resolution.request["ddp"]["use_distributed_optimizer"] is True
        assert resolution.request["optimizer"]["use_distributed_optimizer"] is True
        assert resolution.ddp_config["align_param_gather"] is bool(vpp)
    if model["overlap_moe_expert_parallel_comm"]:
        assert layout["expert_model_parallel_size"] > 1 and resolution.request["model"]["num_moe_experts"] > 1
    buckets = resolution.ddp_config["overlap_grad_reduce"] and not resolution.request["ddp"]["use_megatron_fsdp"]
    assert (resolution.ddp_config["bucket_size"] is not None) is buckets
    assert world % (tp * pp * layout["context_parallel_size"]) == 0


@many
@given(plausible())
def test_the_answer_is_the_same_twice_and_the_request_is_left_alone(request: dict[str, Any]) -> None:
    before = copy.deepcopy(request)
    first, second = answer(request), answer(request)
    assert request == before
    assert str(first) == str(second)
    assert type(first) is type(second)


@drawn(100)
@given(plausible())
def test_a_dictconfig_and_a_dict_get_the_same_answer(request: dict[str, Any]) -> None:
    plain, wrapped = answer(request), answer(OmegaConf.create(request))
    assert str(plain) == str(wrapped)


@drawn(100)
@given(plausible())
def test_the_request_of_an_answer_gets_the_same_answer(request: dict[str, Any]) -> None:
    resolution = answer(request)
    if isinstance(resolution, Resolution):
        again = resolve(resolution.request)
        assert again.to_dict() == resolution.to_dict()


@drawn(600)
@given(wild())
@example(None)
@example("tp4_h100")
@example([])
@example({1: 2})
@example({"comm_overlap": "tp4_h100"})
@example({"comm_overlap": {"tp": None}})
@example({"userbuffers": {"layers": {1: {}}}})
@example({"userbuffers": {"layers": {"qkv_fprop": {"method": None, "num_sm": [1]}}}})
@example({"model": {"num_layers": 10**30}, "parallelism": {"pipeline_model_parallel_size": 10**9 + 7}})
@example({"platform": {"name": "auto"}})
@example({"parallelism": {"tensor_model_parallel_size": 0, "world_size": -4}})
@example({"parallelism": {"sequence_parallel": 1, "tensor_model_parallel_size": True}})
@example({"optimizer": {"lr": float("nan")}, "software": {"torch": "x" * 99}})
@example({"launch": {"trainer": "train.py"}, "parallelism": {"microbatch_group_size_per_vp_stage": 10**400}})
@example(SMALLER_THAN_TP)
def test_nothing_but_a_gating_error_is_ever_raised(request: Any) -> None:
    result = answer(request)
    assert isinstance(result, Resolution) or (result.findings and str(result))


def test_hybrid_sharded_megatron_fsdp_is_accepted_with_both_overlaps_derived_or_asked_for() -> None:
    for asked in ({}, {"dp": {"overlap_grad_reduce": True, "overlap_param_gather": True}}):
        resolution = resolve({**HYBRID_SHARDED, "comm_overlap": asked})
        assert resolution.ddp_config["overlap_grad_reduce"] is resolution.ddp_config["overlap_param_gather"] is True
    plain = copy.deepcopy(HYBRID_SHARDED)
    plain["ddp"]["use_megatron_fsdp"] = False  # whose reductions ADV001 is about
    plain["comm_overlap"] = {"dp": {"overlap_grad_reduce": True}}
    assert [finding.rule for finding in errors_of(plain)] == ["ADV001"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenarios_that_requests_are_drawn_around_are_legal(name: str) -> None:
    assert errors_of(nest(SCENARIOS[name])) == ()


def test_a_dictconfig_with_a_missing_value_or_a_dead_interpolation_is_refused() -> None:
    for value in ("???", "${nowhere}"):
        with pytest.raises(GatingError, match=r"model.hidden_size"):
            resolve(OmegaConf.create({"model": {"hidden_size": value}}))


def test_a_composed_config_may_carry_hydras_node_and_our_answer() -> None:
    cfg = OmegaConf.create(
        {"hydra": {"job": "${nowhere}"}, "overlap": {"plan": "???"}, "model": {"hidden_size": "${size}"}, "size": 8}
    )
    with pytest.raises(GatingError, match="There is no size"):
        resolve(cfg)
    del cfg["size"]
    cfg.model.hidden_size = "${training.micro_batch_size}"
    cfg.training = {"micro_batch_size": 4}
    assert resolve(cfg).request["model"]["hidden_size"] == 4


@drawn(400)
@given(wild())
@example(SMALLER_THAN_TP)
def test_no_fix_says_a_value_that_its_field_refuses_or_that_hydra_cannot_read(request: Any) -> None:
    refusal = answer(request)
    for finding in refusal.findings if isinstance(refusal, GatingError) else ():
        for fix in finding.fixes:
            assert parsed(fix.override), fix
            said = changes(DEFAULTS, fix.override)
            wrong = [key for key, value in said.items() if key in FIELDS and not FIELDS[key].allows(value)]
            assert not wrong or said[wrong[0]] == "auto", (finding.rule, fix)


@drawn(300)
@given(plausible())
@example(HYBRID_SHARDED)
def test_a_value_that_was_derived_is_never_refused_as_if_it_had_been_asked_for(request: dict[str, Any]) -> None:
    """Of a refusal that shows overlap settings which are all derived: the other value of none of them would have been accepted."""
    refusal = answer(request)
    if not isinstance(refusal, GatingError) or request.get("gating") == "bridge":
        return
    for finding in refusal.findings:
        shown = [place for place in finding.where if place.key in DERIVED_BY and place.key.startswith("comm_overlap.")]
        if not shown or not all(place.origin.startswith("derived by") for place in shown):
            continue
        switches = [place for place in shown if place.value in ("true", "false")]
        for count in range(1, len(switches) + 1):
            other = [f"{place.key}={'false' if place.value == 'true' else 'true'}" for place in switches[:count]]
            after = {error.rule for error in errors_of(overridden(request, *other))}
            assert after, f"{finding.rule} refuses what was derived; {other} is accepted"


@drawn(250)
@given(plausible())
def test_every_printed_fix_lifts_its_refusal(request: dict[str, Any]) -> None:
    errors = errors_of(request)
    refused = {finding.rule for finding in errors}
    for finding in errors:
        assert finding.fixes, str(finding.message)
        for fix in finding.fixes:
            after = {error.rule for error in errors_of(overridden(request, fix.override))}
            assert finding.rule not in after, f"{finding.rule}: {fix}"
            if " (then " not in fix.effect and not finding.rule.startswith("CFG"):
                assert after <= refused, f"{finding.rule}: {fix} wakes {after - refused}"


@drawn(250)
@given(plausible())
def test_pasting_the_first_fix_again_and_again_ends_in_a_legal_request(request: dict[str, Any]) -> None:
    pasted: list[str] = []
    while errors := errors_of(request):
        pasted.append(f"{errors[0].rule}: {errors[0].fixes[0].override}")
        assert len(pasted) <= MOST_STEPS, "\n".join(pasted)
        request = overridden(request, errors[0].fixes[0].override)


@drawn(250)
@given(plausible())
def test_giving_overlaps_up_one_by_one_ends_in_a_legal_request(request: dict[str, Any]) -> None:
    pasted: list[str] = []
    while errors := errors_of(request):
        pasted.append(f"{errors[0].rule}: {errors[0].fixes[-1].override}")
        assert len(pasted) <= MOST_STEPS, "\n".join(pasted)
        request = overridden(request, errors[0].fixes[-1].override)
