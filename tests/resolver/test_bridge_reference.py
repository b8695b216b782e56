"""`gating: bridge` against 1,200 recorded answers of Megatron-Bridge v0.6.0 (tests/reference/README.md)."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hydra_overlap import GatingError, resolve
from hydra_overlap.schema.fields import DEFAULTS

REFERENCE = Path(__file__).parent.parent / "reference"
PRESETS = json.loads((REFERENCE / "bridge_userbuffers_presets.json").read_text())["presets"]
CASES = [json.loads(line) for line in (REFERENCE / "bridge_gating_cases.jsonl").read_text().splitlines()]
NODES_OF = {
    "model": ("model", "parallelism", "precision"),
    "comm_overlap": ("comm_overlap.tp", "comm_overlap.pp", "comm_overlap.dp", "comm_overlap.ep"),
    "ddp": ("ddp",),
    "optimizer": ("optimizer",),
}  # upstream object -> the nodes that own its fields


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """The request of a row: every field in the node that owns its name."""
    upstream = copy.deepcopy(case["input"])
    request: dict[str, Any] = {
        "gating": "bridge",
        "parallelism": {},
        "comm_overlap": {"tp": {}, "pp": {}, "dp": {}, "ep": {}},
        "software": {"transformer_engine": upstream["transformer_engine_version"]},
    }
    preset = upstream["comm_overlap"].pop("userbuffers", None)
    if preset:
        request["userbuffers"] = {"name": preset, "layers": PRESETS[preset]}
    for owner, nodes in NODES_OF.items():
        for name, value in upstream[owner].items():
            node = next(node for node in nodes if f"{node}.{name}" in DEFAULTS)
            target = request
            for part in node.split("."):
                target = target.setdefault(part, {})
            target[name] = value
    layout = request["parallelism"]
    layout["world_size"] = (
        upstream["data_parallel_size"]
        * layout["tensor_model_parallel_size"]
        * layout["pipeline_model_parallel_size"]
        * layout["context_parallel_size"]
    )
    return request


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    """What Bridge set on the model, with the preset's name replaced by its dictionary."""
    model = dict(case["bridge"]["model"])
    if isinstance(model["tp_comm_overlap_cfg"], str):
        model["tp_comm_overlap_cfg"] = PRESETS[model["tp_comm_overlap_cfg"]]
    return model


def test_the_table_has_both_kinds_of_rows() -> None:
    refused = sum("error" in case["bridge"] for case in CASES)
    assert (len(CASES), refused) == (1200, 173)


@pytest.mark.parametrize("part", range(12))
def test_bridge_mode_answers_every_row_as_bridge_does(part: int) -> None:
    for case in CASES[part::12]:
        message = f"row {case['id']}: {json.dumps(case['input'])}"
        if "error" in case["bridge"]:
            with pytest.raises(GatingError):
                resolve(request_of(case))
            continue
        resolution = resolve(request_of(case))
        assert resolution.transformer_config == settings_of(case), message
        assert resolution.optimizer_config == case["bridge"]["optimizer"], message
        assert resolution.ddp_config == case["bridge"]["ddp"], message


WARNINGS = {
    "TP size < 2": "BRIDGE001",
    "sequence_parallel=False": "BRIDGE002",
    "TE not detected": "BRIDGE003",
    "No overlap config provided": "BRIDGE004",
}


def test_every_warning_of_bridge_is_one_finding() -> None:
    for case in CASES:
        if "error" in case["bridge"]:
            continue
        expected = [rule for text in case["bridge"]["warnings"] for part, rule in WARNINGS.items() if part in text]
        assert len(expected) == len(case["bridge"]["warnings"])
        found = [f.rule for f in resolve(request_of(case)).findings if f.severity == "warning"]
        assert found == expected, case["id"]


FIRST_ASSERTION = {
    "only supported when expert_model_parallel_size > 1": "BRIDGE101",
    "only supported when num_moe_experts > 1": "BRIDGE102",
    "only supported when moe_token_dispatcher_type": "BRIDGE103",
    "only supported when using bf16 or fp16": "BRIDGE104",
    "virtual_pipeline_model_parallel_size must be specifi": "BRIDGE106",
    "disable full recomputation": "BRIDGE107",
    "disable moe in recompute_modules": "BRIDGE110",
    "disable moe_shared_expert_overlap": "BRIDGE111",
    "MTP supports at most one layer": "BRIDGE112",
    "required for overlap_grad_reduce": "BRIDGE113",
    "required for gradient_accumulation_fusion": "BRIDGE114",
    "required for delay_wgrad_compute": "BRIDGE115",
}


def test_the_first_finding_is_the_assertion_bridge_raises() -> None:
    for case in CASES:
        if "error" not in case["bridge"]:
            continue
        expected = [rule for text, rule in FIRST_ASSERTION.items() if text in case["bridge"]["error"]]
        with pytest.raises(GatingError) as refusal:
            resolve(request_of(case))
        assert [refusal.value.findings[0].rule] == expected, f"{case['id']}: {case['bridge']['error']}"
