"""PP: edges of pipeline overlap and of the deferred embedding gradient."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, remarks, request_of

PP2 = "parallelism.pipeline_model_parallel_size=2"
INTERLEAVED = (PP2, "parallelism.virtual_pipeline_model_parallel_size=2")
OVERLAP, BATCH = "comm_overlap.pp.overlap_p2p_comm", "comm_overlap.pp.batch_p2p_comm"
FLUSH = "comm_overlap.pp.overlap_p2p_comm_warmup_flush"
DEFER, LIMIT = "comm_overlap.pp.defer_embedding_wgrad_compute=true", "comm_overlap.pp.wgrad_deferral_limit"
GAF = "model.gradient_accumulation_fusion=true"
TE = "software.transformer_engine=2.12.0"


def p2p(*overrides: str) -> tuple[bool, bool]:
    fields = resolve(request_of(*overrides)).transformer_config
    return fields["overlap_p2p_comm"], fields["batch_p2p_comm"]


def test_derives_p2p_from_the_schedule() -> None:
    assert p2p() == (False, False)
    assert p2p(PP2) == (False, True)
    assert p2p(*INTERLEAVED) == (True, False)


def test_refuses_p2p_overlap_outside_the_interleaved_schedule() -> None:
    assert refusing(f"{OVERLAP}=true") == refusing(f"{OVERLAP}=true", PP2) == ["PP001"]
    assert refusing(f"{OVERLAP}=true", *INTERLEAVED) == []


def test_allows_plain_p2p_in_both_schedules() -> None:
    plain = (f"{OVERLAP}=false", f"{BATCH}=false")
    assert p2p(*plain, PP2) == p2p(*plain, *INTERLEAVED) == (False, False)


def test_refuses_batched_p2p_with_overlap_or_interleaving() -> None:
    assert refusing(f"{OVERLAP}=true", f"{BATCH}=true", *INTERLEAVED) == ["PP002"]
    assert refusing(f"{BATCH}=true", *INTERLEAVED) == ["PP002"]  # the overlap is derived
    assert refusing(f"{OVERLAP}=false", f"{BATCH}=true", *INTERLEAVED) == ["PP003"]
    assert refusing(f"{OVERLAP}=false", f"{BATCH}=true", PP2) == []


@pytest.mark.parametrize("stages", [3, 4])
def test_allows_interleaved_stages_on_batched_p2p_where_neighbours_differ(stages: int) -> None:
    layout = (*INTERLEAVED, f"parallelism.pipeline_model_parallel_size={stages}")
    assert p2p(*layout, f"{OVERLAP}=false", f"{BATCH}=true") == (False, True)


@pytest.mark.parametrize(("others", "rules"), [
    ((), ["PP004"]), ((PP2,), ["PP004"]), (INTERLEAVED, []), ((*INTERLEAVED, f"{OVERLAP}=false"), ["PP004"]),
    ((f"{OVERLAP}=true",), ["PP001"]),
])  # fmt: skip
def test_refuses_overlap_in_warm_up_without_overlap_in_between(others: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(f"{FLUSH}=true", *others) == rules


def test_allows_deferring_the_embedding_gradient_in_a_pipeline_with_fused_accumulation() -> None:
    assert resolve(request_of(DEFER, PP2, GAF, TE)).transformer_config["wgrad_deferral_limit"] == 0
    assert refusing(DEFER, GAF) == ["PP005"]
    assert refusing(DEFER, PP2, TE) == ["PP006"]
    assert refusing(DEFER, PP2, GAF) == ["PP010"]


@pytest.mark.parametrize(("limit", "rules"), [("0", []), ("22", []), ("-1", ["PP007"])])
def test_refuses_a_negative_deferral_limit(limit: str, rules: list[str]) -> None:
    assert refusing(DEFER, PP2, GAF, TE, f"{LIMIT}={limit}") == rules


def test_refuses_a_deferral_beside_overlapped_gradient_reduction() -> None:
    dp2 = (DEFER, PP2, GAF, TE, "parallelism.world_size=4")
    assert refusing(*dp2, "comm_overlap.dp.overlap_grad_reduce=true") == ["PP008"]
    assert refusing(*dp2, "comm_overlap.dp.overlap_grad_reduce=false") == []


def test_derives_no_gradient_reduce_overlap_beside_a_deferral() -> None:
    resolution = resolve(request_of(DEFER, PP2, GAF, TE, "parallelism.world_size=4"))
    assert resolution.ddp_config["overlap_grad_reduce"] is False
    row = next(row for row in resolution.ledger if row.field == "comm_overlap.dp.overlap_grad_reduce")
    assert "PP008" in row.reason


def test_refuses_a_deferral_limit_without_the_deferral() -> None:
    assert refusing(f"{LIMIT}=22") == refusing(f"{LIMIT}=-1") == ["PP009"]
    assert refusing(f"{LIMIT}=0") == []


def test_refuses_a_deferral_under_megatron_fsdp() -> None:
    fsdp = (
        "ddp.use_megatron_fsdp=true",
        "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true",
    )
    assert refusing(DEFER, PP2, GAF, TE, *fsdp, "parallelism.world_size=4") == ["PP011"]


@pytest.mark.parametrize(("layers", "rules"), [("null", []), ("1", ["PP012"]), ("2", ["PP012"])])
def test_refuses_a_deferral_with_multi_token_prediction(layers: str, rules: list[str]) -> None:
    assert refusing(DEFER, PP2, GAF, TE, f"model.mtp_num_layers={layers}") == rules
    assert refusing(PP2, GAF, TE, f"model.mtp_num_layers={layers}") == []


@pytest.mark.parametrize(
    ("overrides", "microbatches", "warned"),
    [
        ((PP2,), 1, True), ((PP2,), 2, False), (("parallelism.pipeline_model_parallel_size=4",), 3, True),
        (INTERLEAVED, 2, True), (INTERLEAVED, 4, False), ((*INTERLEAVED, f"{FLUSH}=true"), 2, False),
    ],
)  # fmt: skip
def test_warns_of_a_first_stage_that_never_leaves_the_warm_up(
    overrides: tuple[str, ...], microbatches: int, warned: bool
) -> None:
    assert ("PP201" in remarks(*overrides, f"training.global_batch_size={microbatches}")) is warned


def test_warns_of_experts_whose_all_to_alls_the_first_stage_never_overlaps() -> None:
    experts = (
        *INTERLEAVED, f"{FLUSH}=true", "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2",
        "parallelism.world_size=4", "model.moe_token_dispatcher_type=alltoall", "precision.bf16=true",
        "software.torch=2.11.0", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true",
    )  # fmt: skip
    assert "PP201" in remarks(*experts, "training.global_batch_size=4")
    assert "PP201" not in remarks(*experts, "training.global_batch_size=8")


def test_the_batch_size_it_proposes_is_enough() -> None:
    overrides = (*INTERLEAVED, "training.micro_batch_size=2", "parallelism.world_size=8")
    finding = next(
        finding
        for finding in resolve(request_of(*overrides, "training.global_batch_size=16")).findings
        if finding.rule == "PP201"
    )
    assert "PP201" not in remarks(*overrides, finding.fixes[0].override)


def test_notes_p2p_that_is_neither_batched_nor_overlapped_where_it_could_be_batched() -> None:
    assert "PP202" in remarks(PP2, f"{BATCH}=false")
    assert "PP202" not in remarks(PP2)
    assert "PP202" not in remarks(*INTERLEAVED, f"{OVERLAP}=false")


def test_notes_shapes_that_travel_before_tensors() -> None:
    assert "PP203" in remarks(PP2, "model.variable_seq_lengths=true")
    assert "PP203" not in remarks("model.variable_seq_lengths=true")
