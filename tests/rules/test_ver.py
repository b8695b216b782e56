"""VER: which settings and combinations exist in which versions."""

import pytest

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


@pytest.mark.parametrize(("core", "rules"), [("0.18.2", ["VER003"]), ("0.19.0", []), ("0.19.2", []), ("null", [])])
def test_a_choice_needs_a_megatron_core_that_has_it(core: str, rules: list[str]) -> None:
    ncclep = ("model.moe_token_dispatcher_type=flex", "model.moe_flex_dispatcher_backend=ncclep")
    assert [rule for rule in refusing(*MOE, *ncclep, f"{CORE}={core}") if rule.startswith("VER")] == rules


def test_a_choice_of_a_newer_release_is_answered_with_that_release_and_with_the_choices_of_this_one() -> None:
    asked = ("model.moe_token_dispatcher_type=flex", "model.moe_flex_dispatcher_backend=ncclep", f"{CORE}=0.16.1")
    error = next(error for error in errors_of(request_of(*MOE, *asked)) if error.rule == "VER003")
    assert "ncclep exists from 0.19.0 on" in error.why
    assert "in megatron-core 0.16.1 are deepep, hybridep" in error.why
    assert error.fixes[0].override == f"{CORE}=0.19.0"


@pytest.mark.parametrize(("core", "told"), [
    ("0.16.1", "The choices are deepep, hybridep."), ("0.19.2", "The choices are deepep, hybridep, ncclep."),
])  # fmt: skip
def test_a_choice_that_exists_nowhere_is_answered_with_those_of_the_release(core: str, told: str) -> None:
    (error,) = errors_of(request_of("model.moe_flex_dispatcher_backend=deepseek", f"{CORE}={core}"))
    assert (error.rule, error.why) == ("CFG003", told)


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
