"""Every line of the table of variables that hurt a plan: where it applies, and its nearest neighbours where it does not."""

import re

import pytest

from hydra_overlap import LaunchError, resolve
from hydra_overlap.launch import preflight
from hydra_overlap.rules.env_conflicts import NAMES, TABLE, contrary
from tests.overrides import request_of
from tests.plans import plan_of

TP = ("parallelism=tp4", "precision=bf16", "comm_overlap.tp.tp_comm_overlap=true", "software=reference")
H100, B200, A100 = ((f"platform={name}",) for name in ("h100", "b200", "a100"))
DP = ("parallelism=dp2", "ddp=distributed_optimizer", "optimizer=adam", "platform=h100", "software=reference")
DENSE = ("platform=h100", "software=reference")
EP = (
    "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "precision=bf16", "software=reference",
    "model.moe_token_dispatcher_type=alltoall", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true", "platform=h100",
)  # fmt: skip
UB = (*DP, "ddp.nccl_ub=true")
LOCAL = (*UB, "ddp.disable_symmetric_registration=true")
OLD = "software.torch=2.10.0"
NEW = ("software.torch=2.11.0", "software.megatron_core=0.18.0")
FP8 = ("precision.fp8=e4m3", "precision.bf16=true")
TE215, TE214 = "software.transformer_engine=2.15.0", "software.transformer_engine=2.14.1"
BLOCKS = (*DENSE, *FP8, "precision.fp8_recipe=blockwise")

# variable, value that hurts, a plan that it hurts, values that do not, plans that it does not hurt
CASES = [
    ("CUDA_LAUNCH_BLOCKING", "1", (*TP, *H100), ("0", ""), (DENSE, (*DP, "platform=cpu"))),
    ("TORCH_NCCL_BLOCKING_WAIT", "1", EP, ("0", "false"), (DP, (*TP, *H100))),
    ("NCCL_BLOCKING_WAIT", "True", EP, ("0", "False"), (DP,)),
    ("NVTE_BACKWARD_OVERRIDE", "high_precision", (*TP, *H100, *FP8, "precision.fp8_recipe=tensorwise", TE215), (),
     ((*TP, *H100, TE215), (*TP, *H100, *FP8, "precision.fp8_recipe=tensorwise", TE214), (*DENSE, *FP8, "precision.fp8_recipe=tensorwise", TE215))),
    ("NVTE_BACKWARD_OVERRIDE", "dequantized", (*DENSE, *FP8, TE215), (), ((*DENSE, *FP8, TE214),)),
    ("NVTE_FP8_BLOCK_SCALING_FP32_SCALES", "1", (*BLOCKS, *B200), ("0",), (BLOCKS, (*DENSE, *FP8, "precision.fp8_recipe=mxfp8", *B200))),
    ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", UB, ("expandable_segments:False", "max_split_size_mb:512"), (DP, (*UB, *NEW))),
    ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512, expandable_segments : True", (*UB, *NEW, OLD), (), ((*UB, *NEW),)),
    ("PYTORCH_ALLOC_CONF", "expandable_segments:True", (*UB, OLD), ("expandable_segments:False",), (DP, UB, (*UB, "software.torch=2.8.0"))),
    ("NCCL_CUMEM_ENABLE", "0", UB, ("1", "-2"), (DP,)),
    ("NCCL_WIN_ENABLE", "0", UB, ("1",), (DP, LOCAL)),
    ("NCCL_LOCAL_REGISTER", "0", LOCAL, ("1",), (DP, UB)),
    ("UB_SKIPMC", "1", (*TP, *H100), ("0",), ((*TP, *A100), DP)),
    ("NCCL_P2P_DISABLE", "1", DP, ("0",), (DENSE,)),
    ("NCCL_P2P_LEVEL", "LOC", DP, ("NVL", "1", "SYS"), (DENSE,)),
    ("TORCH_DISTRIBUTED_DEBUG", "detail", DP, ("INFO", "OFF"), (DENSE,)),
]  # fmt: skip
NOTES = ("UB_SKIPMC", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "TORCH_DISTRIBUTED_DEBUG")


def hurt(plan: tuple[str, ...], name: str, value: str) -> list[tuple[str, str]]:
    """(variable, severity) of what `name=value` does to the plan of some overrides."""
    resolution = resolve(request_of(*plan))
    found = contrary(resolution.request, resolution.to_dict(), {name: value, "HOME": "/root"})
    return [(one.name, one.severity) for one in found]


@pytest.mark.parametrize(("name", "value", "plan", "values", "plans"), CASES, ids=[case[0] for case in CASES])
def test_a_variable_hurts_the_plans_that_it_concerns_and_no_other(
    name: str, value: str, plan: tuple[str, ...], values: tuple[str, ...], plans: tuple[tuple[str, ...], ...]
) -> None:
    assert hurt(plan, name, value) == [(name, "note" if name in NOTES else "error")]
    for harmless in values:
        assert hurt(plan, name, harmless) == []
    for other in plans:
        assert hurt(other, name, value) == [], other


def test_every_line_of_the_table_has_a_case_and_a_source() -> None:
    assert {case[0] for case in CASES} == set(NAMES)
    assert len(NAMES) == len(set(NAMES))
    for row in TABLE:
        assert re.compile(row.values) and row.source and row.severity in ("error", "note")


@pytest.fixture
def h100s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight of them."""
    monkeypatch.setattr(preflight, "gpu_names", lambda: ("NVIDIA H100 80GB HBM3",) * 8)
    monkeypatch.setattr(preflight, "local_platform", lambda: {"name": "h100"})


BLOCKING = {"CUDA_LAUNCH_BLOCKING": "1", "UB_SKIPMC": "1"}


@pytest.mark.usefixtures("h100s")
def test_ranks_are_not_started_on_gpus_in_an_environment_that_undoes_the_plan() -> None:
    plan = plan_of("comm_overlap=tp4_h100")
    with pytest.raises(LaunchError, match="The environment undoes what the plan asks for") as refusal:
        preflight.require_environment(plan, BLOCKING)
    assert "env -u CUDA_LAUNCH_BLOCKING hydra-overlap train" in str(refusal.value)
    assert "UB_SKIPMC" not in str(refusal.value)  # a note: the overlap holds
    preflight.require_environment(plan, {"UB_SKIPMC": "1"})


@pytest.mark.usefixtures("h100s")
def test_what_a_machine_must_have_includes_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "require_software", lambda plan: None)
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with pytest.raises(LaunchError, match="environment undoes"):
        preflight.require_ready(plan_of("comm_overlap=tp4_h100"), 4)


def test_a_rehearsal_starts_in_any_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "gpu_names", lambda: ())
    preflight.require_environment(plan_of("comm_overlap=tp4_h100"), BLOCKING)
