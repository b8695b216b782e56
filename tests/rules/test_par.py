"""PAR: edges of the parallel layout and the nearest legal neighbours."""

import pytest

from hydra_overlap import resolve
from hydra_overlap.rules.layout import divisor_below, neighbours
from tests.overrides import errors_of, refusing, request_of

TP, PP, CP = (f"parallelism.{name}_parallel_size" for name in ("tensor_model", "pipeline_model", "context"))
VPP, EP = "parallelism.virtual_pipeline_model_parallel_size", "parallelism.expert_model_parallel_size"
GROUP, SP = "parallelism.microbatch_group_size_per_vp_stage", "parallelism.sequence_parallel"


def world(*overrides: str) -> int:
    size: int = resolve(request_of(*overrides)).request["parallelism"]["world_size"]
    return size


def test_a_world_size_that_is_not_said_is_the_smallest_that_holds_model_and_experts() -> None:
    assert world() == 1
    assert world(f"{TP}=2", f"{PP}=2", f"{CP}=2") == 8
    assert world(f"{EP}=6", "model.num_moe_experts=6", f"{CP}=4") == 12
    assert (
        world(
            f"{TP}=2", f"{SP}=true", "parallelism.expert_tensor_parallel_size=1", f"{EP}=4", "model.num_moe_experts=4"
        )
        == 4
    )


@pytest.mark.parametrize(("size", "rules"), [(4, []), (5, ["PAR001"]), (6, ["PAR001"]), (8, []), (2, ["PAR001"])])
def test_refuses_a_world_that_holds_no_whole_number_of_models(size: int, rules: list[str]) -> None:
    assert refusing(f"{TP}=2", f"{PP}=2", f"parallelism.world_size={size}") == rules


def test_refuses_a_world_that_holds_no_whole_number_of_expert_copies() -> None:
    experts = (f"{EP}=4", "model.num_moe_experts=4")
    assert refusing(*experts, "parallelism.world_size=6") == ["PAR002"]
    assert refusing(*experts, "parallelism.world_size=8") == []
    assert refusing(*experts, "parallelism.expert_tensor_parallel_size=2", "parallelism.world_size=4") == ["PAR002"]


def test_allows_sequence_parallelism_only_with_tensor_parallelism() -> None:
    assert refusing(f"{SP}=true", f"{TP}=2") == []
    assert refusing(f"{SP}=true", f"{TP}=1") == ["PAR003"]


@pytest.mark.parametrize(("layers", "vpp", "rules"), [
    (8, "2", []), (8, "4", []), (8, "3", ["PAR004"]), (6, "2", ["PAR004"]), (6, "null", []), (7, "null", ["PAR004"]),
])  # fmt: skip
def test_refuses_layers_that_do_not_fill_the_model_chunks(layers: int, vpp: str, rules: list[str]) -> None:
    assert refusing(f"{PP}=2", f"{VPP}={vpp}", f"model.num_layers={layers}") == rules


@pytest.mark.parametrize(("pp", "vpp", "rules"), [
    (2, "1", ["PAR005"]), (2, "2", []), (1, "2", ["PAR005"]), (1, "1", ["PAR005"]), (1, "null", []),
])  # fmt: skip
def test_refuses_a_vpp_that_is_no_interleaving(pp: int, vpp: str, rules: list[str]) -> None:
    assert refusing(f"{PP}={pp}", f"{VPP}={vpp}") == rules


def test_refuses_heads_that_tensor_parallel_ranks_cannot_share() -> None:
    assert refusing(f"{TP}=4", "model.num_attention_heads=6") == ["PAR006"]
    assert refusing(f"{TP}=3", "model.num_attention_heads=6") == []


@pytest.mark.parametrize(("groups", "rules"), [(1, []), (2, []), (3, ["PAR007"]), (4, []), (6, ["PAR007"]), (8, [])])
def test_allows_query_groups_that_are_a_multiple_or_a_divisor_of_tp(groups: int, rules: list[str]) -> None:
    assert refusing(f"{TP}=4", f"model.num_query_groups={groups}") == rules


