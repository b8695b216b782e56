"""VER: which settings and combinations exist in which versions."""

from dataclasses import fields
from importlib import metadata

import pytest
from packaging.version import Version

from hydra_overlap.rules.ver import SINCE
from tests.overrides import errors_of, refusing, remarks, request_of

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
    assert {place.key for place in error.where} == {CORE, *(key for key in SINCE if "early" not in key)}
    assert error.fixes[0].override == f"{CORE}=0.18.0"


def test_the_installed_megatron_core_has_the_fields_we_say_it_has() -> None:
    config = pytest.importorskip("megatron.core.transformer.transformer_config")
    installed = Version(metadata.version("megatron-core"))
    known = {field.name for field in fields(config.TransformerConfig)}
    for key, since in SINCE.items():
        assert (key.rpartition(".")[2] in known) is (installed >= Version(since)), key


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
