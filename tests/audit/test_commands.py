"""Scripts with several commands, conditions, and texts that look like what they are not."""

import json
import sys

import pytest
from click.testing import CliRunner

from hydra_overlap.audit import Audits, audit
from hydra_overlap.cli import main

MODEL = "--num-layers 8 --hidden-size 1024 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 1 --global-batch-size 64 --bf16"
TP1 = f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} --tensor-model-parallel-size 1 --tp-comm-overlap"
TP4 = f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} --tensor-model-parallel-size 4 --sequence-parallel --tp-comm-overlap"
H100 = ["platform=h100"]


def ids(found) -> list[str]:
    return [finding.rule for finding in found.errors]


@pytest.mark.parametrize("first", [True, False])
def test_each_training_command_is_judged_by_itself(first: bool) -> None:
    found = audit("\n".join(["#!/bin/bash", *([TP1, TP4] if first else [TP4, TP1])]), H100)
    assert isinstance(found, Audits)
    assert [one.lines for one in found.commands] == [(2,), (3,)]
    assert [ids(one) for one in found.commands] == ([["TP001"], []] if first else [[], ["TP001"]])
    assert (found.verdict, found.exit_code, ids(found)) == ("refused", 1, ["TP001"])
    text = str(found)
    assert text.startswith("refused: 2 training commands\n\n") and ": Megatron-LM command line, line 2" in text
    assert ": Megatron-LM command line, line 3" in text


