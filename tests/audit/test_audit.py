"""Other people's configurations, judged: command lines, scripts, YAML; nothing executed, nothing dropped in silence."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap import GatingError
from hydra_overlap.audit import UnreadableError, audit
from hydra_overlap.cli import main

MODEL = "--num-layers 8 --hidden-size 1024 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 1 --global-batch-size 64 --bf16"
TP4 = "--tensor-model-parallel-size 4 --sequence-parallel --tp-comm-overlap"

SCRIPT = """\
#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
export CUDA_DEVICE_MAX_CONNECTIONS=1
TP=${TP:-4}   # default of the script
WORLD_SIZE=$(($NODES*8))
MODEL_ARGS=(
    --num-layers 8 --hidden-size 1024 --num-attention-heads 16
    --seq-length 2048 --max-position-embeddings 2048  # a comment with a 'quote
)
OVERLAP="--tp-comm-overlap --sequence-parallel"
OVERLAP+=" --overlap-grad-reduce"
srun python -u pretrain_gpt.py \\
    ${MODEL_ARGS[@]} --tensor-model-parallel-size $TP ${OVERLAP} \\
    --use-distributed-optimizer --micro-batch-size 1 --global-batch-size 64 --bf16 \\
    --data-path $DATA --save "$(date)" 2>&1 | tee log.txt
"""


def ids(found) -> list[str]:
    return [finding.rule for finding in found.errors]


def test_a_command_line_that_would_run_is_accepted() -> None:
    found = audit(f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} {TP4}", ["platform=h100"])
    assert ids(found) == [], str(found)
    assert found.request["parallelism"]["world_size"] == 8
    assert found.resolution is not None and found.resolution.transformer_config["tp_comm_overlap"] is True


def test_a_command_line_is_refused_with_places_and_fixes_in_its_own_words() -> None:
    text = f"pretrain_gpt.py {MODEL} {TP4}".replace(" --sequence-parallel", "")
    found = audit(text, ["parallelism.world_size=8"])
    assert ids(found) == ["TP002"] and found.exit_code == 1
    (finding,) = found.errors
    assert ("parallelism.sequence_parallel", "false", "no --sequence-parallel") in [
        (place.key, place.value, place.origin) for place in finding.where
    ]
    assert {"--sequence-parallel", "without --tp-comm-overlap"} <= {fix.override for fix in finding.fixes}


def test_a_script_is_read_with_its_arrays_variables_and_directives() -> None:
    found = audit(SCRIPT, ["platform=h100"])
    request = found.request
    assert request["parallelism"]["tensor_model_parallel_size"] == 4
    assert request["parallelism"]["world_size"] == 16
    assert request["model"]["hidden_size"] == 1024
    assert request["comm_overlap"]["dp"]["overlap_grad_reduce"] is True
    assert request["training"]["global_batch_size"] == 64


def test_nothing_in_a_script_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    audit(
        f"X=$(touch {mark}); `touch {mark}`\npretrain_gpt.py {MODEL} --save $(touch {mark})",
        ["parallelism.world_size=1"],
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "severity"), [("8", "error"), ("1", None)]
)  # fmt: skip
def test_a_variable_that_megatron_lm_asserts_is_judged(value: str, severity: str | None) -> None:
    found = audit(SCRIPT.replace("CONNECTIONS=1", f"CONNECTIONS={value}"), ["platform=h100"])
    severities = [finding.severity for finding in found.findings if finding.rule == "ENV002"]
    assert severities == ([severity] if severity else [])


@pytest.mark.parametrize(("flags", "rules", "chunks"), [
    ("--num-layers 13 --pipeline-model-parallel-layout 'Et*3|(tt|)*4t*2L'", [], 3),
    ("--num-layers 61 --pipeline-model-parallel-size 16 --pipeline-model-parallel-layout 'Et|(tt|)*30L'", [], 2),
    ("--pipeline-model-parallel-layout 'Ett|tt|tt|ttL' --num-virtual-stages-per-pipeline-rank 2", ["PAR005"], None),
    ("--num-virtual-stages-per-pipeline-rank 1", [], None),
    ("--num-virtual-stages-per-pipeline-rank 2", [], 2),
    ("--num-layers-per-virtual-pipeline-stage 2", [], 2),
    ("--num-layers-per-virtual-pipeline-stage 4", [], None),
    ("--num-layers-per-virtual-pipeline-stage 3", ["PAR005"], None),
    ("--num-layers-per-virtual-pipeline-stage 0", ["PAR005"], None),
    ("--num-layers 7 --account-for-loss-in-pipeline-split --num-layers-per-virtual-pipeline-stage 2", [], 2),
])  # fmt: skip
def test_the_model_chunks_are_those_that_megatron_lm_makes_of_its_flags(
    flags: str, rules: list[str], chunks: int | None
) -> None:
    """Its validate_args, core_v0.16.1 arguments.py:505-554."""
    found = audit(f"torchrun --nproc_per_node 16 pretrain_gpt.py {MODEL} --pipeline-model-parallel-size 2 {flags}")
    assert ids(found) == rules, str(found)
    if not rules:
        assert found.resolution is not None
        assert found.resolution.request["parallelism"]["virtual_pipeline_model_parallel_size"] == chunks


def test_a_pipeline_layout_in_a_bridge_yaml_may_be_a_list_of_stages() -> None:
    text = """
