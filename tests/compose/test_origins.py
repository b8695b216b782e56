"""The ledger and every message say where a value came from."""

from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from hydra_overlap.compose import origins
from hydra_overlap.compose.enforce import judged
from tests.compose.commands import Compose, refusal_of

TP = "comm_overlap.tp.tp_comm_overlap"
BUCKET = "comm_overlap.dp.bucket_size"
SIZE = "parallelism.tensor_model_parallel_size"


def origins_of(error: pytest.ExceptionInfo[ConfigCompositionException], rule: str) -> dict[str, str]:
    (finding,) = (finding for finding in refusal_of(error).findings if finding.rule == rule)
    return {place.key: place.origin for place in finding.where}


@pytest.mark.parametrize(
    ("overrides", "key", "origin"),
    [
        (["comm_overlap=tp4_h100"], TP, "comm_overlap/tp/userbuffers.yaml"),
        (["comm_overlap=tp4_h100"], SIZE, "parallelism/tp4.yaml"),
        (["comm_overlap=tp4_h100", "parallelism=tp2", "userbuffers=none"], SIZE, "parallelism/tp2.yaml"),
        (["comm_overlap=tp4_h100", f"{SIZE}=4"], SIZE, "command line"),
        (["comm_overlap=tp4_h100", f"++{SIZE}=4"], SIZE, "command line"),
        ([f"{BUCKET}=5"], BUCKET, "command line"),
        (["comm_overlap.dp={bucket_size:5,overlap_grad_reduce:true}"], BUCKET, "command line"),
        (["comm_overlap={dp:{bucket_size:5}}"], BUCKET, "command line"),
        (["comm_overlap.dp={overlap_grad_reduce:true}"], BUCKET, "comm_overlap/dp/default.yaml"),
        (["comm_overlap/dp=overlap"], "comm_overlap.dp.overlap_grad_reduce", "comm_overlap/dp/overlap.yaml"),
        (["platform=h200"], "platform.name", "platform/h200.yaml"),
        (["gating=bridge"], "gating", "command line"),
        (["comm_overlap=tp4_h100", "++userbuffers.layers.fc1_fprop.num_sm=3"], "userbuffers.layers.fc1_fprop", "command line"),
        (["comm_overlap=tp4_h100"], "userbuffers.layers.proj_fprop",
         "userbuffers/bf16_h100_h8192_tp4_mbs1_seq8192.yaml"),
        ([], "model.rotary_base", "default"),
        ([], "model.hidden_size", "model/tiny.yaml"),
    ],
)  # fmt: skip
def test_the_origin_of_a_value(composed: Compose, overrides: list[str], key: str, origin: str) -> None:
    cfg = composed(*overrides, hydra=True)
    assert origins.of(cfg, cfg.hydra).get(key, "") == origin


def test_values_of_an_experiment_file_are_found(composed: Compose, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wide.yaml").write_text("# @package _global_\ncomm_overlap: {dp: {bucket_size: 7}}\n")
    (tmp_path / "host.yaml").write_text("defaults: [config, _self_]\nparallelism: {world_size: 4}\n")
    cfg = composed("experiment=wide", config_name="host", config_dir=tmp_path, hydra=True, extends=True)
    assert cfg.overlap.origin[BUCKET] == "experiment/wide.yaml"
    assert origins.of(cfg, cfg.hydra).get("parallelism.world_size", "") == "your config"


def test_what_nobody_said_is_the_default(composed: Compose, tmp_path: Path) -> None:
    """In an app without the node, in one whose node means other things, and on a value that no rule can read."""
    (tmp_path / "host.yaml").write_text("ddp: fast\nprecision: {dtype: bf16, fp16: half}\n")
    with pytest.raises(ConfigCompositionException) as error:
        composed("+comm_overlap=tp4_h100", "+overlap/model=llama3_70b", config_name="host", config_dir=tmp_path)
    assert origins_of(error, "TP009") == {TP: "comm_overlap/tp/userbuffers.yaml", "precision.bf16": "default", "precision.fp16": "default"}  # fmt: skip
    with pytest.raises(ConfigCompositionException) as error:
        composed("+comm_overlap=dp", "overlap/parallelism=dp2", config_name="host", config_dir=tmp_path)
    assert origins_of(error, "DP002")["ddp.use_distributed_optimizer"] == "default"


def test_an_entry_made_on_the_command_line_is_the_command_lines(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("comm_overlap=tp4_h100", "+userbuffers.layers.qkv_fprp.num_sm=3")
    assert origins_of(error, "UB002")["userbuffers.layers.qkv_fprp"] == "command line"


def test_a_bundle_of_ones_own_is_named_for_what_it_sets(composed: Compose, tmp_path: Path) -> None:
    (tmp_path / "comm_overlap").mkdir()
    (tmp_path / "comm_overlap" / "mine.yaml").write_text(
        "defaults: [tp4_h100, override dp: none, _self_]\ntp: {tp_comm_overlap_rs_dgrad: false}\n"
    )
    (tmp_path / "host.yaml").write_text("defaults: [config, _self_]\n")
    cfg = composed("comm_overlap=mine", config_name="host", config_dir=tmp_path, extends=True)
    assert cfg.parallelism.tensor_model_parallel_size == 4
    assert cfg.overlap.origin["comm_overlap.tp.tp_comm_overlap_rs_dgrad"] == "comm_overlap/mine.yaml"
    assert cfg.overlap.origin["comm_overlap.dp.overlap_grad_reduce"] == "comm_overlap/dp/none.yaml"


def test_derived_values_name_their_rule(composed: Compose) -> None:
    origin = composed("comm_overlap=tp4_h100").overlap.origin
    assert origin["comm_overlap.tp.tp_comm_overlap_ag"].startswith("derived (TP")
    assert origin["env.CUDA_DEVICE_MAX_CONNECTIONS"].startswith("derived (ENV")


def test_refusals_name_the_file_and_the_command_line(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("comm_overlap=tp4_h100", "parallelism.sequence_parallel=false")
    places = {place.key: place.origin for place in refusal_of(error).findings[0].where}
    assert places[TP] == "comm_overlap/tp/userbuffers.yaml"
    assert places["parallelism.sequence_parallel"] == "command line"


def test_a_saved_config_brings_the_origins_that_were_recorded(composed: Compose) -> None:
    """There is no hydra node left to work them out from."""
    rows = {row.field: row for row in judged(composed("comm_overlap=tp4_h100")).ledger}
    assert rows[TP].origin == "comm_overlap/tp/userbuffers.yaml"
    assert rows["comm_overlap.tp.tp_comm_overlap_ag"].origin == "derived"