def test_programs_get_every_command_and_the_worst_verdict(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    done = CliRunner().invoke(main, ["audit", "-", "platform=h100", "--json"], input=f"{TP4}\n{TP1}\n")
    answer = json.loads(done.output)
    assert done.exit_code == 1 and answer["verdict"] == "refused"
    assert [(one["lines"], one["verdict"]) for one in answer["result"]["commands"]] == [
        ([1], "accepted"),
        ([2], "refused"),
    ]


def test_commands_with_the_same_settings_share_one_verdict() -> None:
    found = audit(f"if $PROFILE; then\n  nsys profile -o x {TP4}\nelse\n  {TP4}\nfi", H100)
    assert found.lines == (2, 4)
    notes = " ".join(found.notes)
    assert "line 2 runs only if the condition or loop of line 1 turns out so" in notes
    assert "line 4 runs only if the condition or loop of line 1 turns out so" in notes


def test_programs_that_do_not_train_are_named_and_not_judged() -> None:
    convert = "python tools/checkpoint/convert.py --tensor-model-parallel-size 1 --pipeline-model-parallel-size 1"
    found = audit(f"{TP4}\n{convert}\n--lr 0.1", H100)
    assert ids(found) == []
    assert "not judged: line 2, tools/checkpoint/convert.py is not a training program" in found.notes
    assert "not judged: line 3, these flags belong to no command" in found.notes


@pytest.mark.parametrize("program", ["python train.py", "deepspeed main.py", "python -m torch.distributed.run main.py"])
def test_a_training_program_of_another_name_is_judged(program: str) -> None:
    assert ids(audit(f"{program} {MODEL} --tp-comm-overlap", H100)) == ["TP001"]


def test_each_way_in_which_a_condition_may_turn_out_is_said_with_its_verdict() -> None:
    script = f'if [ "$1" = small ]; then TP=1; else TP=4; fi\n{TP4}'.replace("size 4", "size $TP")
    found = audit(script, H100)
    assert found.verdict == "undecided" and found.undecided == ("parallelism.tensor_model_parallel_size",)
    ways = [note for note in found.notes if note.startswith("if ")]
    assert (
        len(ways) == 2 and "if the condition on line 1 holds: refused by 2 rules" in ways[0] and ": accepted" in ways[1]
    )
    assert not any(note.startswith("if ") for note in audit(TP4, H100).notes)
    assert audit(script, H100, arguments=["large"]).verdict == "accepted"


@pytest.mark.parametrize(
    "before",
    [
        'echo "run # 1 of it\'s"',
        "cat <<EOF > notes.txt\ndon't use --tp-comm-overlap here\nEOF",
        'echo "never pass --tp-comm-overlap to pretrain_gpt.py"',
        f"echo {TP1}",
        f"cat <<EOF >notes.md\n# {TP1}\nEOF",
        "OV=--tp-comm-overlap\nunset OV",
        "# old: --foo \\",
    ],
)
def test_text_that_is_no_part_of_the_command_changes_nothing(before: str) -> None:
    plain, found = audit(TP4, H100), audit(f'{before}\n{TP4} $OV --wandb-exp-name "a # b"', H100)
    assert (found.request, found.findings) == (plain.request, plain.findings)


@pytest.mark.parametrize(
    "script",
    [
        '# old: --foo \\\nARGS="--tp-comm-overlap"\nRUN $ARGS',
        "ARGS=$'--tp-comm-overlap'\nRUN $ARGS",
        "CMD=\"RUN --tp-comm-overlap --wandb-exp-name 'a b'\"\neval $CMD",
        "CMD=\"RUN --tp-comm-overlap\"\necho $CMD\nsrun -l sh -c \"${CMD}\"",
        "read -r -d '' CMD <<EOF\nRUN --tp-comm-overlap\nEOF\nsrun bash -c \"$CMD\"",
        "sbatch <<EOF\n#!/bin/bash\nRUN --tp-comm-overlap \\\n  --exit-interval 3\nEOF",
        "run() {\n  local ARGS=--tp-comm-overlap\n  RUN $ARGS\n}\nrun",
        "RUN \\\r\n --tp-comm-overlap\r\n",
        "RUN --wandb-exp-name 'run #3' --tp-comm-overlap --wandb-project 'x'",
        ": ${ARGS:=--tp-comm-overlap}\nRUN $ARGS 2>&1 | tee log",
    ],
)  # fmt: skip
def test_the_command_is_found_in_all_its_forms(script: str) -> None:
    found = audit(script.replace("RUN", f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL}"), H100)
    assert ids(found) == ["TP001"]
    assert found.request["parallelism"]["world_size"] == 8


def test_what_srun_and_sbatch_are_told_counts_for_the_command_inside() -> None:
    found = audit(f"srun -N 4 --ntasks-per-node=8 bash -c 'python pretrain_gpt.py {MODEL}'", H100)
    assert found.request["parallelism"]["world_size"] == 32


def test_variables_before_a_command_are_its_own() -> None:
    found = audit(f"CUDA_DEVICE_MAX_CONNECTIONS=8 {TP4}\nCUDA_DEVICE_MAX_CONNECTIONS=1 {TP4}", H100)
    assert [ids(one) for one in found.commands] == [["ENV002"], []]


def test_overrides_of_bridge_are_judged_command_by_command_too() -> None:
    one = "python run_recipe.py --recipe x comm_overlap.tp_comm_overlap=true model.sequence_parallel={} model.tensor_model_parallel_size={}"
    found = audit(f"{one.format('true', 4)}\n{one.format('false', 1)}", H100)
    assert [(audited.lines, ids(audited)) for audited in found.commands] == [((1,), []), ((2,), ["TP001"])]


@pytest.mark.parametrize("value", ["$TP", "${TP}", "$(tp)", "'${oc.env:TP}'", '"${TP}"'])
def test_an_override_that_the_shell_alone_knows_leaves_it_undecided(value: str) -> None:
    found = audit(f"python run_recipe.py model.tensor_model_parallel_size={value} comm_overlap.tp_comm_overlap=true")
    assert (found.verdict, found.undecided) == ("undecided", ("parallelism.tensor_model_parallel_size",))
    assert any(note.startswith("not known: model.tensor_model_parallel_size=$") for note in found.notes)


def test_the_experts_of_a_recipe_are_not_said_to_be_missing() -> None:
    found = audit("python run_recipe.py model.expert_model_parallel_size=4 train.micro_batch_size=1", H100)
    assert found.verdict == "accepted" and any("number of experts" in note for note in found.notes)
    assert ids(audit("run_recipe.py model.expert_model_parallel_size=4 model.num_moe_experts=6", H100)) == ["PAR011"]


def test_a_list_of_overrides_is_one_configuration_and_may_name_a_precision() -> None:
    text = "model.tensor_model_parallel_size=1\nmixed_precision=bf16_mixed\ncomm_overlap.tp_comm_overlap=true"
    found = audit(text, H100)
    assert ids(found) == ["TP001"] and found.request["precision"]["bf16"] is True
