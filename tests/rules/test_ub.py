"""UB: the userbuffers dictionary, entry by entry."""

import json
from pathlib import Path
from typing import Any

import pytest

from hydra_overlap import GatingError, Resolution, resolve
from hydra_overlap.findings import yaml_value
from hydra_overlap.rules.tp import LEGAL
from hydra_overlap.rules.ub import meant
from tests.overrides import refusing, remarks, request_of

PRESETS = json.loads((Path(__file__).parent.parent / "reference" / "bridge_userbuffers_presets.json").read_text())[
    "presets"
]
TP2 = (
    "comm_overlap.tp.tp_comm_overlap=true", "parallelism.tensor_model_parallel_size=2",
    "parallelism.sequence_parallel=true", "software.transformer_engine=2.11.0", "precision.bf16=true",
)  # fmt: skip


def judged(layers: dict[str, Any]) -> list[str]:
    """Rules that refuse a dictionary, TP overlap on."""
    request = request_of(*TP2)
    request["userbuffers"] = {"name": "mine", "layers": layers}
    try:
        resolve(request)
    except GatingError as refusal:
        return [finding.rule for finding in refusal.findings]
    return []


LORA = [name for name in PRESETS if name.endswith("_lora")]


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in LORA])
def test_allows_every_published_preset(name: str) -> None:
    assert judged(PRESETS[name]) == []


@pytest.mark.parametrize("name", LORA)
def test_refuses_the_lora_presets_until_both_dgrads_run_one_way(name: str) -> None:
    """Fc1_dgrad pipelined and qkv_dgrad bulk is what no value of tp_comm_overlap_rs_dgrad gives."""
    layers = PRESETS[name]
    assert judged(layers) == ["UB008"]
    assert judged({**layers, "fc1_dgrad": {"method": "bulk"}}) == []
    assert judged({**layers, "qkv_dgrad": {"method": "pipeline"}}) == []


def test_hands_the_dictionary_on_unchanged_and_as_a_copy() -> None:
    layers = {"qkv_fprop": {"method": "ring_exchange", "aggregate": True}}
    request = request_of(*TP2)
    request["userbuffers"] = {"layers": layers}
    resolution: Resolution = resolve(request)
    assert resolution.userbuffers == layers
    assert resolution.userbuffers is not layers
    assert resolution.userbuffers["qkv_fprop"] is not layers["qkv_fprop"]


@pytest.mark.parametrize(("tuned", "rules"), [("null", []), ("2", []), ("4", ["UB001"]), ("1", ["UB001"])])
def test_refuses_a_preset_tuned_for_another_tp_size(tuned: str, rules: list[str]) -> None:
    assert refusing(*TP2, f"userbuffers.tuned_for.tp={tuned}") == rules


def test_a_preset_for_another_tp_size_is_no_matter_while_tp_overlap_is_off() -> None:
    assert refusing("userbuffers.tuned_for.tp=4", TP2[1]) == []


@pytest.mark.parametrize(("layers", "rules"), [
    ({"qkv_fprop": {}}, []),
    ({"qkv_fwd": {}}, ["UB002"]),
    ({"QKV_fprop": {}}, ["UB002"]),
    ({"fc2_bwd_x": {}}, ["UB002"]),
    ({"qkv_fwd": {"num_sm": 64}}, ["UB002"]),  # its arguments are not judged: one cause, one message
])  # fmt: skip
def test_refuses_gemms_that_do_not_exist(layers: dict[str, Any], rules: list[str]) -> None:
    assert judged(layers) == rules


@pytest.mark.parametrize(("entry", "rules"), [
    ({"num_sm": 32}, []), ({"num_sm": 33}, ["UB003"]), ({"num_sm": 1}, []), ({"num_sm": 0}, ["UB003"]),
    ({"num_sm": 24, "cga_size": 2}, []), ({"cga_size": 0}, ["UB003"]),
    ({"num_splits": 0}, ["UB003"]), ({"num_sm": True}, ["UB003"]), ({"num_sm": "16"}, ["UB003"]), ({"num_sm": None}, ["UB003"]),
    ({"set_sm_margin": 1}, ["UB003"]), ({"num_sms": 16}, ["UB003"]), ({"fp8_buf": [False]}, ["UB003"]),
])  # fmt: skip
def test_refuses_arguments_out_of_range_or_of_another_type(entry: dict[str, Any], rules: list[str]) -> None:
    assert judged({"proj_fprop": {"method": "pipeline", **entry}}) == rules


