"""PREC: number formats."""

import pytest

from hydra_overlap.rules import prec
from hydra_overlap.schema.keys import FP8_RECIPE
from tests.overrides import errors_of, refusing, remarks, request_of

FP8 = ("precision.bf16=true", "precision.fp8=e4m3")
MIXED = "precision.first_last_layers_bf16=true"
TENSORWISE = "precision.fp8_recipe=tensorwise"
OFF = prec.OFF.override


@pytest.mark.parametrize(("recipe", "rules"), [
    ("delayed", ["PREC001"]), ("null", ["PREC001"]), ("tensorwise", []), ("blockwise", []), ("mxfp8", []),
])  # fmt: skip
def test_refuses_bf16_layers_beside_delayed_scaling(recipe: str, rules: list[str]) -> None:
    assert refusing(*FP8, MIXED, f"precision.fp8_recipe={recipe}") == rules
    assert refusing(*FP8, f"precision.fp8_recipe={recipe}") == []
    assert refusing(MIXED, f"precision.fp8_recipe={recipe}") == []  # no FP8


@pytest.mark.parametrize(("start", "end", "rules"), [
    (1, 1, []), (0, 2, []), (2, 2, []), (3, 0, ["PREC002"]), (0, 3, ["PREC002"]), (-1, 0, ["PREC002"]),
])  # fmt: skip
def test_refuses_more_bf16_layers_than_a_stage_has(start: int, end: int, rules: list[str]) -> None:
    counts = (f"precision.num_layers_at_start_in_bf16={start}", f"precision.num_layers_at_end_in_bf16={end}")
    stages = ("model.num_layers=4", "parallelism.pipeline_model_parallel_size=2")
    assert refusing(*FP8, MIXED, TENSORWISE, *counts, *stages) == rules
    assert refusing(*FP8, TENSORWISE, *counts, *stages) == []


