"""What a userbuffers dictionary becomes: memory as Transformer Engine's own code allocates it, and the map of GEMMs."""

import json
from pathlib import Path
from typing import Any

import pytest

from hydra_overlap.presets import catalogue
from hydra_overlap.presets.gemms import FLAGS, MIB, ORDER, communicators, gemm_map, memory_mib
from hydra_overlap.rules.ub import GEMMS
from tests import needs

REFERENCE = Path(__file__).parents[1] / "reference"
TE = json.loads((REFERENCE / "userbuffers_te_calls.json").read_text())
OPTION = {
    entry["name"]: entry["options"][0]
    for entry in json.loads((REFERENCE / "userbuffers_presets.json").read_text())["presets"]
}
MODES = {"bf16": "NONE", "fp8": "FP8", "fp8 beside bf16": "FP8+NONE"}


@pytest.mark.parametrize("precision", MODES)
def test_memory_is_what_transformer_engines_own_code_allocates(precision: str) -> None:
    rows = {name: row for name, row in TE["presets"].items() if isinstance(row[MODES[precision]], int)}
    assert len(rows) >= 50
    computed = {
        name: memory_mib(catalogue.preset(OPTION[name]).layers, tuple(TE["shape"]), row["tp"], precision) * MIB
        for name, row in rows.items()
    }
    assert computed == {name: row[MODES[precision]] for name, row in rows.items()}


@pytest.mark.parametrize(
    ("name", "mib"), [("fp8_h100_h6144_tp2_mbs2_seq2048", 336), ("bf16_b200_h18432_tp8_mbs1_seq4096", 1854)]
)
def test_memory_on_the_shape_of_a_preset_is_the_measured_one(name: str, mib: int) -> None:
    one = catalogue.preset(name)
    assert catalogue.memory_of(one.plan(), one.layers) == mib


def test_context_parallel_ranks_hold_their_part_of_the_tokens() -> None:
    one = catalogue.preset("bf16_h100_h8192_tp4_mbs1_seq8192")
    plan = one.plan()
    whole = catalogue.memory_of(plan, one.layers)
    plan["parallelism"]["context_parallel_size"] = 2
    assert whole == 2 * (catalogue.memory_of(plan, one.layers) or 0)


def test_memory_is_not_invented_where_the_shape_is_not_said() -> None:
    assert catalogue.memory_of({"parallelism": {"tensor_model_parallel_size": 2}}, {}) is None


def test_there_are_twelve_communicators_whatever_is_named() -> None:
    assert sorted(ORDER) == sorted(GEMMS)
    assert len(communicators({})) == len(communicators({"qkv_fprop": {"method": "ring_exchange"}})) == 12


def overlapping(layers: dict[str, Any], flags: dict[str, Any] | None = None, **facts: bool) -> dict[str, str]:
    return {gemm.gemm: f"{gemm.method} {gemm.collective}" for gemm in gemm_map(layers, flags, **facts) if gemm.overlaps}


def test_by_default_ten_gemms_hide_communication_and_two_have_none() -> None:
    assert overlapping({}) == {
        "qkv_fprop": "ring_exchange all-gather", "qkv_dgrad": "bulk all-gather", "qkv_wgrad": "bulk reduce-scatter",
        "proj_fprop": "pipeline reduce-scatter", "proj_dgrad": "ring_exchange all-gather",
        "fc1_fprop": "ring_exchange all-gather", "fc1_dgrad": "bulk all-gather", "fc1_wgrad": "bulk reduce-scatter",
        "fc2_fprop": "pipeline reduce-scatter", "fc2_dgrad": "ring_exchange all-gather",
    }  # fmt: skip
    idle = [gemm for gemm in gemm_map({}) if not gemm.overlaps]
    assert {gemm.gemm: gemm.why for gemm in idle} == dict.fromkeys(
        ("proj_wgrad", "fc2_wgrad"), "dgrad already gathered for it; only MXFP8 gathers again"
    )


def test_mxfp8_gathers_again_for_the_wgrad_of_proj_and_fc2() -> None:
    assert overlapping({}, mxfp8=True).keys() - overlapping({}).keys() == {"proj_wgrad", "fc2_wgrad"}


@pytest.mark.parametrize(
    ("flag", "off"),
    [
        ("tp_comm_overlap_ag", {"qkv_fprop", "fc1_fprop", "proj_dgrad", "fc2_dgrad"}),
        ("tp_comm_overlap_rs", {"proj_fprop", "fc2_fprop"}),
        ("tp_comm_bulk_dgrad", {"qkv_dgrad", "fc1_dgrad"}),
        ("tp_comm_bulk_wgrad", {"qkv_wgrad", "fc1_wgrad"}),
    ],
)
def test_each_flag_switches_its_gemms_off_and_is_named(flag: str, off: set[str]) -> None:
    assert overlapping({}).keys() - overlapping({}, {flag: False}).keys() == off
    assert {gemm.why for gemm in gemm_map({}, {flag: False}) if gemm.gemm in off} == {f"{flag}=false"}


@pytest.mark.parametrize("layer", ["qkv", "fc1"])
def test_a_disabled_layer_loses_its_gather_and_keeps_its_bulk_overlaps(layer: str) -> None:
    flag = f"tp_comm_overlap_disable_{layer}"
    assert overlapping({}).keys() - overlapping({}, {flag: True}).keys() == {f"{layer}_fprop"}
    assert overlapping({}, {flag: True, "tp_comm_overlap_rs_dgrad": True})[f"{layer}_dgrad"] == "bulk all-gather"


def test_a_reduce_scatter_under_dgrad_takes_the_place_of_both_bulk_overlaps() -> None:
    layers = {"qkv_dgrad": {"method": "pipeline"}, "fc1_dgrad": {"method": "ring_exchange"}}
    found = overlapping(layers, {"tp_comm_overlap_rs_dgrad": True})
    assert found["qkv_dgrad"] == "pipeline reduce-scatter"
    assert found["fc1_dgrad"] == "ring_exchange reduce-scatter"
    assert "qkv_wgrad" not in found and "fc1_wgrad" not in found


def test_experts_use_no_userbuffers() -> None:
    assert {name.partition("_")[0] for name in overlapping({}, experts=True)} == {"qkv", "proj"}


@needs.IN_PROCESS
def test_a_flag_that_is_not_said_has_megatron_cores_default() -> None:
    config = pytest.importorskip("megatron.core.model_parallel_config").ModelParallelConfig()
    assert {name: getattr(config, name) for name in FLAGS} == FLAGS