@pytest.mark.parametrize(("gemm", "legal", "illegal"), [
    ("qkv_fprop", ["ring_exchange"], ["bulk", "pipeline", "external", "ring"]),
    ("proj_fprop", ["ring_exchange", "pipeline"], ["bulk"]),
    ("fc2_fprop", ["ring_exchange", "pipeline"], ["bulk"]),
    ("fc1_dgrad", ["bulk", "ring_exchange", "pipeline"], ["external"]),
    ("qkv_wgrad", ["bulk"], ["ring_exchange", "pipeline"]),
    ("proj_dgrad", ["ring_exchange"], ["pipeline", "bulk"]),
    ("fc2_wgrad", ["external"], ["bulk"]),
])  # fmt: skip
def test_refuses_methods_a_gemm_cannot_run(gemm: str, legal: list[str], illegal: list[str]) -> None:
    for method in legal:
        assert judged({gemm: {"method": method}}) == [], method
    for method in illegal:
        assert judged({gemm: {"method": method}}) == ["UB004"], method


@pytest.mark.parametrize("layer", ["qkv", "fc1"])
def test_refuses_a_dgrad_that_leaves_no_room_for_its_bulk_wgrad(layer: str) -> None:
    wgrad = {f"{layer}_wgrad": {"method": "bulk"}}
    assert judged({f"{layer}_dgrad": {"method": "ring_exchange"}, **wgrad}) == ["UB005"]
    assert judged({f"{layer}_dgrad": {"method": "bulk"}, **wgrad}) == []
    assert judged({f"{layer}_dgrad": {"method": "ring_exchange"}}) == []
    assert judged({f"{layer}_dgrad": {"num_sm": 4}, **wgrad}) == []  # bulk by default


def test_refuses_atomic_gemms() -> None:
    assert judged({"qkv_fprop": {"atomic_gemm": True}}) == ["UB006"]
    assert judged({"qkv_fprop": {"atomic_gemm": False}}) == []


def test_refuses_a_ring_dgrad_in_fp8_only_beside_bf16_layers() -> None:
    ring = (*TP2, "userbuffers.layers.qkv_dgrad={method:ring_exchange}")
    fp8, mixed = ("precision.fp8=hybrid", "precision.fp8_recipe=tensorwise"), "precision.first_last_layers_bf16=true"
    none = ("precision.num_layers_at_start_in_bf16=0", "precision.num_layers_at_end_in_bf16=0")
    assert refusing(*ring, *fp8, mixed) == ["UB007"]
    assert refusing(*ring, *fp8, mixed, *none) == []
    assert refusing(*ring, *fp8) == []
    assert refusing(*ring, mixed) == []


RING = "userbuffers.layers.qkv_dgrad={method:ring_exchange}"
RS_DGRAD = "comm_overlap.tp.tp_comm_overlap_rs_dgrad"


def test_a_dgrad_that_is_not_bulk_turns_its_flag_on_and_the_bulk_overlaps_off() -> None:
    config = resolve(request_of(*TP2, RING)).transformer_config
    assert config["tp_comm_overlap_rs_dgrad"] is True
    assert config["tp_comm_bulk_dgrad"] is config["tp_comm_bulk_wgrad"] is False
    layer_left_out = resolve(request_of(*TP2, RING, "comm_overlap.tp.tp_comm_overlap_disable_fc1=true"))
    assert layer_left_out.transformer_config["tp_comm_bulk_dgrad"] is True


