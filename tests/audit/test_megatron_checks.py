"""What Megatron-LM sets and asserts itself, and the environment of an audited launch."""

import pytest

from hydra_overlap.audit import Audit, audit
from tests.audit.test_audit import MODEL, TP4

H100 = ["platform=h100"]
DP = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
ONE = "export CUDA_DEVICE_MAX_CONNECTIONS=1\n"
FSDP2 = "--use-torch-fsdp2 --untie-embeddings-and-output-weights --no-gradient-accumulation-fusion"
FSDP = f"--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params {DP} --ckpt-format fsdp_dtensor --no-check-for-nan-in-loss-and-grad"
STEP = f"{DP} --pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2 --overlap-param-gather-with-optimizer-step"
EP = "--num-experts 8 --moe-router-topk 2 --expert-model-parallel-size 4 --moe-token-dispatcher-type alltoall --overlap-moe-expert-parallel-comm"


def judged(flags: str, before: str = "", *overrides: str, program: str = "pretrain_gpt.py") -> Audit:
    found = audit(f"{before}torchrun --nproc_per_node 8 {program} {MODEL} {flags}", [*H100, *overrides])
    assert isinstance(found, Audit)
    return found


def errors(found: Audit) -> list[str]:
    return [finding.rule for finding in found.errors]


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2 --no-overlap-p2p-communication", ["PP003"]),
        ("--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2 --no-overlap-p2p-communication", []),
        ("--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2", []),
        ("--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 1", []),
        ("--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 2", []),
        (STEP, ["DP028"]),
        (f"{STEP} --ckpt-format torch", []),
        (FSDP2, []),
        (f"{FSDP2} --overlap-grad-reduce", []),
        (f"{FSDP2} --use-distributed-optimizer", ["MEGATRON"]),
        (f"{FSDP2} --pipeline-model-parallel-size 2 --ckpt-format torch", ["MEGATRON", "MEGATRON"]),
        ("--use-torch-fsdp2", ["MEGATRON", "MEGATRON"]),
        (FSDP, []),
        (FSDP.replace("fsdp_dtensor", "torch_dist"), ["MEGATRON"]),
        ("--sequence-parallel True", ["MEGATRON"]),
        ("--lr 1 2", ["MEGATRON"]),
        ("--lr 1 $MORE", []),
        (f"{EP} --untie-embeddings-and-output-weights", []),
        ("--recompute-method chunk", ["MEGATRON"]),
        ("--lr fast", ["MEGATRON"]),
        ("--num-query-groups", ["MEGATRON"]),
        ("--position-embedding-type none", []),
    ],
)  # fmt: skip
def test_arguments_are_judged_as_megatron_lm_completes_and_asserts_them(flags: str, refused: list[str]) -> None:
    assert errors(judged(flags)) == refused


@pytest.mark.parametrize("flags", ["--recompute-method chunk", "--num-experts 8 16 32", "--num-query-groups"])
def test_what_another_program_may_read_otherwise_stays_open(flags: str) -> None:
    """A fork has flags of its own, and may have other values: Megatron-DeepSpeed takes several --num-experts."""
    found = judged(f"{flags} --enable-zero-bubble")
    assert found.verdict == "undecided" and errors(found) == []


def test_a_value_that_only_another_release_takes_stays_open() -> None:
    found = judged("--position-embedding-type yarn")
    assert found.verdict == "undecided" and errors(found) == []
    assert judged("--position-embedding-type yarn", "", "software.megatron_core=0.19.0").verdict == "accepted"


def test_expert_overlap_needs_a_program_that_can_take_its_forward_apart() -> None:
    flags = f"{EP} --untie-embeddings-and-output-weights"
    assert errors(judged(flags, program="pretrain_mamba.py")) == ["MEGATRON"]
    assert errors(judged(flags, program="/repo/pretrain_gpt.py")) == []


def test_deterministic_mode_excludes_tp_overlap_from_0_19_on() -> None:
    flags = f"{TP4} --deterministic-mode"
    assert errors(judged(flags, ONE, "software.megatron_core=0.18.2")) == []
    assert errors(judged(flags, ONE, "software.megatron_core=0.19.0")) == ["MEGATRON"]
    assert errors(judged("--deterministic-mode", ONE, "software.megatron_core=0.19.0")) == []


EIGHT = ONE.replace("=1", "=8")


@pytest.mark.parametrize(
    ("before", "flags", "platform", "severity"),
    [
        ("", TP4, "h100", "warning"),
        (ONE, TP4, "h100", None),
        (EIGHT, TP4, "h100", "error"),
        ("", "--context-parallel-size 2", "h100", "warning"),
        ("", DP, "h100", None),
        ("", TP4, "b200", None),
        (ONE, FSDP, "h100", "error"),
        (EIGHT, FSDP, "h100", None),
        ("", FSDP, "h100", None),
        (EIGHT.replace("8", "16"), FSDP, "h100", None),
        (ONE, FSDP2, "h100", "error"),
        (EIGHT, f"{FSDP2} --tensor-model-parallel-size 2 --sequence-parallel", "h100", None),
        (ONE, TP4, "a100", "warning"),  # UB_SKIPMC
        (f"{ONE}export UB_SKIPMC=1\n", TP4, "a100", None),
        (f"{ONE}export UB_SKIPMC=0\n", TP4, "a100", "error"),
        (f"{ONE}export CUDA_LAUNCH_BLOCKING=1\n", TP4, "h100", "error"),
        (f"{ONE}export CUDA_LAUNCH_BLOCKING=0\n", TP4, "h100", None),
        (f"{ONE}export NCCL_P2P_DISABLE=1\n", TP4, "h100", "note"),
        ("docker run -e CUDA_DEVICE_MAX_CONNECTIONS=8 img ", TP4, "h100", "error"),
        ("env CUDA_DEVICE_MAX_CONNECTIONS=1 ", TP4, "h100", None),
        ("CUDA_DEVICE_MAX_CONNECTIONS=1 ", TP4, "h100", None),
        ("CUDA_DEVICE_MAX_CONNECTIONS=1\n", TP4, "h100", "warning"),  # not exported
        ("CUDA_DEVICE_MAX_CONNECTIONS=1\nexport CUDA_DEVICE_MAX_CONNECTIONS\n", TP4, "h100", None),
        ("CUDA_LAUNCH_BLOCKING=1\nexport CUDA_DEVICE_MAX_CONNECTIONS=1\n", TP4, "h100", None),
    ],
)  # fmt: skip
def test_the_environment_is_held_against_what_programs_assert(
    before: str, flags: str, platform: str, severity: str | None
) -> None:
    found = judged(flags, before, f"platform={platform}")
    assert [one.severity for one in found.findings if one.rule == "ENV002"] == ([severity] if severity else [])


def test_flags_alone_say_nothing_of_an_environment() -> None:
    found = audit(f"{MODEL} {TP4}".replace(" --", "\n--"), [*H100, "parallelism.world_size=8"])
    assert "ENV002" not in [finding.rule for finding in found.findings]
