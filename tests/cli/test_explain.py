"""`hydra-overlap explain` of every kind of word that the product has."""

import json

import pytest
from click.testing import CliRunner

from hydra_overlap import option_files
from hydra_overlap.cli import main
from hydra_overlap.reference import flags, option_pages, variable_pages
from hydra_overlap.reference.explain import UnknownError, explain
from hydra_overlap.reference.page import Page
from hydra_overlap.rules.env import RECORDS, launch_environment
from hydra_overlap.schema.fields import FIELDS
from hydra_overlap.schema.nicknames import SHORT
from tests.each import each


def page(name: str) -> Page:
    found = explain(name)
    assert str(found).startswith(f"{found.name}  ") and found.blocks
    json.dumps(found.to_dict())
    return found


@pytest.mark.parametrize(("word", "kind", "name"), [
    ("tp002", "rule", "TP002"), ("TP105", "derivation", "TP105"), ("model.hidden_size", "field", "model.hidden_size"),
    ("bucket_size", "field", "comm_overlap.dp.bucket_size"), ("sequence-parallel", "field", "parallelism.sequence_parallel"),
    ("seed", "field", "training.seed"), ("seed=3", "field", "training.seed"), ("VPP", "field", "parallelism.virtual_pipeline_model_parallel_size"),
    ("--tp-comm-overlap", "flag", "--tp-comm-overlap"), ("--tensor-model-parallel-size=4", "flag", "--tensor-model-parallel-size"),
    ("CUDA_DEVICE_MAX_CONNECTIONS", "variable", "CUDA_DEVICE_MAX_CONNECTIONS"), ("NCCL_P2P_DISABLE=1", "variable", "NCCL_P2P_DISABLE"),
    ("tp4_h100", "option", "comm_overlap=tp4_h100"), ("TP4-H100", "option", "comm_overlap=tp4_h100"),
    ("+comm_overlap=tp4_h100", "option", "comm_overlap=tp4_h100"), ("overlap/parallelism=tp4", "option", "parallelism=tp4"),
    ("bf16_h100_h8192_tp4_mbs1_seq8192", "option", "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192"),
    ("llama3_70b_64gpu_h100_bf16", "option", "experiment=llama3_70b_64gpu_h100_bf16"),
    ("userbuffers", "names", "userbuffers"), ("presets", "group", "userbuffers"), ("experiment", "group", "experiment"),
    ("comm_overlap/dp", "group", "comm_overlap/dp"), ("tp", "names", "tp"), ("none", "names", "none"),
])  # fmt: skip
def test_a_word_has_the_page_of_what_bears_it(word: str, kind: str, name: str) -> None:
    found = page(word)
    assert (found.kind, found.name) == (kind, name), str(found)


def test_a_word_of_several_things_lists_names_that_mean_one_each() -> None:
    for word in ("tp", "none", "userbuffers", "use_distributed_optimizer", "default"):
        names = page(word).data["names"]
        assert len(names) > 1
        for name in names:
            single = page(name)
            assert single.name == name or single.kind == "names", name


def test_a_bundle_says_what_it_chooses_and_a_preset_what_it_sets() -> None:
    bundle, preset = str(page("tp4_h100")), str(page("mlperf41_gpt3_h100_tp4_mbs2"))
    for choice in (
        "comm_overlap/tp=userbuffers",
        "parallelism=tp4",
        "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192",
        "platform=h100",
    ):
        assert f"\n  {choice}\n" in bundle
    assert "hydra-overlap check comm_overlap=tp4_h100" in bundle
    assert (
        "\n  userbuffers.tuned_for.tp=4\n" in preset
        and "\n  userbuffers.layers.qkv_fprop={method:ring_exchange," in preset
    )
    assert "refused, even on the shape it was tuned for, by\n  UB006\n" in preset


def test_a_flag_says_what_to_type_here() -> None:
    assert "\nhere\n  comm_overlap.tp.tp_comm_overlap_ag=false\n" in str(page("--disable-tp-comm-overlap-ag"))
    assert "\nhere\n  parallelism.tensor_model_parallel_size=4\n" in str(page("--tensor-model-parallel-size"))


@each("group", option_pages.GROUPS)
def test_every_group_and_every_option_has_its_page(group: str) -> None:
    assert page(f"{group}=none" if group == "none" else group).kind in ("group", "names")
    for name in option_files.options(group):
        found = page(f"{group}={name}")
        assert found.kind == "option" and found.title, name


def test_every_variable_that_a_plan_can_set_has_a_page_that_says_to_what() -> None:
    said = {one.rule for plan in variable_pages.PLANS for one in launch_environment(variable_pages._flat(plan))}
    assert said == set(RECORDS)
    for name in variable_pages.names():
        assert page(name).kind == "variable"


def test_every_flag_that_decides_a_field_has_a_page_and_every_short_name_a_field() -> None:
    told = [flag for row in flags.rows() for flag in row["flags"] if flags.keys_of(flag)]
    assert len(told) > 80
    for flag in told:
        assert set(page(flag).data["fields"]) <= set(FIELDS)
    assert set(SHORT.values()) <= set(FIELDS)


@pytest.mark.parametrize(("word", "hint"), [
    ("TP00", "TP001"), ("comm_overlap.dp.bucket_sise", "comm_overlap.dp.bucket_size"), ("tp4_h10", "comm_overlap=tp4_h100"),
    ("experiment=llama3_8b", "experiment=llama3_8b_8gpu_b200_bf16"), ("--no-such-flag", ""), ("zzz", ""),
])  # fmt: skip
def test_what_nothing_bears_is_answered_with_what_is_near(word: str, hint: str) -> None:
    with pytest.raises(UnknownError) as error:
        explain(word)
    assert f"Did you mean {hint}" in str(error.value) if hint else "Did you mean" not in str(error.value)


def test_the_command_takes_a_flag_as_a_word() -> None:
    done = CliRunner().invoke(main, ["explain", "--tp-comm-overlap"])
    assert done.exit_code == 0 and "comm_overlap.tp.tp_comm_overlap=true" in done.output
