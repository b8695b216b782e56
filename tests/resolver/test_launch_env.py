"""The launch environment against 400 recorded answers of Megatron-Bridge's PerfEnvPlugin (tests/reference/README.md)."""

import json
from pathlib import Path
from typing import Any

import pytest

from hydra_overlap import resolve
from hydra_overlap.rules.env import launch_environment
from hydra_overlap.schema.fields import DEFAULTS

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "reference" / "launch_env_cases.jsonl").read_text().splitlines()
]


def request_of(layout: dict[str, Any], gating: str) -> dict[str, Any]:
    """The request of a row; whatever an expert-parallel overlap needs is there, so that strict mode takes it too."""
    tp, pp, cp = (layout[f"{name}_parallel_size"] for name in ("tensor_model", "pipeline_model", "context"))
    a2a, backend = layout["overlap_moe_expert_parallel_comm"], layout["moe_flex_dispatcher_backend"]
    return {
        "gating": gating,
        "parallelism": {
            "tensor_model_parallel_size": tp,
            "pipeline_model_parallel_size": pp,
            "virtual_pipeline_model_parallel_size": 2 if pp > 1 else None,
            "context_parallel_size": cp,
            "sequence_parallel": tp > 1,
            "world_size": tp * pp * cp * layout["data_parallel_size"],
        },
        "comm_overlap": {"ep": {"overlap_moe_expert_parallel_comm": a2a}},
        "model": {
            "moe_flex_dispatcher_backend": backend,
            "moe_token_dispatcher_type": "flex" if backend else "allgather",
        },
        "platform": {"sm": 100 if layout["gpu_sm100_or_newer"] else 90},
        "software": {"torch": "2.11.0", "transformer_engine": "2.11.0"},
        "launch": {
            "layernorm_sm_margin": layout["layernorm_sm_margin"],
            "nccl_pp_comm_chunksize": layout["nccl_pp_comm_chunksize"],
        },
    }


def test_the_table_has_400_rows() -> None:
    assert len(CASES) == 400


@pytest.mark.parametrize("gating", ["strict", "bridge"])
def test_every_row_gets_the_environment_of_the_plugin(gating: str) -> None:
    seen = 0
    for case in CASES:
        request = request_of(case["input"], gating)
        if case["input"]["overlap_moe_expert_parallel_comm"]:
            continue  # needs experts to be legal; judged below
        assert resolve(request).env == case["env"], case["input"]
        seen += 1
    assert seen == sum(not case["input"]["overlap_moe_expert_parallel_comm"] for case in CASES) > 100


def test_every_row_gets_the_environment_of_the_plugin_whatever_else_is_refused() -> None:
    for case in CASES:
        layout, flat = case["input"], dict(DEFAULTS)
        for node, fields in request_of(layout, "strict").items():
            if node == "comm_overlap":
                flat["comm_overlap.ep.overlap_moe_expert_parallel_comm"] = fields["ep"][
                    "overlap_moe_expert_parallel_comm"
                ]
            elif isinstance(fields, dict):
                flat.update({f"{node}.{name}": value for name, value in fields.items()})
        assert {value.name: value.value for value in launch_environment(flat)} == case["env"], layout