model:
  num_layers: 4
  pipeline_model_parallel_size: 2
  pipeline_model_parallel_layout: [[embedding, decoder], [decoder], [decoder], [decoder, loss]]
"""
    found = audit(text, ["platform=h100"])
    assert ids(found) == [] and found.resolution is not None
    assert found.resolution.request["model"]["pipeline_model_parallel_layout"] == "Et|t|t|tL"
    assert found.resolution.request["parallelism"]["virtual_pipeline_model_parallel_size"] == 2


def test_unknown_flags_that_bear_on_overlap_are_named_and_others_counted() -> None:
    found = audit(f"pretrain_gpt.py {MODEL} --my-overlap-trick 3 --use-sharp --wandb-project x --exit-interval 3")
    assert sorted(found.overlooked) == ["--my-overlap-trick 3", "--use-sharp"]
    assert found.ignored == 2


def test_a_value_its_parser_would_not_take_is_refused() -> None:
    found = audit(f"pretrain_gpt.py {MODEL} --fp8-format=e5m2")
    assert ids(found) == ["MEGATRON"] and "--fp8-format=e5m2" in found.errors[0].message


def test_the_dictionary_file_is_judged_where_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "ub.yaml").write_text("qkv_fwd: {method: ring_exchange}\n")
    text = f"torchrun --nproc_per_node 4 pretrain_gpt.py {MODEL} {TP4} --tp-comm-overlap-cfg ub.yaml"
    assert "UB002" in ids(audit(text, ["platform=h100"], folder=tmp_path))
    assert any("ub.yaml was not found" in note for note in audit(text, ["platform=h100"]).notes)


def test_defaults_of_megatron_lm_are_its_choices_not_asks() -> None:
    found = audit(f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} --pipeline-model-parallel-size 2")
    assert ids(found) == []  # overlap_p2p_comm and align_param_gather are true by default, and switched off there


def test_what_is_assumed_is_said_and_an_override_replaces_it() -> None:
    text = f"pretrain_gpt.py {MODEL} --overlap-grad-reduce"
    assert any("parallelism.world_size=2" in note for note in audit(text).notes)
    assert not any("world_size" in note for note in audit(text, ["parallelism.world_size=4"]).notes)


def test_the_number_of_ranks_that_is_assumed_fits_the_batch() -> None:
    text = "model: {expert_model_parallel_size: 8, num_moe_experts: 8}\ntrain: {micro_batch_size: 2, global_batch_size: 16}"
    found = audit(text, ["platform=h100"])
    assert ids(found) == [] and found.request["parallelism"]["world_size"] == 8


def test_bridge_overrides_that_bridge_would_switch_off_are_refused() -> None:
    text = "run_recipe.py --recipe x comm_overlap.tp_comm_overlap=true model.tensor_model_parallel_size=1 train.micro_batch_size=1 model.bf16=true"
    found = audit(text, ["platform=h100"])
    assert found.kind.startswith("Megatron-Bridge") and ids(found) == ["TP001"]
    assert "comm_overlap.tp_comm_overlap=false" in {fix.override for fix in found.errors[0].fixes}


def test_a_bridge_yaml_is_read_with_presets_by_name_and_precision_by_recipe() -> None:
    text = """