@pytest.mark.parametrize(("layout", "legal", "illegal"), [
    ((f"{TP}=4",), 1, 0), ((f"{TP}=4", f"{SP}=true"), 4, 6), ((f"{CP}=2",), 4, 6),
    ((f"{CP}=2", f"{TP}=4", f"{SP}=true"), 8, 12), ((f"{CP}=2", f"{TP}=2", f"{SP}=true"), 4, 6),
])  # fmt: skip
def test_refuses_a_sequence_that_its_ranks_cannot_share(layout: tuple[str, ...], legal: int, illegal: int) -> None:
    assert refusing(*layout, f"model.seq_length={legal}") == []
    if illegal:
        assert refusing(*layout, f"model.seq_length={illegal}") == ["PAR008"]


@pytest.mark.parametrize(("batch", "rules"), [(8, []), (16, []), (12, ["PAR009"]), (4, ["PAR009"])])
def test_refuses_a_global_batch_that_replicas_cannot_share(batch: int, rules: list[str]) -> None:
    dp4 = ("parallelism.world_size=4", "training.micro_batch_size=2")
    assert refusing(*dp4, f"training.global_batch_size={batch}") == rules


@pytest.mark.parametrize(("batch", "group", "rules"), [
    (4, "null", []), (8, "null", []), (2, "null", ["PAR010"]), (6, "null", ["PAR010"]),
    (10, "6", []), (10, "8", ["PAR010"]), (8, "3", ["PAR010"]), (9, "5", []), (4, "5", ["PAR010"]),
])  # fmt: skip
def test_refuses_microbatches_that_leave_stages_of_the_interleaved_schedule_waiting(
    batch: int, group: str, rules: list[str]
) -> None:
    layout = (f"{PP}=4", f"{VPP}=2", f"{GROUP}={group}")
    assert refusing(*layout, f"training.global_batch_size={batch}") == rules


def test_refuses_a_microbatch_group_below_pp_before_the_batch_is_known() -> None:
    assert refusing(f"{PP}=4", f"{VPP}=2", f"{GROUP}=3") == ["PAR010"]
    assert refusing(f"{PP}=4", f"{VPP}=2", f"{GROUP}=4") == []


def test_allows_any_microbatches_in_the_plain_schedule() -> None:
    assert refusing(f"{PP}=4", "training.global_batch_size=3") == []


def test_refuses_expert_parallelism_without_experts_to_deal_out() -> None:
    assert refusing(f"{EP}=2") == ["PAR011"]
    assert refusing(f"{EP}=2", "model.num_moe_experts=3") == ["PAR011"]
    assert refusing(f"{EP}=2", "model.num_moe_experts=4") == []


def test_refuses_experts_with_tensor_parallelism_without_sequence_parallelism() -> None:
    assert refusing("model.num_moe_experts=4", f"{TP}=2") == ["PAR012"]
    assert refusing("model.num_moe_experts=4", f"{TP}=2", f"{SP}=true") == []
    assert refusing("model.num_moe_experts=4") == []


def test_refuses_an_mlp_width_that_tensor_parallel_ranks_cannot_share() -> None:
    assert refusing(f"{TP}=4", "model.ffn_hidden_size=1022") == ["PAR013"]
    assert refusing(f"{TP}=2", "model.ffn_hidden_size=1022") == []


def test_refuses_two_16_bit_formats() -> None:
    assert refusing("precision.bf16=true", "precision.fp16=true") == ["PAR014"]
    assert refusing("precision.fp16=true") == []


