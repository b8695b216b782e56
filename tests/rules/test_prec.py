"""PREC: number formats."""

import pytest

from tests.overrides import refusing

FP8 = ("precision.bf16=true", "precision.fp8=e4m3")
MIXED = "precision.first_last_layers_bf16=true"
TENSORWISE = "precision.fp8_recipe=tensorwise"


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
