"""ENV: the environment every rank starts with; the table of recorded answers is in tests/resolver/test_launch_env.py."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, remarks, request_of

CHUNK = "launch.nccl_pp_comm_chunksize"
PP2 = "parallelism.pipeline_model_parallel_size=2"


def environment(*overrides: str) -> dict[str, str]:
    return resolve(request_of(*overrides)).env


def test_a_plan_for_no_gpu_sets_nothing() -> None:
    assert environment("platform=cpu", "launch.layernorm_sm_margin=16") == {}


@pytest.mark.parametrize(("sm", "layout", "value"), [
    (90, (), "8"), (90, ("parallelism.context_parallel_size=2",), "1"), (90, (PP2,), "8"),
    (99, ("parallelism.tensor_model_parallel_size=2",), "1"), (100, ("parallelism.tensor_model_parallel_size=2",), "8"),
    (100, ("parallelism.tensor_model_parallel_size=2", "parallelism.world_size=4"), "32"),
    (103, ("parallelism.tensor_model_parallel_size=2", PP2), "32"), (100, (PP2, "parallelism.world_size=4"), "8"),
    (100, ("model.moe_flex_dispatcher_backend=deepep",), "32"), (90, ("model.moe_flex_dispatcher_backend=hybridep",), "32"),
    (90, ("model.moe_flex_dispatcher_backend=deepep", "parallelism.tensor_model_parallel_size=2"), "1"),
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
