"""Flags of pretrain_gpt.py: taken by its parser's recorded table, complete, and refused where there is no word."""

import argparse

import pytest
import yaml

from hydra_overlap import resolve
from hydra_overlap.export import ExportError, export
from hydra_overlap.export._base import UNSAID, effective
from hydra_overlap.export.megatron_lm import BASES, RENAMED, TRANSLATED, arguments, destination, flags
from hydra_overlap.export.megatron_lm_parser import by_dest, parser, rows
from hydra_overlap.schema.fields import FIELDS
from tests.overrides import request_of
from tests.strategies import SCENARIOS, nest

GPU = "platform=h100"
TP4 = (
    GPU, "parallelism=tp4", "comm_overlap.tp.tp_comm_overlap=true", "software=reference", "precision=bf16",
    "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192",
)  # fmt: skip
PP4 = (GPU, "parallelism.pipeline_model_parallel_size=4", "software=reference", "model.num_layers=8")
WORDLESS = {  # fields without a flag whose default says what Megatron-LM does
    "model.overlap_dispatch_backward_with_experts_wgrad",
}


def plan(*overrides: str):
    return resolve(request_of(*overrides))


def parsed(resolution) -> argparse.Namespace:
    return parser().parse_args(" ".join(flag for _, flag in flags(resolution)).split())


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_flag_is_one_its_parser_takes_with_the_value_of_the_plan(name: str) -> None:
    resolution = resolve(nest(SCENARIOS[name]))
    values, problems = arguments(effective(resolution))
    assert problems == []
    namespace = parsed(resolution)
    assert {dest: getattr(namespace, dest) for dest in values} == values


def test_flags_come_one_a_line_in_the_order_of_megatrons_groups() -> None:
    order = list(dict.fromkeys(row["group"] for row in rows()))
    places = [order.index(group) for group, _ in flags(plan(*TP4))]
    assert places == sorted(places) and len(set(places)) > 4


def test_the_same_plan_gives_the_same_text() -> None:
    assert export("megatron-lm", plan(*TP4), "x") == export("megatron-lm", plan(*TP4), "x")


def test_negative_flags_say_what_a_positive_default_would_not() -> None:
    text = export("megatron-lm", plan(*TP4, "comm_overlap.tp.tp_comm_bulk_dgrad=false"))["megatron_lm_flags.txt"]
    assert "\n--no-tp-comm-bulk-dgrad\n" in text
    assert "tp-comm-bulk-wgrad" not in text


def test_the_dictionary_goes_into_the_file_that_the_flag_names() -> None:
    files = export("megatron-lm", plan(*TP4))
    assert "--tp-comm-overlap-cfg tp_comm_overlap_cfg.yaml" in files["megatron_lm_flags.txt"]
    assert yaml.safe_load(files["tp_comm_overlap_cfg.yaml"]) == plan(*TP4).userbuffers
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in files["env.sh"]


def test_the_header_names_versions_command_and_what_no_flag_says() -> None:
    head = export("megatron-lm", plan(*TP4), "hydra-overlap export megatron-lm x=1")["megatron_lm_flags.txt"][:900]
    assert "core_v0.16.1" in head and "hydra-overlap 0." in head
    assert "# command: hydra-overlap export megatron-lm x=1" in head
    assert "parallelism.world_size=4" in head and "platform.name=h100" in head


def test_a_gather_with_the_optimizer_step_gets_the_checkpoint_format_it_needs() -> None:
    assert parsed(resolve(nest(SCENARIOS["interleaved"]))).ckpt_format == "torch"


def test_without_transformer_engine_the_local_layers_are_named() -> None:
    assert parsed(plan(GPU, "software.transformer_engine=null")).transformer_impl == "local"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((*TP4, "comm_overlap.tp.tp_comm_overlap_disable_qkv=true"), "comm_overlap.tp.tp_comm_overlap_disable_qkv"),
        ((*PP4, "comm_overlap.pp.batch_p2p_comm=false"), "comm_overlap.pp.batch_p2p_comm"),
        ((*PP4, "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
          "comm_overlap.pp.overlap_p2p_comm=false"), "comm_overlap.pp.overlap_p2p_comm"),
        ((GPU, "model.variable_seq_lengths=true"), "model.variable_seq_lengths"),
        ((GPU, "model.activation_func=gelu"), "model.gated_linear_unit"),
        ((GPU, "launch.vboost=true"), "launch.vboost"),
        (("platform=cpu",), "platform.name"),
        ((GPU, "optimizer.lr=1e-5"), "optimizer.lr"),
        ((GPU, "optimizer.lr_warmup_iters=100"), "optimizer.lr_warmup_iters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_no_flag_says_is_refused_with_the_field_and_a_way_out(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ExportError) as error:
        export("megatron-lm", plan(*overrides))
    finding = next(finding for finding in error.value.findings if finding.where[0].key == key)
    assert finding.fixes
    changed = resolve(request_of(*overrides, *(token for token in finding.fixes[0].override.split())))
    still = arguments(effective(changed))[1]
    assert key not in [problem.where[0].key for problem in still]


def test_every_field_has_a_flag_a_translation_or_a_reason_to_have_none() -> None:
    """A field added to the schema fails here until export/megatron_lm.py says what becomes of it."""
    silent = [
        key
        for key in FIELDS
        if destination(key) is None and key not in (*TRANSLATED, *BASES, *WORDLESS) and not key.startswith(UNSAID)
    ]
    assert silent == [], (
        "no flag at core_v0.16.1: refused at any value but the default; add to WORDLESS if that is right"
    )


def test_renamed_fields_name_flags_that_exist() -> None:
    assert set(RENAMED.values()) <= set(by_dest())


def test_a_plan_whose_outputs_megatron_lm_frees_carries_what_is_known_of_that() -> None:
    asked = (*PP4, "parallelism.virtual_pipeline_model_parallel_size=2")
    (text, *_) = export("megatron-lm", plan(*asked, "software.megatron_core=0.16.1")).values()
    assert "# warning ADV002, as Megatron-LM always sets model.deallocate_pipeline_outputs" in text
    (text, *_) = export("megatron-lm", plan(*asked, "software.megatron_core=0.18.0")).values()
    assert "ADV002" not in text
