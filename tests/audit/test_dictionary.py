"""Userbuffers dictionaries as they are published: read as the programs that they are for read them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from hydra_overlap import GatingError, option_files
from hydra_overlap.audit import UnreadableError, audit
from hydra_overlap.findings import yaml_value
from hydra_overlap.presets import catalogue
from hydra_overlap.resolver.resolve import resolve
from tests.each import each

REFERENCE = Path(__file__).parents[1] / "reference"
PUBLISHED = json.loads((REFERENCE / "userbuffers_presets.json").read_text())["presets"]
REPAIRED = {"mlperf41_gpt3_b200_tp8_mbs1", "mlperf51_llama31_405b_h100_tp4_mbs1"}  # a brace too few, a dollar too many
FLAGS = "--tensor-model-parallel-size {tp} --sequence-parallel --bf16 --tp-comm-overlap --tp-comm-overlap-cfg ub.yaml"


def layers(entry: dict[str, Any]) -> dict[str, Any]:
    """As the file has them; Bridge's class default is no YAML and means false."""
    return {
        gemm: {name: False if value == "tuple-default" else value for name, value in arguments.items()}
        for gemm, arguments in entry["layers"].items()
    }


def shape(option: str) -> list[str]:
    """What it was tuned for, as overrides."""
    plan = catalogue.preset(option).plan()
    keys = {
        "model.hidden_size": plan["model"]["hidden_size"],
        "model.seq_length": plan["model"]["seq_length"],
        "training.micro_batch_size": plan["training"]["micro_batch_size"],
        "parallelism.context_parallel_size": plan["parallelism"]["context_parallel_size"],
        "precision.fp8": plan["precision"]["fp8"],
    }
    return [f"{key}={yaml_value(value)}" for key, value in keys.items()]


def rules(found) -> list[str]:
    return [finding.rule for finding in found.errors]


def tp(option: str) -> int:
    return catalogue.preset(option).plan()["parallelism"]["tensor_model_parallel_size"]


def plain(entry: dict[str, Any], folder: Path):
    """As --tp-comm-overlap-cfg, with the flag that the dictionary needs: the atlas leaves it to be derived."""
    option = entry["options"][0]
    (folder / "ub.yaml").write_text(yaml.safe_dump(layers(entry)))
    derived = "comm_overlap.tp.tp_comm_overlap_rs_dgrad=null"
    return audit(FLAGS.format(tp=tp(option)), [*shape(option), derived], folder=folder)


def nemo(entry: dict[str, Any]):
    option = entry["options"][0]
    model = {
        "tensor_model_parallel_size": tp(option), "sequence_parallel": True, "precision": "bf16",
        "ub_tp_comm_overlap": True, "ub_tp_comm_overlap_cfg": layers(entry),
    }  # fmt: skip
    return audit(yaml.safe_dump({"model": model}), shape(option))


