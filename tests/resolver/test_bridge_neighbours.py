"""`gating: bridge` next to the recorded rows: what they do not contain, read in Bridge's comm_overlap.py."""

from typing import Any

import pytest

from hydra_overlap import GatingError, Resolution, resolve

TE = {"transformer_engine": "2.12.0"}
TP4 = {"tensor_model_parallel_size": 4, "sequence_parallel": True, "world_size": 8}
LAYERS = {"qkv_fprop": {"method": "ring_exchange", "aggregate": False}}
DIST = {"ddp": {"use_distributed_optimizer": True}, "optimizer": {"use_distributed_optimizer": True}}
EXPERTS = {
    "model": {"num_moe_experts": 8, "moe_token_dispatcher_type": "alltoall"},
    "precision": {"bf16": True},
    "parallelism": {"expert_model_parallel_size": 2, "world_size": 2},
}


def bridge(**nodes: Any) -> Resolution:
    return resolve({"gating": "bridge", **nodes})


def refusals(**nodes: Any) -> list[str]:
    with pytest.raises(GatingError) as refusal:
        bridge(**nodes)
    return [finding.rule for finding in refusal.value.findings]


def rules_of(resolution: Resolution, severity: str) -> list[str]:
    return [finding.rule for finding in resolution.findings if finding.severity == severity]


def test_tp_overlap_that_is_not_said_is_off_without_a_warning() -> None:
    answer = bridge(parallelism=TP4, software=TE)
    assert answer.transformer_config["tp_comm_overlap"] is False
    assert rules_of(answer, "warning") == []


def test_userbuffers_stay_on_the_model_when_tp_overlap_is_switched_off() -> None:
    answer = bridge(comm_overlap={"tp": {"tp_comm_overlap": True}}, userbuffers={"layers": LAYERS}, software=TE)
    assert answer.transformer_config["tp_comm_overlap"] is False
    assert answer.transformer_config["tp_comm_overlap_cfg"] == LAYERS
    assert answer.userbuffers is None
    assert rules_of(answer, "warning") == ["BRIDGE001"]


def test_an_entry_of_userbuffers_that_is_null_is_left_out() -> None:
    layers = {**LAYERS, "qkv_wgrad": None}
    request = {"parallelism": TP4, "software": TE, "userbuffers": {"layers": layers}}
    answer = bridge(comm_overlap={"tp": {"tp_comm_overlap": True}}, **request)
    assert answer.userbuffers == answer.transformer_config["tp_comm_overlap_cfg"] == LAYERS


@pytest.mark.parametrize("field", ["overlap_grad_reduce", "overlap_param_gather"])
def test_false_is_a_value_of_the_user_not_an_absence(field: str) -> None:
    answer = bridge(comm_overlap={"dp": {field: False}}, parallelism={"world_size": 8}, **DIST)
    asked = {"overlap_grad_reduce": True, "overlap_param_gather": True, field: False}
    assert {name: answer.ddp_config[name] for name in asked} == asked


def test_values_of_the_user_bypass_the_gates() -> None:
    answer = bridge(
        comm_overlap={
            "pp": {"overlap_p2p_comm": True, "batch_p2p_comm": True},
            "dp": {"overlap_param_gather_with_optimizer_step": True, "align_param_gather": True, "bucket_size": 7},
        },
        **DIST,
    )
    assert answer.transformer_config["overlap_p2p_comm"] is answer.transformer_config["batch_p2p_comm"] is True
    assert answer.optimizer_config["overlap_param_gather_with_optimizer_step"] is True
    assert answer.ddp_config == {
        "overlap_grad_reduce": False, "overlap_param_gather": False, "align_param_gather": True, "bucket_size": 7,
    }  # fmt: skip


@pytest.mark.parametrize(("vpp", "overlapped"), [(None, False), (1, False), (2, True)])
def test_vpp_of_one_picks_the_plain_schedule(vpp: int | None, overlapped: bool) -> None:
    layout = {
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": vpp,
        "world_size": 4,
    }
    answer = bridge(parallelism=layout, **DIST)
    assert answer.transformer_config["overlap_p2p_comm"] is overlapped
    assert answer.transformer_config["batch_p2p_comm"] is not overlapped
    assert answer.ddp_config["align_param_gather"] is overlapped


