"""DP: edges of the other settings of DDP: collectives, NCCL user buffers, Megatron FSDP."""

import pytest

from hydra_overlap import resolve
from tests.overrides import errors_of, refusing, remarks, request_of

SHARDED = ("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
DP2, DP4 = "parallelism.world_size=2", "parallelism.world_size=4"
EP2 = ("model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2")
AVERAGE, PER_TOKEN = "ddp.average_in_collective=true", "model.calculate_per_token_loss=true"
FP32_SUM, NAN_CHECK = "ddp.reduce_scatter_with_fp32_accumulation=true", "ddp.check_for_nan_in_grad=true"
NCCL_UB, LOCAL = "ddp.nccl_ub=true", "ddp.disable_symmetric_registration=true"
FSDP = ("ddp.use_megatron_fsdp=true", *SHARDED, DP2)
STRATEGY = "ddp.data_parallel_sharding_strategy"
REDUCE, GATHER = "comm_overlap.dp.overlap_grad_reduce", "comm_overlap.dp.overlap_param_gather"
STEP, BUCKET = "comm_overlap.dp.overlap_param_gather_with_optimizer_step", "comm_overlap.dp.bucket_size"
INTERLEAVED = (
    "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2", DP4,
)  # fmt: skip


def overlaps(*overrides: str) -> tuple[bool, bool]:
    fields = resolve(request_of(*overrides)).ddp_config
    return fields["overlap_grad_reduce"], fields["overlap_param_gather"]


def test_allows_averaging_and_a_loss_per_token_apart() -> None:
    assert refusing(AVERAGE, DP2) == refusing(PER_TOKEN, DP2) == []
    assert refusing(AVERAGE, PER_TOKEN, DP2) == ["DP016"]


@pytest.mark.parametrize(
    ("ranks", "expert", "refused"), [(33, 3, True), (35, 5, True), (32, 4, False), (24, 3, False), (33, 1, False)]
)
def test_refuses_averaging_where_the_factors_of_experts_are_not_exact(ranks: int, expert: int, refused: bool) -> None:
    experts = (f"model.num_moe_experts={expert}", f"parallelism.expert_model_parallel_size={expert}")
    assert (refusing(AVERAGE, f"parallelism.world_size={ranks}", *experts) == ["DP017"]) is refused
    assert (ranks // expert / ranks) / (ranks // expert) == 1 / ranks or refused or expert == 1


@pytest.mark.parametrize("against", ["ddp.num_distributed_optimizer_instances=2", AVERAGE])
def test_refuses_fp32_accumulation_with_what_asserts(against: str) -> None:
    assert refusing(FP32_SUM, DP4, *SHARDED) == []
    assert refusing(FP32_SUM, DP4, *SHARDED, against) == ["DP018"]


def test_refuses_fp32_accumulation_that_nothing_calls() -> None:
    assert refusing(FP32_SUM, DP2) == ["DP018"]


def test_refuses_a_nan_check_under_fp16_and_notes_that_the_host_waits() -> None:
    assert refusing(NAN_CHECK, "precision.fp16=true") == ["DP019"]
    assert "DP204" in remarks(NAN_CHECK, DP2, "precision.bf16=true")
    assert "DP204" not in remarks(NAN_CHECK)


def test_refuses_user_buffers_and_fsdp_on_a_cpu_alone() -> None:
    for asked in ((NCCL_UB, DP2), FSDP):
        assert refusing(*asked, "platform.name=cpu") == ["DP020"]
        assert refusing(*asked) == refusing(*asked, "platform=h100") == []


def test_allows_averaging_in_user_buffers_that_are_registered_locally() -> None:
    assert refusing(NCCL_UB, AVERAGE, DP2) == ["DP021"]
    assert refusing(NCCL_UB, AVERAGE, LOCAL, DP2) == []


@pytest.mark.parametrize(("torch", "noted"), [("2.8.0", True), ("2.9.0", False), ("2.11.0", False)])
def test_notes_symmetric_buffers_that_an_older_torch_does_not_have(torch: str, noted: bool) -> None:
    assert ("DP203" in remarks(NCCL_UB, DP2, f"software.torch={torch}")) is noted
    assert "DP203" not in remarks(NCCL_UB, LOCAL, DP2, f"software.torch={torch}")


def test_refuses_fsdp_with_nothing_to_shard_or_nobody_to_hand_the_shards_to() -> None:
    assert refusing("ddp.use_megatron_fsdp=true", *SHARDED) == ["DP022"]
    assert refusing("ddp.use_megatron_fsdp=true", DP2) == ["DP022"]
    assert refusing(*FSDP) == []


@pytest.mark.parametrize(
    ("strategy", "derived"),
    [
        ("no_shard", (True, False)), ("optim", (True, True)), ("optim_grads", (True, True)),
        ("optim_grads_params", (True, True)),
    ],
)  # fmt: skip
def test_derives_the_overlaps_of_the_sharding_strategy(strategy: str, derived: tuple[bool, bool]) -> None:
    assert overlaps(*FSDP, f"{STRATEGY}={strategy}") == derived


def test_refuses_overlaps_that_fsdp_would_switch_or_not_have() -> None:
    assert refusing(*FSDP, f"{STRATEGY}=optim_grads", f"{REDUCE}=false") == ["DP023"]
    assert refusing(*FSDP, f"{STRATEGY}=optim_grads", f"{GATHER}=false") == []
    assert refusing(*FSDP, f"{STRATEGY}=optim_grads_params", f"{GATHER}=false") == ["DP023"]
    assert refusing(*FSDP, f"{STRATEGY}=optim", f"{REDUCE}=false") == []
    assert refusing(*FSDP, f"{GATHER}=true") == ["DP023"]


def test_refuses_a_sharding_strategy_that_does_not_exist() -> None:
    assert refusing(f"{STRATEGY}=full") == ["CFG003"]


def test_refuses_what_fsdp_never_reads() -> None:
    assert refusing(*FSDP, f"{BUCKET}=1000000") == ["DP024"]
    assert resolve(request_of(*FSDP)).ddp_config["bucket_size"] is None
    gathered = f"{STRATEGY}=optim_grads_params"
    assert refusing(*FSDP, *INTERLEAVED, gathered, f"{STEP}=true") == ["DP024"]


def test_refuses_buffer_settings_of_fsdp_without_it() -> None:
    manual, double = "ddp.fsdp_manual_registration=true", "ddp.fsdp_double_buffer=true"
    assert refusing(manual, DP2) == refusing(double, DP2) == ["DP025"]
    assert refusing(*FSDP, manual) == ["DP025"]
    assert refusing(*FSDP, double) == []
    assert refusing(*FSDP, NCCL_UB) == ["DP026"]
    assert refusing(*FSDP, NCCL_UB, double, manual) == []


def test_allows_hybrid_sharding_without_experts_and_experts_without_hybrid_sharding() -> None:
    hybrid = "ddp.num_distributed_optimizer_instances=2"
    assert refusing(*FSDP, DP4, hybrid) == refusing(*FSDP, DP4, *EP2) == []
    assert refusing(*FSDP, DP4, hybrid, *EP2) == ["DP027"]


def test_refuses_checkpoints_while_parameters_are_gathered_with_the_step() -> None:
    stepping = (*INTERLEAVED, *SHARDED, f"{STEP}=true")
    assert refusing(*stepping, "checkpoint.save=there") == refusing(*stepping, "checkpoint.load=there") == ["DP028"]
    assert refusing(*INTERLEAVED, *SHARDED, "checkpoint.save=there") == []
    assert "DP201" in remarks(*stepping)


@pytest.mark.parametrize(
    ("others", "rules"),
    [
        ((), ["DP029"]),
        ((DP4,), []),
        ((DP4, "platform.name=cpu"), ["DP029"]),
        (("ddp.num_distributed_optimizer_instances=2",), []),
        (("parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true"), []),
        (("parallelism.expert_model_parallel_size=4",), []),
        (("parallelism.expert_model_parallel_size=1",), []),
        ((f"{STEP}=false",), []),
    ],
)
def test_refuses_to_gather_experts_of_other_ranks_with_the_step(others: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*INTERLEAVED, *SHARDED, *EP2, f"{STEP}=true", "parallelism.world_size=8", *others) == rules


def test_proposes_as_many_expert_ranks_as_leave_each_expert_on_one() -> None:
    asked = (*INTERLEAVED, *SHARDED, *EP2, f"{STEP}=true", "parallelism.world_size=16")
    (narrow,), (wide,) = (errors_of(request_of(*asked, f"model.num_moe_experts={count}")) for count in (4, 8))
    assert [fix.override for fix in narrow.fixes] == [f"{STEP}=false"]
    assert wide.fixes[1].override == "parallelism.expert_model_parallel_size=8"
    assert refusing(*asked, "model.num_moe_experts=8", wide.fixes[1].override) == []


def test_warns_of_a_baseline_that_gathers_twice() -> None:
    assert "DP202" in remarks(*EP2, *SHARDED, DP2, f"{GATHER}=false")
    assert "DP202" not in remarks(*EP2, *SHARDED, DP2)
    assert "DP202" not in remarks(*SHARDED, DP2, f"{GATHER}=false")