model: {tensor_model_parallel_size: 4, sequence_parallel: true, hidden_size: 8192, seq_length: 8192, num_attention_heads: 64}
train: {micro_batch_size: 1, global_batch_size: 32}
mixed_precision: bf16_mixed
comm_overlap:
  tp_comm_overlap: true
  tp_comm_overlap_cfg: userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192
checkpoint: {save: here}
"""
    found = audit(text, ["platform=h100", "parallelism.world_size=8"])
    assert ids(found) == [], str(found)
    assert found.request["userbuffers"]["name"] == "bf16_h100_h8192_tp4_mbs1_seq8192"
    assert found.request["precision"]["bf16"] is True
    assert ids(audit(text.replace("parallel_size: 4", "parallel_size: 2"), ["platform=h100"])) == ["UB001"]


def test_tags_in_yaml_are_never_constructed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"train: {{micro_batch_size: 1}}\nmodel: {{hidden_size: 64, x: !!python/object/apply:os.system ['touch {mark}']}}\n"
    assert audit(text).kind.startswith("Megatron-Bridge")
    assert not mark.exists()


NEMO = """
trainer: {devices: 8, num_nodes: "${oc.decode:${oc.env:NODES,2}}", precision: bf16}
model:
  micro_batch_size: ${oc.env:MBS,1}
  global_batch_size: 64
  tensor_model_parallel_size: 4
  pipeline_model_parallel_size: 1
  sequence_parallel: ${oc.decode:${oc.env:SP,False}}
  encoder_seq_length: 2048
  hidden_size: 1024
  num_layers: 8
  num_attention_heads: 16
  ub_tp_comm_overlap: ${.overlap}
  overlap: true
  optim: {name: mcore_distributed_optim, overlap_grad_sync: true, overlap_param_sync: true, bucket_cap_mb: 125}
"""


def test_a_nemo_yaml_is_judged_with_the_defaults_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SP", "True")  # this shell's environment says nothing about the file
    found = audit(NEMO, ["platform=h100"])
    assert found.kind.startswith("NeMo") and ids(found) == ["TP002"]
    assert found.request["parallelism"]["world_size"] == 16
    assert found.request["comm_overlap"]["dp"] == {"overlap_grad_reduce": True, "overlap_param_gather": True}
    assert "model.optim.bucket_cap_mb=125" in found.overlooked
    assert ids(audit(NEMO.replace("SP,False", "SP,True"), ["platform=h100"])) == []


@pytest.mark.parametrize("text", ["", "hello world", "a: 1", "[1, 2]", "echo 'unclosed"])
def test_what_is_no_configuration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UnreadableError):
        audit(text)


def test_a_misspelt_override_is_refused_with_the_near_one() -> None:
    with pytest.raises(GatingError) as error:
        audit(f"pretrain_gpt.py {MODEL}", ["platform=h10"])
    assert "h100" in str(error.value)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    return lambda *arguments, **options: CliRunner().invoke(main, ["audit", *arguments], **options)


def test_the_command_exits_with_1_on_findings_and_tells_programs_the_same(run, tmp_path: Path) -> None:
    file = tmp_path / "train.sh"
    file.write_text(SCRIPT.replace("--sequence-parallel", ""))
    done = run(str(file), "platform=h100")
    assert done.exit_code == 1 and done.output.startswith(
        "refused by 1 rule: Megatron-LM command line, line 13\n\nerror TP002"
    )
    answer = json.loads(run(str(file), "platform=h100", "--json").output)
    assert answer["verdict"] == "refused" and [f["rule"] for f in answer["findings"] if f["severity"] == "error"] == [
        "TP002"
    ]


def test_the_command_reads_standard_input(run) -> None:
    assert run("-", "platform=h100", input=f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} {TP4}").exit_code == 0


def test_what_cannot_be_read_is_a_usage_error(run, tmp_path: Path) -> None:
    assert run(str(tmp_path / "absent")).exit_code == 2
    assert run("-", input="hello").exit_code == 2
    assert run().exit_code == 2


def test_variables_that_only_the_environment_can_ask_with_are_taken_as_asks() -> None:
    text = f"export NVTE_FWD_LAYERNORM_SM_MARGIN=16\ntorchrun --nproc_per_node 4 pretrain_gpt.py {MODEL}"
    found = audit(text, ["platform=h100"])
    assert found.resolution is not None
    assert found.resolution.env["NVTE_BWD_LAYERNORM_SM_MARGIN"] == "16"