def test_vpp_of_one_satisfies_the_assertion_of_expert_overlap() -> None:
    layout = {**EXPERTS["parallelism"], "pipeline_model_parallel_size": 2, "world_size": 4}
    asked = {"comm_overlap": {"ep": {"overlap_moe_expert_parallel_comm": True}}, "software": TE}
    rest = {**EXPERTS, **asked}
    assert refusals(**{**rest, "parallelism": layout}) == ["BRIDGE106"]
    layout["virtual_pipeline_model_parallel_size"] = 1
    assert bridge(**{**rest, "parallelism": layout}).transformer_config["overlap_moe_expert_parallel_comm"] is True


def test_without_the_distributed_optimizer_the_base_values_stay_and_comm_overlap_dp_is_ignored() -> None:
    answer = bridge(
        comm_overlap={"dp": {"overlap_grad_reduce": False, "bucket_size": 5}},
        ddp={"overlap_grad_reduce": True, "bucket_size": 9},
        optimizer={"overlap_param_gather": True},
        parallelism={"world_size": 8},
    )
    assert answer.ddp_config == {
        "overlap_grad_reduce": True, "overlap_param_gather": False, "align_param_gather": False, "bucket_size": 9,
    }  # fmt: skip
    assert answer.optimizer_config["overlap_param_gather"] is True
    assert rules_of(answer, "note") == ["BRIDGE202", "BRIDGE203"]


def test_with_the_distributed_optimizer_base_values_are_overwritten_and_a_note_says_so() -> None:
    answer = bridge(
        ddp={"use_distributed_optimizer": True, "overlap_grad_reduce": False, "bucket_size": 9},
        optimizer={"use_distributed_optimizer": True},
        parallelism={"world_size": 8},
    )
    assert answer.ddp_config["overlap_grad_reduce"] is True
    assert answer.ddp_config["bucket_size"] == 128 * 1024 * 1024
    assert rules_of(answer, "note") == ["BRIDGE201", "BRIDGE201"]


def test_only_the_ddp_side_of_the_distributed_optimizer_counts() -> None:
    sides = {"ddp": {"use_distributed_optimizer": False}, "optimizer": {"use_distributed_optimizer": True}}
    answer = bridge(parallelism={"world_size": 8}, **sides)
    assert answer.ddp_config["overlap_grad_reduce"] is False
    assert rules_of(answer, "note") == ["BRIDGE206"]


def test_context_parallel_ranks_do_not_count_as_data_parallel() -> None:
    answer = bridge(parallelism={"context_parallel_size": 2, "world_size": 2}, **DIST)
    assert answer.ddp_config["overlap_grad_reduce"] is False
    assert rules_of(answer, "note") == ["BRIDGE204"]


def test_a_deferral_alone_gets_the_limit_that_megatron_core_refuses_and_a_note_says_so() -> None:
    answer = bridge(comm_overlap={"pp": {"defer_embedding_wgrad_compute": True}})
    assert answer.transformer_config["wgrad_deferral_limit"] == -1
    assert rules_of(answer, "note") == ["BRIDGE207"]


def test_a_bootstrap_backend_of_null_stays_null() -> None:
    answer = bridge(comm_overlap={"tp": {"tp_comm_bootstrap_backend": None}})
    assert answer.transformer_config["tp_comm_bootstrap_backend"] is None
    assert bridge().transformer_config["tp_comm_bootstrap_backend"] == "nccl"


def test_fields_that_bridge_has_no_knob_for_stay_on_the_model_where_asked() -> None:
    answer = bridge(comm_overlap={"tp": {"tp_comm_overlap_rs": False}})
    assert answer.transformer_config["tp_comm_overlap_rs"] is False
    assert "tp_comm_overlap_ag" not in answer.transformer_config