def test_refuses_a_dgrad_entry_that_would_run_by_another_method() -> None:
    assert refusing(*TP2, RING, f"{RS_DGRAD}=false") == ["UB008"]
    assert refusing(*TP2, RING, f"{RS_DGRAD}=true") == []
    assert refusing(*TP2, RING, "comm_overlap.tp.tp_comm_overlap_disable_qkv=true") == ["UB008"]
    bulk = "userbuffers.layers.qkv_dgrad={method:bulk}"
    assert refusing(*TP2, bulk, f"{RS_DGRAD}=true") == ["UB008"]
    assert refusing(*TP2, bulk, f"{RS_DGRAD}=true", "comm_overlap.tp.tp_comm_overlap_disable_qkv=true") == []
    assert refusing(*TP2, bulk) == []
    assert refusing(*TP2, "userbuffers.layers.qkv_wgrad={method:bulk}", f"{RS_DGRAD}=true") == ["UB008"]
    assert refusing(*TP2, f"{RS_DGRAD}=true") == []  # Transformer Engine's default communicators, pipelined


@pytest.mark.parametrize(("gemm", "method", "scatters"), [
    ("fc1_fprop", "ring_exchange", False), ("proj_fprop", "ring_exchange", True), ("qkv_wgrad", "bulk", True),
    ("fc1_dgrad", "bulk", False), ("fc1_dgrad", "pipeline", True),
])  # fmt: skip
def test_refuses_a_collective_that_its_gemm_does_not_overlap(gemm: str, method: str, scatters: bool) -> None:
    assert judged({gemm: {"method": method, "is_reduce_scatter": scatters}}) == []
    assert judged({gemm: {"method": method, "is_reduce_scatter": not scatters}}) == ["UB009"]


SPLITS = "userbuffers.layers.{}={{method:{},num_splits:{}}}"


@pytest.mark.parametrize(("splits", "rules"), [(1, []), (3, ["UB010"]), (4, []), (128, []), (256, ["UB010"])])
def test_refuses_splits_with_a_remainder(splits: int, rules: list[str]) -> None:
    assert refusing(*TP2, SPLITS.format("proj_fprop", "pipeline", splits), "model.hidden_size=128") == rules
    assert refusing(*TP2, SPLITS.format("qkv_fprop", "ring_exchange", splits), "model.hidden_size=128") == []
    assert refusing(*TP2, SPLITS.format("proj_fprop", "pipeline", splits)) == []  # nothing is known of the model


def test_under_mxfp8_a_split_is_a_multiple_of_128() -> None:
    mxfp8 = ("precision.fp8=e4m3", "precision.fp8_recipe=mxfp8", "model.hidden_size=1024")
    assert refusing(*TP2, SPLITS.format("proj_fprop", "pipeline", 8), *mxfp8) == []
    assert refusing(*TP2, SPLITS.format("proj_fprop", "pipeline", 16), *mxfp8) == ["UB010"]
    assert refusing(*TP2, SPLITS.format("proj_fprop", "pipeline", 16), *mxfp8[2:]) == []


def test_tp_overlap_with_nothing_but_defaults_gets_a_note() -> None:
    assert remarks(*TP2) == ["UB204"]
    assert remarks(*TP2, "userbuffers.layers.qkv_fprop={method:ring_exchange}") == []


@pytest.mark.parametrize(("gemm", "entry", "remark"), [
    ("proj_fprop", "method:pipeline,aggregate:true", ["UB205"]),
    ("proj_fprop", "method:pipeline,aggregate:false", []),
    ("proj_fprop", "method:ring_exchange,aggregate:true", []),
    ("proj_fprop", "method:ring_exchange,num_splits:4", ["UB205"]),
    ("qkv_dgrad", "method:bulk,num_splits:4", ["UB205"]),
    ("qkv_wgrad", "method:bulk,fp8_buf:true", ["UB205"]),
    ("proj_dgrad", "method:ring_exchange,fp8_buf:false", []),
])  # fmt: skip
def test_an_argument_that_its_method_ignores_gets_a_note(gemm: str, entry: str, remark: list[str]) -> None:
    assert remarks(*TP2, f"userbuffers.layers.{gemm}={{{entry}}}") == remark


def test_a_cluster_of_more_than_four_gets_a_note() -> None:
    assert remarks(*TP2, "userbuffers.layers.proj_fprop={method:pipeline,num_sm:24,cga_size:8}") == ["UB203"]


NAMED = "userbuffers.layers.qkv_fprop={method:ring_exchange}"
TUNED = (
    *TP2,
    NAMED,
    "userbuffers.tuned_for={gpu:h100,hidden_size:8192,tp:2,cp:1,mbs:1,seq_length:8192,precision:bf16}",
)
HERE = ("platform.name=h100", "model.hidden_size=8192", "model.seq_length=8192")


