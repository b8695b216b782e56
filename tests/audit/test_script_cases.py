"""Small scripts and files whose verdict is known, from bash and from the programs' own parsers (tests/reference/README.md)."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from hydra_overlap.audit import Audit, UnreadableError, audit
from tests.each import each

CASES = Path(__file__).parents[1] / "reference" / "script_cases"
SAYS = {
    "a01_comment_in_continuation": "The flags on line 7 on belong to no command: the comment on line 6 ends it.*--tp-comm-overlap",
    "a03_value_after_switch": "--sequence-parallel takes no value.*--tp-comm-overlap takes no value",
    "b01_connections_unset": "CUDA_DEVICE_MAX_CONNECTIONS.*not set",
    "c01_nodes_default_of_env": "parallelism.world_size is not said.*NNODES=1",
    "e02_extra_args": "unless \\$EXTRA_ARGS or \\$@ says --sequence-parallel",
    "j01_recipe_and_overrides": "what the recipe says of parallelism.tensor_model_parallel_size",
    "k01_nothing_in_effect": "accepted: [^.]*, no overlap",
}
"""The sentence of a case that names one, as it is said here."""
RULES = {"d02_condition_on_a_default": ["DP004"]}
OPTIONS = {"f03_positional_parameters": ["--", "7B", "4"]}
IDS = sorted(path.name.removesuffix(".expected.yaml") for path in CASES.glob("*.expected.yaml"))


def judged(case: str) -> tuple[dict[str, Any], Audit | None]:
    """(what is expected, the verdict; None where there is none)."""
    expected = yaml.safe_load((CASES / f"{case}.expected.yaml").read_text())
    words = [*shlex.split(expected["command"])[3:], *OPTIONS.get(case, [])]
    at = words.index("--") if "--" in words else len(words)
    text = (CASES / expected["input"]).read_text()
    try:
        found = audit(text, words[:at], folder=CASES, arguments=words[at + 1 :] if "--" in words else None)
    except UnreadableError:
        return expected["expected"], None
    assert isinstance(found, Audit)
    return expected["expected"], found


@each("case", IDS)
def test_a_small_script_gets_the_verdict_that_its_run_would_deserve(case: str) -> None:
    expected, found = judged(case)
    verdicts = [expected["verdict"], *(expected["or"].split()[:1] if "or" in expected else [])]
    as_read = found is not None and any(word.startswith("read") for word in verdicts)  # any verdict of that dialect
    assert as_read or (found.verdict if found else "none") in verdicts, str(found)
    if found is None:
        return
    rules = [finding.rule for finding in found.errors]
    assert set(RULES.get(case, expected.get("rules", []))) <= set(rules), str(found)
    assert not set(re.findall(r"[A-Z]{2,3}\d{3}", str(expected.get("must_not", "")))) & set(rules), str(found)
    flat = " ".join(str(found).split())
    assert re.search(SAYS.get(case, ""), flat), flat
    for name, section in (("world_size", "parallelism"), ("hidden_size", "model"), ("global_batch_size", "training")):
        if name in expected:
            assert found.request[section][name] == expected[name]
    if "tp_comm_overlap" in expected:
        assert found.request["comm_overlap"]["tp"]["tp_comm_overlap"] is expected["tp_comm_overlap"]


def test_a_sourced_file_beside_the_script_is_read() -> None:
    text = 'source model_moe.sh\ntorchrun --nproc_per_node 8 pretrain_gpt.py "${MODEL_ARGS[@]}" --micro-batch-size 1 --global-batch-size 64'
    found = audit(text, folder=CASES)
    assert isinstance(found, Audit) and found.request["model"]["num_moe_experts"] == 8
    alone = audit(text)
    assert isinstance(alone, Audit) and alone.verdict == "undecided" and "${MODEL_ARGS[@]}" in alone.wanted
    assert "not read: model_moe.sh, sourced on line 1" in alone.notes


@pytest.mark.parametrize(
    ("condition", "verdict", "said"),
    [
        ('if [ -n "$WANDB" ]; then ARGS+=(--wandb-project x); fi\nARGS+=(--sequence-parallel)', "accepted", ""),
        ('if [ -n "$SP" ]; then ARGS+=(--sequence-parallel); fi', "undecided", "parallelism.sequence_parallel"),
        ('if [ "$BIG" ]; then ARGS+=(--use-sharp); else ARGS+=(--lr 1); fi\nARGS+=(--sequence-parallel)', "accepted", ""),
        ('case "$1" in a) X=1 ;; *) exit 1 ;; esac\nARGS+=(--sequence-parallel)', "accepted", ""),
        ('if [ "$BIG" ]; then ARGS+=(--lr 2); else ARGS+=(--lr 1); fi', "refused", "TP002"),
    ],
)  # fmt: skip
def test_a_condition_that_nobody_can_evaluate_leaves_open_what_hangs_on_it_and_nothing_else(
    condition: str, verdict: str, said: str
) -> None:
    model = (
        "--num-layers 8 --hidden-size 1024 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048"
    )
    text = (
        f"export CUDA_DEVICE_MAX_CONNECTIONS=1\nARGS=({model} --micro-batch-size 1 --global-batch-size 64 --bf16 "
        f"--tensor-model-parallel-size 4 --tp-comm-overlap)\n{condition}\ntorchrun --nproc-per-node 8 pretrain_gpt.py ${{ARGS[@]}}"
    )
    found = audit(text)
    assert isinstance(found, Audit)
    assert found.verdict == verdict and said in str(found), str(found)