def test_refuses_gathering_fp8_parameters_that_do_not_exist_or_are_not_sharded() -> None:
    sharded = ("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
    gather = "precision.fp8_param_gather=true"
    assert refusing(gather, "precision.fp8=hybrid") == ["PAR015"]
    assert refusing(gather, *sharded) == ["PAR015"]
    assert refusing(gather, "precision.fp8=hybrid", *sharded) == []


def test_refuses_half_a_recomputation() -> None:
    full, method, layers = (f"model.recompute_{part}" for part in ("granularity=full", "method=block", "num_layers=1"))
    assert refusing(full, method) == refusing(full, layers) == ["PAR016"]
    assert refusing(full, method, layers) == []
    assert refusing("model.recompute_granularity=selective", layers) == ["PAR016"]
    assert refusing("model.recompute_granularity=selective") == []


def test_neighbours_are_the_nearest_positive_multiples() -> None:
    assert neighbours(6, 4) == (4, 8)
    assert neighbours(7, 4) == (8, 4)
    assert neighbours(3, 4) == (4,)


def test_a_divisor_is_found_or_one_is_said_without_a_long_search() -> None:
    assert divisor_below(80, 6) == 5
    assert divisor_below(7, 6) == 1
    assert divisor_below(10**30 + 1, 10**12) == 1


STAGES = "parallelism.pipeline_model_parallel_size"
FIRST, LAST = "model.num_layers_in_first_pipeline_stage", "model.num_layers_in_last_pipeline_stage"
EMBEDDING, LOSS = "model.account_for_embedding_in_pipeline_split=true", "model.account_for_loss_in_pipeline_split=true"


@pytest.mark.parametrize(
    ("layers", "stages", "overrides", "legal"),
    [
        (6, 4, (EMBEDDING, LOSS), True), (8, 4, (EMBEDDING, LOSS), False), (7, 4, (LOSS,), True),
        (8, 4, (f"{FIRST}=2",), True), (9, 4, (f"{FIRST}=2",), False), (8, 4, (f"{FIRST}=3", f"{LAST}=1"), True),
        (8, 2, (f"{FIRST}=3",), True), (8, 2, (f"{FIRST}=3", f"{LAST}=5"), True),
        (8, 2, (f"{FIRST}=3", f"{LAST}=4"), False), (8, 1, (f"{FIRST}=8",), True), (8, 1, (f"{FIRST}=2",), False),
        (8, 4, (f"{FIRST}=2", EMBEDDING), False), (8, 2, (f"{FIRST}=9",), False),
        (8, 2, (f"{FIRST}=2", "parallelism.virtual_pipeline_model_parallel_size=2"), True),
        (8, 2, (f"{FIRST}=3", "parallelism.virtual_pipeline_model_parallel_size=2"), False),
    ],
)  # fmt: skip
def test_uneven_stages_must_fill_their_chunks(
    layers: int, stages: int, overrides: tuple[str, ...], legal: bool
) -> None:
    found = refusing(f"model.num_layers={layers}", f"{STAGES}={stages}", *overrides)
    assert found == ([] if legal else ["PAR017"])


def test_names_the_legal_numbers_of_layers_for_uneven_stages() -> None:
    finding = errors_of(request_of("model.num_layers=9", f"{STAGES}=4", f"{FIRST}=2"))[0]
    assert {fix.override for fix in finding.fixes} >= {"model.num_layers=8", "model.num_layers=11"}


def test_uneven_stages_of_a_model_that_is_not_described_are_left_alone() -> None:
    assert refusing(f"{STAGES}=4", f"{FIRST}=2") == []
    assert refusing(f"{STAGES}=4", f"{FIRST}=2", EMBEDDING) == ["PAR017"]


@pytest.mark.parametrize(("dispatcher", "rules"), [("allgather", ["PAR018"]), ("alltoall", []), ("flex", [])])
def test_refuses_microbatches_of_different_lengths_with_the_allgather_dispatcher(
    dispatcher: str, rules: list[str]
) -> None:
    dispatched = f"model.moe_token_dispatcher_type={dispatcher}"
    experts = ("model.num_moe_experts=4", f"{EP}=2")
    assert refusing("model.variable_seq_lengths=true", *experts, dispatched) == rules
    assert refusing("model.variable_seq_lengths=true", dispatched) == []
    assert refusing(*experts, dispatched) == []


def test_refuses_query_heads_that_key_heads_do_not_share_evenly() -> None:
    assert refusing("model.num_attention_heads=6", "model.num_query_groups=4") == ["PAR019"]
    assert refusing("model.num_attention_heads=6", "model.num_query_groups=3") == []
    latent = "model.multi_latent_attention=true"
    assert refusing("model.num_attention_heads=6", "model.num_query_groups=4", latent) == ["PAR032"]
    assert refusing("model.num_attention_heads=6", "model.num_query_groups=6", latent) == []


def test_refuses_heads_of_an_odd_width_for_rotary_embedding_alone() -> None:
    odd = ("model.hidden_size=120", "model.num_attention_heads=8")
    assert refusing(*odd) == ["PAR020"]
    assert refusing(*odd, "model.kv_channels=16") == []
    assert refusing(*odd, "model.position_embedding_type=learned_absolute") == []


def test_the_interleaved_schedule_is_offered_with_chunks_that_divide_the_layers() -> None:
    asked = request_of("comm_overlap.pp.overlap_p2p_comm=true", "model.num_layers=6")
    (finding,) = errors_of(asked)
    assert finding.fixes[0].override.split()[1] == "parallelism.virtual_pipeline_model_parallel_size=3"