def test_assertions_come_in_the_order_bridge_makes_them() -> None:
    asked = {"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True}
    found = refusals(
        comm_overlap={"ep": asked},
        model={"mtp_num_layers": 2, "recompute_granularity": "full", "gradient_accumulation_fusion": True},
    )
    assert found == ["BRIDGE101", "BRIDGE102", "BRIDGE103", "BRIDGE104", "BRIDGE107", "BRIDGE112", "BRIDGE114"]


@pytest.mark.parametrize(("layers", "legal"), [(None, True), (0, True), (1, True), (2, False)])
def test_expert_overlap_takes_at_most_one_mtp_layer(layers: int | None, legal: bool) -> None:
    request = {**EXPERTS, "model": {**EXPERTS["model"], "mtp_num_layers": layers}}
    asked = {"ep": {"overlap_moe_expert_parallel_comm": True}}
    if legal:
        bridge(comm_overlap=asked, **request)
    else:
        assert refusals(comm_overlap=asked, **request) == ["BRIDGE112"]


def delayed(
    te: str | None, ddp: dict[str, Any] | None = None, dp: dict[str, Any] | None = None, **model: Any
) -> Resolution:
    ep = {"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True}
    return bridge(
        comm_overlap={"ep": ep, "dp": dp or {}},
        ddp=ddp or {},
        software={"transformer_engine": te},
        **{**EXPERTS, "model": {**EXPERTS["model"], **model}},
    )


def test_delayed_weight_gradients_need_no_transformer_engine_while_nothing_reduces_or_fuses() -> None:
    assert delayed(None).transformer_config["delay_wgrad_compute"] is True


def test_a_derived_gradient_reduction_does_not_count_for_delayed_weight_gradients() -> None:
    answer = delayed("2.6.0", ddp={"use_distributed_optimizer": True})
    assert answer.ddp_config["overlap_grad_reduce"] is True
    assert answer.ddp_config["delay_wgrad_compute"] is True


@pytest.mark.parametrize("where", ["ddp", "dp"])
def test_a_gradient_reduction_that_was_said_counts_for_delayed_weight_gradients(where: str) -> None:
    with pytest.raises(GatingError, match="BRIDGE113"):
        delayed("2.6.0", **{where: {"overlap_grad_reduce": True}})
    delayed("2.7.0", **{where: {"overlap_grad_reduce": True}})


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"cuda_graph_scope": ["attn"]}, "BRIDGE117"),
        ({"cuda_graph_scope": ["attn"], "gradient_accumulation_fusion": True}, ""),
        ({"cuda_graph_scope": ["attn"], "gradient_accumulation_fusion": True, "add_qkv_bias": True}, "BRIDGE118"),
        ({"cuda_graph_scope": ["moe_router"]}, ""),
        ({"cuda_graph_scope": ["moe_router"], "moe_shared_expert_intermediate_size": 64}, "BRIDGE117"),
        (
            {
                "cuda_graph_scope": ["moe_router"],
                "moe_shared_expert_intermediate_size": 64,
                "gradient_accumulation_fusion": True,
                "add_bias_linear": True,
            },
            "",
        ),
    ],
)
def test_delayed_weight_gradients_in_a_cuda_graph(model: dict[str, Any], refused: str) -> None:
    if refused:
        with pytest.raises(GatingError, match=refused):
            delayed("2.12.0", **model)
    else:
        delayed("2.12.0", **model)


def test_delayed_weight_gradients_in_a_cuda_graph_need_transformer_engine_2_12() -> None:
    with pytest.raises(GatingError, match="BRIDGE116"):
        delayed("2.11.0", cuda_graph_scope=["attn"], gradient_accumulation_fusion=True)


def test_a_world_that_holds_no_whole_number_of_models_is_refused() -> None:
    assert refusals(parallelism={"tensor_model_parallel_size": 4, "world_size": 6}) == ["BRIDGE100"]


def test_the_ledger_says_what_was_changed() -> None:
    answer = bridge(comm_overlap={"tp": {"tp_comm_overlap": True}, "dp": {"bucket_size": 5}})
    rows = {row.field: row for row in answer.ledger}
    on, bucket = rows["comm_overlap.tp.tp_comm_overlap"], rows["comm_overlap.dp.bucket_size"]
    assert (on.asked, on.effective, on.rule) == (True, False, "bridge")
    assert (bucket.asked, bucket.effective, bucket.rule) == (5, None, "bridge")
    assert all(row.reason and (row.source or not row.rule) for row in answer.ledger)


def test_a_chunk_of_one_byte_is_refused_only_in_a_pipeline() -> None:
    launch = {"nccl_pp_comm_chunksize": 1}
    assert refusals(launch=launch, parallelism={"pipeline_model_parallel_size": 2}) == ["ENV001"]
    assert "NCCL_P2P_NET_CHUNKSIZE" not in bridge(launch=launch).env
