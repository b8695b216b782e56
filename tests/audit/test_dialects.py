"""Formats that say Megatron's settings in other words are read as what they are, and other programs' files not at all."""

import pytest

from hydra_overlap.audit import Audit, UnreadableError, audit

H100 = ["platform=h100"]


def judged(text: str, overrides: list[str] = H100) -> Audit:
    found = audit(text, overrides)
    assert isinstance(found, Audit), str(found)
    return found


def test_ms_swift_takes_underscores_and_a_value_after_each_switch() -> None:
    """modelscope/ms-swift issue 6476."""
    text = (
        "NPROC_PER_NODE=8 NNODES=2 megatron sft --model m --pipeline_model_parallel_size 4 --tensor_model_parallel_size 1 "
        "--expert_model_parallel_size 4 --moe_grouped_gemm true --moe_shared_expert_overlap true --tp_comm_overlap false "
        "--overlap_grad_reduce true --micro_batch_size 1 --global_batch_size 64"
    )
    found = judged(text)
    assert found.kind == "ms-swift command line" and found.request["parallelism"]["world_size"] == 16
    assert found.request["comm_overlap"]["tp"]["tp_comm_overlap"] is False
    assert found.request["comm_overlap"]["dp"]["overlap_grad_reduce"] is True
    refused = judged(
        "NPROC_PER_NODE=8 megatron sft --tensor_model_parallel_size 2 --sequence_parallel false --tp_comm_overlap true"
    )
    (error,) = refused.errors
    assert error.rule == "TP002" and {"--sequence_parallel true", "--tp_comm_overlap false"} <= {
        fix.override for fix in error.fixes
    }


def test_what_ms_swift_takes_from_the_model_is_not_taken_for_absent() -> None:
    found = judged("NPROC_PER_NODE=8 megatron sft --tensor_model_parallel_size 2 --tp_comm_overlap true")
    assert found.verdict == "undecided" and found.undecided == ("parallelism.sequence_parallel",)


def test_verl_overrides_are_read_in_the_words_of_the_role() -> None:
    """Pull 3522 of verl, issue 5663."""
    actor = "actor_rollout_ref.actor.megatron"
    text = (
        f"python3 -m verl.trainer.main_ppo {actor}.tensor_model_parallel_size=4 {actor}.expert_model_parallel_size=8 "
        f"{actor}.sequence_parallel=True +{actor}.override_transformer_config.overlap_moe_expert_parallel_comm=True "
        f"+{actor}.override_transformer_config.moe_shared_expert_overlap=True"
    )
    found = judged(text)
    assert found.kind == "verl configuration"
    assert "EP008" in {finding.rule for finding in found.errors}
    fixes = {fix.override for finding in found.errors for fix in finding.fixes}
    assert f"+{actor}.override_transformer_config.moe_shared_expert_overlap=false" in fixes


SNIPPET = """\
from megatron.bridge.training.comm_overlap import CommOverlapConfig

def configure(cfg):
    cfg.model.tensor_model_parallel_size = 4
    cfg.model.sequence_parallel = False
    cfg.model.pipeline_model_parallel_size = 4
    cfg.model.num_layers = layers()
    cfg.comm_overlap = CommOverlapConfig(
        tp_comm_overlap=True,
    )
    cfg.ddp.use_distributed_optimizer = True
    cfg.ddp.overlap_grad_reduce = True
"""


def test_a_python_snippet_of_megatron_bridge_is_parsed_and_never_run() -> None:
    """Megatron-Bridge's page on communication overlap."""
    found = judged(SNIPPET + "open('/tmp/never', 'w').write('x')\n", [*H100, "model.num_layers=16"])
    assert found.kind.startswith("Python") and [finding.rule for finding in found.errors] == ["TP002"]
    assert "cfg.model.sequence_parallel = True" in {fix.override for fix in found.errors[0].fixes}
    assert "model.num_layers" in judged(SNIPPET).undecided  # a call


def test_megatron_yaml_of_functional_tests_of_flagscale_and_of_primus_is_read() -> None:
    words = {
        "tensor_model_parallel_size": 2,
        "tp_comm_overlap": "true",
        "sequence_parallel": "false",
        "micro_batch_size": 1,
    }
    dashed = "\n".join(f"  --{name.replace('_', '-')}: {value}" for name, value in words.items())
    functional = judged(f"ENV_VARS:\n  CUDA_DEVICE_MAX_CONNECTIONS: 1\nMODEL_ARGS:\n{dashed}\n")
    lines = "\n".join(f"  {name}: {value}" for name, value in words.items())
    flagscale = judged(f"system:\n{lines}\nmodel:\n  num_layers: 12\n  hidden_size: 512\n  num_attention_heads: 8\n")
    deeper = "\n".join(f"      {name}: {value}" for name, value in words.items())
    primus = judged(f"modules:\n  pre_trainer:\n    framework: megatron\n    model: x.yaml\n    overrides:\n{deeper}\n")
    for found, kind in ((functional, "Megatron-LM functional test"), (flagscale, "FlagScale"), (primus, "Primus")):
        assert found.kind.startswith(kind)
        assert (
            "TP002" in {finding.rule for finding in found.errors}
        ) or "parallelism.sequence_parallel" in found.undecided, kind


def test_several_words_in_one_value_are_several_words_of_a_flag_that_takes_them() -> None:
    model = {
        "num-layers": 8,
        "hidden-size": 512,
        "num-attention-heads": 8,
        "micro-batch-size": 1,
        "recompute-granularity": "selective",
    }
    flags = "\n".join(
        f"  --{name}: {value}" for name, value in (model | {"recompute-modules": '"core_attn mlp"'}).items()
    )
    found = judged(f"MODEL_ARGS:\n{flags}\n")
    assert found.request["model"]["recompute_modules"] == ["core_attn", "mlp"] and found.errors == ()


@pytest.mark.parametrize(
    "text",
    [
        "model:\n  hidden_size: 64\n  strategy: fsdp\noptim:\n  lr: 1.0\n",
        "model: {name: llama}\ntrainer: 3\n",
        "train.py model.strategy=fsdp optim.lr=1e-5",
        "python train.py --learning_rate 1 --seed_everything 2",
        "import x\nx.y = 3\n",
    ],
)
def test_a_file_of_another_program_gets_no_verdict(text: str) -> None:
    with pytest.raises(UnreadableError, match="not a configuration that audit can read"):
        audit(text)