SHARDED = ("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
GATHER = (*FP8, *SHARDED, "precision.fp8_param_gather=true")
REUSE = ("ddp.reuse_grad_buf_for_mxfp8_param_ag=true", "optimizer.reuse_grad_buf_for_mxfp8_param_ag=true")


def test_refuses_a_gather_of_mxfp8_parameters_that_has_no_buffer() -> None:
    mxfp8 = (*GATHER, "precision.fp8_recipe=mxfp8")
    assert refusing(*mxfp8) == ["PREC003"]
    assert refusing(*mxfp8, REUSE[0]) == ["PREC003"]
    assert refusing(*mxfp8, *REUSE) == []
    assert "PREC003" not in refusing(*mxfp8, "ddp.use_megatron_fsdp=true")
    assert refusing(*GATHER, TENSORWISE) == []


def test_refuses_to_reuse_the_gradient_buffer_for_anything_else() -> None:
    assert refusing(*GATHER, TENSORWISE, *REUSE) == ["PREC004"]
    assert refusing(REUSE[0]) == ["PREC004"]
    assert refusing(REUSE[1]) == ["PREC004"]
    assert refusing(*FP8, "precision.fp8_recipe=mxfp8", *REUSE) == ["PREC004"]


def test_refuses_the_gradient_buffer_under_megatron_fsdp() -> None:
    mxfp8 = (*GATHER, "precision.fp8_recipe=mxfp8", "ddp.use_megatron_fsdp=true")
    assert "PREC005" in refusing(*mxfp8, *REUSE)
    assert "PREC005" not in refusing(*mxfp8)


@pytest.mark.parametrize(("recipe", "runs_on"), [
    ("null", (89, 90, 100, 103, 120)), ("delayed", (89, 90, 100, 103, 120)), ("tensorwise", (89, 90, 100, 103, 120)),
    ("blockwise", (90, 100, 103, 120)), ("mxfp8", (100, 103)),
])  # fmt: skip
def test_refuses_a_recipe_that_the_gpu_cannot_run(recipe: str, runs_on: tuple[int, ...]) -> None:
    asked = (*FP8, f"precision.fp8_recipe={recipe}", "software.transformer_engine=2.11.0")
    refused = [sm for sm in (80, 89, 90, 100, 103, 120) if "PREC006" in refusing(*asked, f"platform.sm={sm}")]
    assert refused == [sm for sm in (80, 89, 90, 100, 103, 120) if sm not in runs_on]


@pytest.mark.parametrize(("version", "rules"), [("2.8.0", ["PREC006"]), ("2.9.0", []), ("2.20.2", []), ("null", [])])
def test_blackwell_emulates_blockwise_scaling_from_transformer_engine_29_on(version: str, rules: list[str]) -> None:
    blockwise = (*FP8, "precision.fp8_recipe=blockwise", f"software.transformer_engine={version}")
    assert refusing(*blockwise, "platform.sm=100") == rules
    assert refusing(*blockwise, "platform.sm=90") == []


TE211 = "software.transformer_engine=2.11.0"


def test_without_fp8_or_without_a_gpu_nothing_is_held_against_it() -> None:
    assert refusing("precision.fp8_recipe=mxfp8", "platform.sm=80") == []
    assert refusing(*FP8, "precision.fp8_recipe=mxfp8", "platform=cpu") == []


@pytest.mark.parametrize(("sm", "recipe", "fixes"), [
    (80, "delayed", ["platform=h100", OFF]), (90, "mxfp8", [f"{FP8_RECIPE}=tensorwise", "platform=b200", OFF]),
    (120, "mxfp8", [f"{FP8_RECIPE}=tensorwise", "platform=b200", OFF]), (89, "blockwise", [f"{FP8_RECIPE}=tensorwise", "platform=h100", OFF]),
])  # fmt: skip
def test_fixes_name_a_recipe_for_this_gpu_and_a_gpu_for_this_recipe(sm: int, recipe: str, fixes: list[str]) -> None:
    (error,) = errors_of(request_of(*FP8, TE211, f"{FP8_RECIPE}={recipe}", f"platform.sm={sm}"))
    assert [fix.override for fix in error.fixes] == fixes


def test_a_note_says_that_blockwise_scaling_is_emulated() -> None:
    blockwise = (*FP8, TE211, "precision.fp8_recipe=blockwise")
    assert "PREC201" in remarks(*blockwise, "platform=b200")
    assert "PREC201" not in remarks(*blockwise, "platform=h100")
    assert "PREC201" not in remarks(*FP8, TE211, "precision.fp8_recipe=mxfp8", "platform=b200")


def test_refuses_fp8_on_a_gpu_without_transformer_engine_where_megatron_core_would_run_bf16() -> None:
    assert refusing(*FP8, "platform=h100") == ["PREC010"]
    assert refusing(*FP8, TE211, "platform=h100") == refusing(*FP8, "platform=cpu") == []
    assert refusing("precision.bf16=true", "platform=h100") == []


FP4 = ("precision.fp4=e2m1", "precision.bf16=true")


@pytest.mark.parametrize(("said", "rules"), [
    (("platform.sm=100", "software.transformer_engine=2.11.0"), []),
    (("platform.sm=100", "software.transformer_engine=2.6.0"), ["PREC009"]),
    (("platform.sm=90", "software.transformer_engine=2.11.0"), ["PREC009"]),
    (("platform.sm=120", "software.transformer_engine=2.20.2"), []),
    ((), []),
])  # fmt: skip
def test_nvfp4_needs_blackwell_and_a_transformer_engine_that_has_it(said: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*FP4, *said) == rules


def test_fp4_goes_with_bf16_in_the_first_and_last_layers() -> None:
    assert refusing(*FP4, "precision.first_last_layers_bf16=true", "precision.num_layers_at_end_in_bf16=14") == []


@pytest.mark.parametrize(("core", "rules"), [("0.16.1", ["VER001"]), ("0.17.0", ["VER001"]), ("0.17.1", [])])
def test_parameters_are_gathered_in_fp4_since_0_17_1(core: str, rules: list[str]) -> None:
    gathered = (
        "precision.fp4_param_gather=true",
        *prec.SHARDED,
        "parallelism.world_size=2",
        f"software.megatron_core={core}",
    )
    assert refusing(*FP4, *gathered) == rules
