"""ENV: the environment every rank starts with; the table of recorded answers is in tests/resolver/test_launch_env.py."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, remarks, request_of

CHUNK = "launch.nccl_pp_comm_chunksize"
TE = "software.transformer_engine=2.11.0"
FLEX = "model.moe_token_dispatcher_type=flex"
FSDP = (
    "ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params",
    "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
)  # fmt: skip
PP2 = "parallelism.pipeline_model_parallel_size=2"


def environment(*overrides: str) -> dict[str, str]:
    return resolve(request_of(TE, *overrides)).env


def test_a_plan_for_no_gpu_sets_nothing() -> None:
    assert environment("platform=cpu", "launch.layernorm_sm_margin=16") == {}


@pytest.mark.parametrize(("sm", "layout", "value"), [
    (90, (), "8"), (90, ("parallelism.context_parallel_size=2",), "1"), (90, (PP2,), "8"),
    (99, ("parallelism.tensor_model_parallel_size=2",), "1"), (100, ("parallelism.tensor_model_parallel_size=2",), "8"),
    (100, ("parallelism.tensor_model_parallel_size=2", "parallelism.world_size=4"), "32"),
    (103, ("parallelism.tensor_model_parallel_size=2", PP2), "32"), (100, (PP2, "parallelism.world_size=4"), "8"),
    (100, (FLEX, "model.moe_flex_dispatcher_backend=deepep"), "32"), (90, (FLEX, "model.moe_flex_dispatcher_backend=hybridep"), "32"),
    (90, (FLEX, "model.moe_flex_dispatcher_backend=deepep", "parallelism.tensor_model_parallel_size=2"), "1"),
    (90, (*FSDP, "parallelism.context_parallel_size=2"), "8"),
])  # fmt: skip
def test_device_connections_follow_architecture_and_layout(sm: int, layout: tuple[str, ...], value: str) -> None:
    assert environment(f"platform.sm={sm}", *layout) == {"CUDA_DEVICE_MAX_CONNECTIONS": value}


def test_expert_overlap_before_blackwell_takes_the_single_queue_back() -> None:
    experts = (
        "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "precision.bf16=true",
        "model.moe_token_dispatcher_type=alltoall", "software.torch=2.11.0", "parallelism.context_parallel_size=2",
    )  # fmt: skip
    a2a = "comm_overlap.ep.overlap_moe_expert_parallel_comm=true"
    assert environment(*experts)["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert environment(*experts, a2a)["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"


def test_margins_are_set_where_they_are_said_zero_included() -> None:
    names = ("NVTE_FWD_LAYERNORM_SM_MARGIN", "NVTE_BWD_LAYERNORM_SM_MARGIN")
    assert not set(names) & set(environment())
    assert {environment("launch.layernorm_sm_margin=0")[name] for name in names} == {"0"}


@pytest.mark.parametrize(("size", "rules"), [(0, ["ENV001"]), (1, ["ENV001"]), (2, []), (-4, ["ENV001"])])
def test_refuses_a_chunk_of_no_size(size: int, rules: list[str]) -> None:
    assert refusing(f"{CHUNK}={size}", PP2) == rules


def test_a_chunk_size_is_set_only_in_a_pipeline_and_a_note_says_so() -> None:
    assert environment(f"{CHUNK}=2097152", PP2)["NCCL_P2P_NET_CHUNKSIZE"] == "2097152"
    assert "NCCL_P2P_NET_CHUNKSIZE" not in environment(f"{CHUNK}=2097152")
    assert remarks(f"{CHUNK}=2097152") == ["ENV201"]
    assert remarks(f"{CHUNK}=2097152", PP2) == []


def test_every_variable_stands_in_the_ledger_with_rule_and_source() -> None:
    resolution = resolve(request_of(f"{CHUNK}=2097152", PP2, "launch.layernorm_sm_margin=16"))
    rows = {row.field.removeprefix("env."): row for row in resolution.ledger if row.field.startswith("env.")}
    assert {name: row.effective for name, row in rows.items()} == resolution.env
    assert all(row.rule.startswith("ENV1") and row.reason and row.source for row in rows.values())


MOE = (
    "model.num_moe_experts=8", "parallelism.expert_model_parallel_size=2", "precision.bf16=true",
    "model.moe_token_dispatcher_type=alltoall", "software.torch=2.11.0", TE,
)  # fmt: skip
A2A = "comm_overlap.ep.overlap_moe_expert_parallel_comm=true"
TP2 = ("parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true")
TP_OVERLAP = "comm_overlap.tp.tp_comm_overlap=true"


@pytest.mark.parametrize(("sm", "rules"), [(80, ["ENV003"]), (89, ["ENV003"]), (90, []), (100, [])])
def test_tp_and_expert_overlap_need_an_order_that_only_hopper_and_later_have(sm: int, rules: list[str]) -> None:
    assert refusing(*MOE, A2A, *TP2, TP_OVERLAP, f"platform.sm={sm}") == rules


def test_allows_each_of_the_two_overlaps_before_hopper() -> None:
    assert refusing(*MOE, *TP2, TP_OVERLAP, "platform.sm=80") == []
    assert refusing(*MOE, *TP2, A2A, "platform.sm=80") == []


@pytest.mark.parametrize(("sm", "asked", "warned"), [
    (90, (A2A,), True), (80, (A2A,), True), (100, (A2A,), False), (90, (), False), (90, (*FSDP, "parallelism.world_size=4"), True),
])  # fmt: skip
def test_a_warning_names_who_loses_the_single_queue(sm: int, asked: tuple[str, ...], warned: bool) -> None:
    found = remarks(*MOE, *TP2, *asked, f"platform.sm={sm}")
    assert ("ENV202" in found) is warned, found


@pytest.mark.parametrize(("asked", "words"), [
    ((*MOE, *TP2, A2A), "TP and CP collectives lose"), ((*MOE, A2A), "expert-parallel overlap needs more than one queue"),
    ((*MOE, *TP2, "parallelism.world_size=8"), "data-parallel collectives share it"),
    ((*MOE, *TP2, FLEX, "model.moe_flex_dispatcher_backend=deepep"), "the deepep dispatcher"),
])  # fmt: skip
def test_the_reason_for_the_number_of_queues_names_the_loser(asked: tuple[str, ...], words: str) -> None:
    rows = {row.field: row for row in resolve(request_of(*asked, "platform.sm=90")).ledger}
    assert words in rows["env.CUDA_DEVICE_MAX_CONNECTIONS"].reason


@pytest.mark.parametrize(("ranks", "domain", "expected"), [
    (4, 8, ("8", "0", "4")), (8, 4, ("4", "0", "4")), (8, 72, ("72", "1", "8")),
])  # fmt: skip
def test_hybridep_is_told_how_its_ranks_lie(ranks: int, domain: int, expected: tuple[str, str, str]) -> None:
    asked = (FLEX, "model.moe_flex_dispatcher_backend=hybridep", f"parallelism.expert_model_parallel_size={ranks}")
    env = environment(*MOE, *asked, f"platform.nvlink_domain_size={domain}")
    names = ("NVLINK_DOMAIN_SIZE", "USE_MNNVL", "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN")
    assert tuple(env[name] for name in names) == expected


@pytest.mark.parametrize(("ranks", "domain", "rules"), [(144, 72, ["ENV004"]), (72, 72, []), (144, 8, [])])
def test_hybridep_stays_within_a_domain_of_several_nodes(ranks: int, domain: int, rules: list[str]) -> None:
    asked = (FLEX, "model.moe_flex_dispatcher_backend=hybridep", f"parallelism.expert_model_parallel_size={ranks}")
    assert refusing(*MOE, *asked, "model.num_moe_experts=144", f"platform.nvlink_domain_size={domain}") == rules


def test_nccl_user_buffers_bring_their_variables() -> None:
    asked = ("ddp.nccl_ub=true", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
    env = environment(*asked, "parallelism.world_size=2", "platform=h100")
    assert env["NCCL_NVLS_ENABLE"] == env["NCCL_CTA_POLICY"] == "1"
    assert "NCCL_CTA_POLICY" not in environment("platform=h100")


@pytest.mark.parametrize(("platform", "value"), [("a100", "1"), ("h100", None)])
def test_userbuffers_do_without_multicast_before_hopper(platform: str, value: str | None) -> None:
    asked = ("comm_overlap.tp.tp_comm_overlap=true", "parallelism=tp4", f"platform={platform}", "precision=bf16")
    resolution = resolve(request_of(*asked, "software.transformer_engine=2.11.0"))
    assert resolution.env.get("UB_SKIPMC") == value