def test_a_preset_on_its_shape_gets_no_remark() -> None:
    assert remarks(*TUNED, *HERE) == []


@pytest.mark.parametrize("change", [
    "platform.name=b200", "model.hidden_size=4096", "model.seq_length=4096", "training.micro_batch_size=2",
    "parallelism.context_parallel_size=2", "precision.fp8=hybrid",
])  # fmt: skip
def test_a_preset_off_its_shape_gets_a_note(change: str) -> None:
    assert remarks(*TUNED, *HERE, change) == ["UB201"]


def test_what_is_not_said_on_one_side_is_not_off_its_shape() -> None:
    assert remarks(*TP2, NAMED, "userbuffers.tuned_for={tp:2}", *HERE) == []
    assert remarks(*TUNED) == []


def test_a_dictionary_that_nothing_reads_gets_a_note() -> None:
    layers = yaml_value(PRESETS["userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192"])
    assert remarks(f"userbuffers.layers={layers}") == ["UB202"]
    assert remarks(f"userbuffers.layers={layers}", *TP2) == []


@pytest.mark.parametrize(("cga", "remark"), [(1, []), (2, []), (5, ["UB203"])])
def test_clusters_that_do_not_fill_the_sms_get_a_note(cga: int, remark: list[str]) -> None:
    assert remarks(*TP2, f"userbuffers.layers.proj_fprop={{method:pipeline,num_sm:24,cga_size:{cga}}}") == remark


def test_the_refusal_points_at_the_entry_not_only_at_the_preset() -> None:
    request = request_of(*TP2, "userbuffers={name:mine,layers:{qkv_fprop:{num_sm:64,cga_size:3}}}")
    with pytest.raises(GatingError) as refusal:
        resolve(request)
    (finding,) = refusal.value.findings
    assert [str(place) for place in finding.where] == [
        "userbuffers.name=mine",
        "userbuffers.layers.qkv_fprop.num_sm=64",
    ]
    assert finding.fixes[0].override == "userbuffers.layers.qkv_fprop.num_sm=30"


@pytest.mark.parametrize("name", ["two words", "a.b", "", "x=1", "{", "~"])
def test_names_that_no_override_can_say_are_refused_with_a_fix_that_works(name: str) -> None:
    request = request_of(*TP2)
    request["userbuffers"] = {"name": "mine", "layers": {name: {}, "qkv_fprop": {name: 1}}}
    with pytest.raises(GatingError) as refusal:
        resolve(request)
    assert refusal.value.findings[0].fixes[-1].override == "userbuffers=none"


@pytest.mark.parametrize(("written", "wanted"), [
    ("qkv_fwd", "qkv_fprop"), ("fc1_bwd_w", "fc1_wgrad"), ("proj_bwd_x", "proj_dgrad"), ("fc2_fpropp", "fc2_fprop"), ("x", None),
])  # fmt: skip
def test_a_gemm_under_another_name_is_known_for_what_is_meant(written: str, wanted: str | None) -> None:
    assert meant(written) == wanted


@pytest.mark.parametrize(("entry", "off"), [
    ("proj_fprop={method:pipeline}", "tp_comm_overlap_rs=false"), ("qkv_fprop={method:ring_exchange}", "tp_comm_overlap_ag=false"),
    ("fc1_fprop={method:ring_exchange}", "tp_comm_overlap_disable_fc1=true"), ("fc2_dgrad={method:ring_exchange}", "tp_comm_overlap_ag=false"),
    ("qkv_dgrad={method:bulk}", "tp_comm_bulk_dgrad=false"), ("fc1_wgrad={method:bulk}", "tp_comm_bulk_wgrad=false"),
])  # fmt: skip
def test_an_entry_whose_part_of_the_overlap_is_off_is_a_finding(entry: str, off: str) -> None:
    said = (*LEGAL, f"userbuffers.layers.{entry}")
    assert "UB207" not in remarks(*said)
    assert "UB207" in remarks(*said, f"comm_overlap.tp.{off}")
