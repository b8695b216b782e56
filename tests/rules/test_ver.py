"""VER: which settings and combinations exist in which versions."""

import json
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import pytest

from hydra_overlap.megatron import configs
from hydra_overlap.schema.fields import FIELDS, SINCE
from hydra_overlap.schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS
from tests.each import each
from tests.overrides import errors_of, refusing, remarks, request_of
from tests.rules import core_fields

CORE = "software.megatron_core"
TE = "software.transformer_engine"
MOE = (
    "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "precision.bf16=true",
    "software.torch=2.11.0", f"{TE}=2.12.0",
)  # fmt: skip
FLEX = ("model.moe_token_dispatcher_type=flex", "model.moe_flex_dispatcher_backend=deepep")


@pytest.mark.parametrize(("core", "rules"), [("0.15.3", ["VER001"]), ("0.16.0", []), ("null", [])])
def test_a_flex_backend_needs_a_megatron_core_that_has_the_field(core: str, rules: list[str]) -> None:
    assert refusing(*MOE, *FLEX, f"{CORE}={core}") == rules


def test_a_setting_left_at_its_default_is_not_asked_for() -> None:
    assert refusing(*MOE, f"{CORE}=0.15.3", "model.ep_overlap_early_attn_memory_release=false") == []


def test_all_settings_that_are_too_new_are_named_at_once() -> None:
    asked = ("model.overlap_dispatch_backward_with_experts_wgrad=true", "model.moe_grouped_gemm=true")
    (error,) = errors_of(request_of(*MOE, *FLEX, *asked, f"{CORE}=0.15.3"))
    assert {place.key for place in error.where} == {
        CORE, "model.overlap_dispatch_backward_with_experts_wgrad", "model.moe_flex_dispatcher_backend",
    }  # fmt: skip
    assert error.fixes[0].override == f"{CORE}=0.18.0"


@pytest.mark.parametrize(("setting", "off"), [
    ("ddp.reduce_scatter_with_fp32_accumulation=true", "false"), ("ddp.fsdp_manual_registration=true", "false"),
    ("model.cuda_graph_scope=[attn]", "[]"),
])  # fmt: skip
def test_settings_of_every_configuration_class_are_looked_up(setting: str, off: str) -> None:
    key = setting.partition("=")[0]
    refusal = next(e for e in errors_of(request_of(setting, f"{CORE}=0.15.3")) if e.rule == "VER001")
    assert [fix.override for fix in refusal.fixes] == [f"{CORE}=0.16.0", f"{key}={off}"]
    assert "VER001" not in refusing(setting, f"{CORE}=0.16.0")


# what every release has, read from its wheel

RECORDED = json.loads(core_fields.FILE.read_text())
SET = {
    "TransformerConfig": TRANSFORMER_FIELDS,
    "DistributedDataParallelConfig": DDP_FIELDS,
    "OptimizerConfig": OPTIMIZER_FIELDS,
}
OURS = {"model": "TransformerConfig", "ddp": "DistributedDataParallelConfig", "optimizer": "OptimizerConfig"}


def settings() -> Iterator[tuple[str, str, str]]:
    """(our key, class, field) of everything in a request that becomes a field of a megatron-core object."""
    for name, fields in SET.items():
        yield from ((key, name, field) for field, key in fields.items())
    for key in FIELDS:
        node, _, field = key.partition(".")
        if node in OURS and field not in configs._READ_HERE[node]:
            yield key, OURS[node], field
    yield from ((f"parallelism.{field}", "TransformerConfig", field) for field in configs._LAYOUT)
    yield from ((f"precision.{field}", "TransformerConfig", field) for field in configs._PRECISION)
    for field in ("grad_reduce_in_fp32", "fp8_param_gather"):
        yield f"precision.{field}", "DistributedDataParallelConfig", field


def takes(key: str, name: str, field: str, version: str) -> bool:
    """Whether a release has the field, as a list where ours is one."""
    annotation = core_fields.at(RECORDED["fields"], version)[name].get(field)
    return annotation is not None and (FIELDS[key].kind is not list or "list" in annotation.lower())


@each("key, name, field", list(settings()))
def test_a_setting_is_as_new_as_the_wheels_say_and_none_was_removed(key: str, name: str, field: str) -> None:
    taken = [version for version in RECORDED["versions"] if takes(key, name, field, version)]
    assert taken == RECORDED["versions"][-len(taken) :]
    assert SINCE.get(key, RECORDED["versions"][0]) == taken[0]


def test_every_setting_that_is_new_goes_to_megatron_core() -> None:
    assert set(SINCE) <= {key for key, _, _ in settings()}


def test_the_record_of_fields_is_what_the_installed_release_has() -> None:
    found = util.find_spec("megatron")
    if found is None or metadata.version("megatron-core") not in RECORDED["versions"]:
        pytest.skip("no megatron-core of a recorded version is installed")
    root = Path(next(iter(found.submodule_search_locations or ()))).parent
    texts = {path: (root / path).read_text() for paths in core_fields.SOURCES.values() for path in paths}
    installed = core_fields.fields(texts)
    assert installed == core_fields.at(RECORDED["fields"], metadata.version("megatron-core"))


@pytest.mark.parametrize(("core", "te", "sm", "rules"), [
    ("0.16.1", "null", "90", ["VER002"]), ("0.16.1", "2.11.0", "90", []), ("0.17.1", "null", "90", []),
    ("0.16.1", "null", "null", []), ("null", "null", "90", []),
])  # fmt: skip
def test_experts_on_a_gpu_need_transformer_engine_before_megatron_core_017(
    core: str, te: str, sm: str, rules: list[str]
) -> None:
    assert refusing("model.num_moe_experts=4", f"{CORE}={core}", f"{TE}={te}", f"platform.sm={sm}") == rules


@pytest.mark.parametrize(("core", "noted"), [
    ("0.14.1", True), ("0.15.0", False), ("0.19.0", False), ("0.19.3", False), ("0.20.0", True), ("null", False),
])  # fmt: skip
def test_a_note_says_that_a_megatron_core_is_outside_the_range(core: str, noted: bool) -> None:
    assert remarks(f"{CORE}={core}") == ["VER201"] * noted


@pytest.mark.parametrize(("te", "noted"), [
    ("2.7.0", True), ("2.8.0", False), ("2.11.0+c188b53", False), ("2.20.1", False), ("2.21.0", True), ("null", False),
])  # fmt: skip
def test_a_note_says_that_a_transformer_engine_is_outside_the_range(te: str, noted: bool) -> None:
    assert remarks(f"{TE}={te}") == ["VER202"] * noted
