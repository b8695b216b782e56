"""How many model chunks a pipeline rank has: three flags of Megatron-LM that exclude each other, and what it asserts of them."""

from collections.abc import Mapping
from typing import Any

from ..export.megatron_lm_parser import VERSION
from ..findings import Finding, Fix, Place
from ..rules.pipeline_layout import virtual_size
from ..schema.keys import PIPELINE_LAYOUT, PP, VPP
from .intake import Intake

LAYERS, CHUNKS, LAYOUT = (
    "num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "pipeline_model_parallel_layout",
)  # fmt: skip
VALIDATED = f"Megatron-LM {VERSION} megatron/training/arguments.py:505-554"


def take(intake: Intake, v: Mapping[str, Any], said: Mapping[str, str]) -> None:
    """VPP as validate_args makes it, which turns 1 into None.

    v: destination -> value, defaults too. said: destination -> the flag, of those that are given.
    """
    given = [said[dest] for dest in (LAYERS, CHUNKS, LAYOUT) if dest in said and v[dest] is not None]
    if len(given) > 1:
        names = " and ".join(_flag(text) for text in given)
        why = f"Megatron-LM asserts that no more than one of these flags is given: {names}."
        intake.findings.append(_refusal("Several flags say how many model chunks a pipeline rank has", given, why))
        return
    if LAYOUT in said:
        size = virtual_size({PP: v[PP.rpartition(".")[2]], PIPELINE_LAYOUT: v[LAYOUT]})
        if size is not None:
            intake.take(VPP, size, said[LAYOUT])
        return
    size = v[CHUNKS]
    if v[LAYERS] is not None and v["num_layers"] is not None:
        size = _from_layers(intake, v, said)
    if size == 1:
        intake.flat.pop(VPP, None)
    elif size is not None and v[LAYERS] is not None:
        intake.take(VPP, size, said.get(LAYERS, ""))


def _from_layers(intake: Intake, v: Mapping[str, Any], said: Mapping[str, str]) -> int | None:
    """Chunks of so many layers on each stage; None, and a finding, where a stage does not divide into such chunks."""
    counted = sum(bool(v[f"account_for_{what}_in_pipeline_split"]) for what in ("embedding", "loss"))
    layers, total, stages = v[LAYERS], v["num_layers"] + counted, v["pipeline_model_parallel_size"]
    if stages < 1 or total % stages:
        return None  # refused as it is: CFG005, PAR004, PAR017
    per_stage = int(total // stages)
    if layers >= 1 and per_stage % layers == 0:
        return int(per_stage // layers)
    given = [said[dest] for dest in (LAYERS,) if dest in said]
    why = f"A stage has {per_stage} layers; Megatron-LM asserts that chunks of {layers} divide them."
    intake.findings.append(_refusal("The layers of a pipeline stage do not divide into model chunks", given, why))
    return None


def _refusal(title: str, given: list[str], why: str) -> Finding:
    """What validate_args asserts before there is a configuration that rules could judge."""
    places, fixes = tuple(Place(text, "") for text in given), tuple(Fix(f"without {_flag(text)}", "") for text in given)
    return Finding(rule="PAR005", severity="error", title=title, why=why, where=places, fixes=fixes, source=VALIDATED)


def _flag(text: str) -> str:
    return text.split()[0].partition("=")[0]
