"""The texts people read when a request is refused, word for word.

Rewrite them with `GOLDEN=write python -m pytest tests/resolver/test_golden.py`, and read the difference.
"""

import os
from pathlib import Path

import pytest
import yaml

from hydra_overlap import GatingError, resolve
from hydra_overlap.findings import visible
from hydra_overlap.reference.examples import example
from hydra_overlap.rules import RULES
from hydra_overlap.schema.fields import DEFAULTS
from tests.overrides import CONF, request_of

GOLDEN = Path(__file__).parent / "golden"
EVERY_RULE = "every_rule"
TP4_H100 = (
    "comm_overlap.tp.tp_comm_overlap=true", "parallelism=tp4", "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192",
    "platform=h100", "software=reference", "ddp=distributed_optimizer", "optimizer=adam", "precision=bf16",
)  # fmt: skip
REFUSALS = {
    "tp1_with_tp_overlap": (*TP4_H100, "parallelism=tp1"),
    "sequence_parallel_off": (*TP4_H100, "parallelism.sequence_parallel=false"),
    "transformer_engine_missing": (*TP4_H100, "software.transformer_engine=null"),
    "preset_for_another_tp_size": (*TP4_H100, "parallelism=tp2"),
    "userbuffers_mistakes": (
        *TP4_H100, "userbuffers.layers.qkv_fprop={method:bulk,num_sm:64}", "userbuffers.layers.fc1_frop={method:bulk}",
    ),
    "layers_not_divisible": ("parallelism=pp2_vpp2", "model=tiny", "model.num_layers=6"),
    "world_size_not_divisible": ("parallelism=tp4", "parallelism.world_size=6"),
    "bucket_size_true": ("comm_overlap.dp.bucket_size=true",),
    "negative_size": ("parallelism.tensor_model_parallel_size=-4", "comm_overlap.dp.bucket_size=-1"),
    "unknown_key": ("comm_overlap.dp.overlap_grad_reduc=true",),
    "p2p_overlap_without_vpp": ("comm_overlap.pp.overlap_p2p_comm=true", "parallelism=pp2"),
    "several_at_once": (
        *TP4_H100, "parallelism.sequence_parallel=false", "software.transformer_engine=null",
        "comm_overlap.dp.overlap_grad_reduce=false", "comm_overlap.dp.overlap_param_gather=true",
        "parallelism.world_size=8", "model=llama3_8b", "training.global_batch_size=7",
    ),
    "bridge_mode": (
        "gating=bridge", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true",
        "parallelism.expert_model_parallel_size=2", "model.num_moe_experts=4",
    ),
}  # fmt: skip


def origins(overrides: tuple[str, ...]) -> dict[str, str]:
    """Origins as a composition knows them: `group=option` sets values from a file, `key=value` on the command line."""
    known: dict[str, str] = {}
    for override in overrides:
        key, _, option = override.partition("=")
        if "." in key:
            known[key] = "command line"
        elif key != "gating":
            said = yaml.safe_load((CONF / key / f"{option}.yaml").read_text())
            known |= {path: f"{key}/{option}.yaml" for path in DEFAULTS if _says(said, path.removeprefix(f"{key}."))}
    return known


def _says(values: object, path: str) -> bool:
    name, _, rest = path.partition(".")
    return isinstance(values, dict) and name in values and (not rest or _says(values[name], rest))


@pytest.mark.parametrize("name", REFUSALS)
def test_the_refusal_reads_as_recorded(name: str) -> None:
    overrides = REFUSALS[name]
    with pytest.raises(GatingError) as refusal:
        resolve(request_of(*overrides), origins=origins(overrides))
    path, text = GOLDEN / f"{name}.txt", f"{refusal.value}\n"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_every_rule_says_on_its_example_what_is_recorded() -> None:
    blocks = [f"{visible(' '.join(rule.refused))}\n{found.message}" for rule in RULES if (found := example(rule))]
    path, text = GOLDEN / f"{EVERY_RULE}.txt", "\n\n".join(blocks) + "\n"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_no_recorded_text_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*REFUSALS, EVERY_RULE}


@pytest.mark.parametrize("name", REFUSALS)
def test_no_line_of_prose_is_wider_than_a_terminal_of_120_columns(name: str) -> None:
    for line in (GOLDEN / f"{name}.txt").read_text().splitlines():
        assert len(line) <= 120 or line.startswith(("  fix", "     or", "  source", "  where", "          "))