@each("entry", PUBLISHED, ids=lambda entry: entry["options"][0])
def test_a_published_dictionary_is_refused_by_the_rules_that_the_atlas_names(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    atlas = list(catalogue.preset(entry["options"][0]).refusals())
    in_nemo = rules(nemo(entry))
    assert in_nemo == atlas or (entry["options"][0] in REPAIRED and in_nemo == ["UB003"])
    interpolated = "${" in json.dumps(entry["layers"])
    assert rules(plain(entry, tmp_path)) == (["UB003"] if interpolated else []) + atlas


def test_so_many_of_the_76_are_accepted_where_interpolations_mean_something_and_where_they_do_not(
    tmp_path: Path,
) -> None:
    assert Counter(tuple(rules(nemo(entry))) for entry in PUBLISHED) == {
        (): 50, ("UB006",): 17, ("UB008",): 3, ("UB006", "UB008"): 4, ("UB003",): 2,
    }  # fmt: skip
    accepted = [entry for entry in PUBLISHED if plain(entry, tmp_path).verdict == "accepted"]
    assert len(accepted) == 37 and not any("${" in json.dumps(entry["layers"]) for entry in accepted)


def test_0_and_1_are_booleans_and_other_numbers_are_not(tmp_path: Path) -> None:
    (tmp_path / "ub.yaml").write_text("qkv_fprop: {method: ring_exchange, aggregate: 0, set_sm_margin: 1, num_sm: 1}")
    found = audit(FLAGS.format(tp=2), folder=tmp_path)
    assert found.request["userbuffers"]["layers"]["qkv_fprop"] == {
        "method": "ring_exchange", "aggregate": False, "set_sm_margin": True, "num_sm": 1,
    }  # fmt: skip
    (tmp_path / "ub.yaml").write_text("qkv_fprop: {method: ring_exchange, aggregate: 2}")
    assert rules(audit(FLAGS.format(tp=2), folder=tmp_path)) == ["UB003"]


def test_0_is_no_boolean_in_a_request_of_ours() -> None:
    request = {
        "comm_overlap": {"tp": {"tp_comm_overlap": True}},
        "parallelism": {"tensor_model_parallel_size": 2, "sequence_parallel": True, "world_size": 2},
        "userbuffers": {"layers": {"qkv_fprop": {"aggregate": 0}}},
        "precision": {"bf16": True},
        "software": option_files.option("software", option_files.REFERENCE_STACK),
    }
    with pytest.raises(GatingError) as error:
        resolve(request)
    assert [finding.rule for finding in error.value.findings] == ["UB003"]


NEMO = """
model:
  tensor_model_parallel_size: 2
  sequence_parallel: true
  precision: bf16
  ub_tp_comm_overlap: true
  optim: {name: mcore_distributed_optim}
  ub_tp_comm_overlap_cfg:
    proj_fprop:
      method: ${oc.decode:${oc.env:METHOD,pipeline}}
      num_sm: ${oc.decode:${oc.env:PROJ_SM,24}}
      num_splits: ${..fc2_fprop.num_splits}
      fp8_buf: ${oc.decode:${oc.env:FP8_BUF,${oc.env:ALL,0}}}
    fc2_fprop: {method: pipeline, num_splits: 4}
"""


def test_interpolations_in_a_nemo_dictionary_are_their_defaults() -> None:
    found = audit(NEMO, ["platform=h100"])
    assert rules(found) == [], str(found)
    assert found.request["userbuffers"]["layers"]["proj_fprop"] == {
        "method": "pipeline", "num_sm": 24, "num_splits": 4, "fp8_buf": False,
    }  # fmt: skip


def test_a_value_without_a_default_leaves_the_dictionary_undecided() -> None:
    found = audit(NEMO.replace("PROJ_SM,24", "PROJ_SM"))
    assert (found.verdict, found.undecided) == ("undecided", ("userbuffers.layers",))
    assert "proj_fprop.num_sm=${oc.decode:${oc.env:PROJ_SM}}" in str(found)
    assert audit(NEMO.replace("PROJ_SM,24", "PROJ_SM"), ["userbuffers=none"]).verdict == "accepted"


def test_in_the_file_of_megatron_lm_an_interpolation_is_text_and_the_fix_keeps_the_tuned_value(tmp_path: Path) -> None:
    text = "proj_fprop: {method: pipeline, num_sm: '${oc.decode:${oc.env:PROJ_SM,24}}', set_sm_margin: 'true'}\n"
    (tmp_path / "ub.yaml").write_text(text)
    (finding,) = audit(FLAGS.format(tp=2), ["platform=h100"], folder=tmp_path).errors
    assert finding.rule == "UB003" and "yaml.safe_load" in finding.why
    (fix,) = finding.fixes
    assert fix.override == "proj_fprop.num_sm=24 proj_fprop.set_sm_margin=true"
    (tmp_path / "ub.yaml").write_text("proj_fprop: {method: pipeline, num_sm: 24, set_sm_margin: true}\n")
    assert audit(FLAGS.format(tp=2), ["platform=h100"], folder=tmp_path).errors == ()


@pytest.mark.parametrize("text", ["proj_fprop: {num_sm: 1", "a: &a [*a]", "x: !!python/name:os.system", "\xff"])
def test_a_broken_file_is_said_to_be_broken(text: str, tmp_path: Path) -> None:
    (tmp_path / "ub.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UnreadableError, match="YAML"):
        audit(FLAGS.format(tp=2), folder=tmp_path)


@pytest.mark.parametrize(("text", "undecided"), [("7", True), ("[1]", True), ("", False), ("{}", False)])
def test_a_file_that_holds_no_dictionary_is_not_judged_as_one(text: str, undecided: bool, tmp_path: Path) -> None:
    (tmp_path / "ub.yaml").write_text(text)
    assert (audit(FLAGS.format(tp=2), folder=tmp_path).verdict == "undecided") is undecided
