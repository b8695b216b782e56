"""What Megatron-Bridge and NeMo change of a configuration before megatron-core sees it, and what a recipe leaves open."""

import pytest

from hydra_overlap.audit import Audit, audit

H100 = ["platform=h100"]
BRIDGE = """
model: {{tensor_model_parallel_size: {tp}, pipeline_model_parallel_size: 2, sequence_parallel: true, pipeline_dtype: bf16}}
train: {{global_batch_size: 64, micro_batch_size: 1}}
ddp: {{overlap_grad_reduce: true}}
"""
NEMO = """
trainer: {devices: 8, num_nodes: 4, precision: bf16}
model:
  mcore_gpt: true
  micro_batch_size: 1
  global_batch_size: 64
  tensor_model_parallel_size: 4
  pipeline_model_parallel_size: 1
  sequence_parallel: true
  encoder_seq_length: 4096
  num_layers: 16
  hidden_size: 4096
  num_attention_heads: 32
  ub_tp_comm_overlap: true
  optim: {name: mcore_distributed_optim, overlap_grad_sync: true, overlap_param_sync: true}
"""
RECIPE = "torchrun --nproc_per_node 8 run_recipe.py --recipe llama3_70b_pretrain_config"


def judged(text: str, *overrides: str) -> Audit:
    found = audit(text, [*H100, *overrides])
    assert isinstance(found, Audit)
    return found


def errors(found: Audit) -> list[str]:
    return [finding.rule for finding in found.errors]


def test_bridge_sets_sequence_parallelism_to_false_at_tp1() -> None:
    found = judged(BRIDGE.format(tp=1))
    assert found.verdict == "accepted" and found.request["parallelism"]["sequence_parallel"] is False
    assert any("Megatron-Bridge sets sequence_parallel to false" in note for note in found.notes)
    said = judged(BRIDGE.format(tp=2), "parallelism.tensor_model_parallel_size=1")
    assert said.request["parallelism"]["sequence_parallel"] is False
    assert judged(BRIDGE.format(tp=2)).request["parallelism"]["sequence_parallel"] is True


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ("", "", []),
        ("tensor_model_parallel_size: 4", "tensor_model_parallel_size: 1", ["TP001"]),
        ("ub_tp_comm_overlap: true", "ub_tp_comm_overlap: false", []),
        ("mcore_gpt: true", "fsdp: true", ["NEMO"]),
        ("mcore_gpt: true", "virtual_pipeline_model_parallel_size: 1", []),
        ("mcore_gpt: true", "virtual_pipeline_model_parallel_size: 2", ["PAR005"]),
        ("mcore_gpt: true", "activations_checkpoint_num_layers: 0", []),
        ("mcore_gpt: true", "activations_checkpoint_num_layers: 0\n  activations_checkpoint_method: uniform", None),
    ],
)
def test_nemo_is_judged_after_its_own_overrides(old: str, new: str, refused: list[str] | None) -> None:
    found = judged(NEMO.replace(old, new) if old else NEMO)
    assert found.verdict == "undecided" if refused is None else errors(found) == refused


def test_nemo_accepts_sequence_parallelism_at_tp1() -> None:
    text = NEMO.replace("size: 4\n  pipeline", "size: 1\n  pipeline").replace("ub_tp_comm_overlap: true", "")
    assert judged(text).verdict == "accepted"


def test_what_a_recipe_says_is_not_our_default() -> None:
    found = judged(f"{RECIPE} model.sequence_parallel=true comm_overlap.tp_comm_overlap=true")
    assert found.verdict == "undecided" and found.findings == ()
    assert found.undecided == ("parallelism.tensor_model_parallel_size",)
    assert any("TP001" in note and "the recipe says" in note for note in found.notes)
    text = f"{RECIPE} model.sequence_parallel=true comm_overlap.tp_comm_overlap=true"
    assert judged(text, "parallelism.tensor_model_parallel_size=4").verdict == "accepted"
    assert errors(judged(f"{text} model.tensor_model_parallel_size=1")) == ["TP001"]
