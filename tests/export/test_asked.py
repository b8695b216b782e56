"""An export says what was asked and what the plan decides; what a user must choose is a comment."""

import re

import pytest
import yaml

from hydra_overlap.compose.check import check
from hydra_overlap.compose.overrides import asked_keys
from hydra_overlap.export import export
from hydra_overlap.export._base import UPSTREAM_ON, YOURS

PLAN = ("experiment=llama3_70b_64gpu_h100_bf16",)
YOURS_TO_CHOOSE = "# yours to choose; the plan does not say them:"


def exported(target: str, file: str, *overrides: str) -> str:
    resolution = check(overrides, trainer="other").resolution
    assert resolution is not None
    return export(target, resolution, asked=asked_keys(overrides))[file]


def flags(*overrides: str) -> str:
    return exported("megatron-lm", "megatron_lm_flags.txt", *overrides)


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_our_rehearsals_learning_rate_and_steps_are_never_written_on_another_models_plan() -> None:
    text = flags(*PLAN)
    for flag in ("--lr", "--min-lr", "--train-iters", "--lr-warmup-iters", "--seed", "--weight-decay"):
        assert not any(line.startswith(f"{flag} ") for line in said(text))
        assert f"\n#   {flag}\n" in text
    assert "--global-batch-size 256" in said(text) and "--micro-batch-size 1" in said(text)


def test_what_was_asked_is_written_and_no_longer_left_open() -> None:
    text = flags(*PLAN, "optimizer.lr=1e-4", "training={train_iters:5000}")
    assert "--lr 0.0001" in said(text) and "--train-iters 5000" in said(text)
    assert "\n#   --lr\n" not in text and "\n#   --train-iters\n" not in text


def test_an_option_that_was_chosen_counts_as_asked() -> None:
    assert "--train-iters 100" in said(flags("comm_overlap=tp4_h100", "training=short"))
    assert "--train-iters 100" not in said(flags("comm_overlap=tp4_h100"))


def test_nothing_is_switched_off_that_nobody_asked_to_switch_off() -> None:
    off = re.compile(r"--(no|disable)-\S*")
    asked_off = {"--disable-bias-linear"}  # of the model's architecture
    assert {line for line in said(flags(*PLAN)) if off.match(line)} == asked_off
    text = flags(*PLAN, "model.gradient_accumulation_fusion=false")
    assert "--no-gradient-accumulation-fusion" in said(text)


def test_a_switch_that_the_plan_needs_off_is_switched_off() -> None:
    """With fp16 the NaN check would stop the run at the first overflow (DP019)."""
    plan = ("comm_overlap=dp", "parallelism=dp2", "platform=h100", "precision=fp16", "model=llama3_8b")
    assert "--no-check-for-nan-in-loss-and-grad" in said(flags(*plan))
    assert "--no-check-for-nan-in-loss-and-grad" not in said(flags(*plan, "precision=bf16"))


def test_a_file_is_still_nothing_but_flags_without_its_comments() -> None:
    text = flags(*PLAN)
    assert YOURS_TO_CHOOSE in text
    assert all(line.startswith("--") for line in said(text))


def test_sizes_of_the_default_plan_are_named_as_such() -> None:
    note = (
        "Not asked for, so of hydra-overlap's default plan, a tiny model: model.name=tiny training.micro_batch_size=4"
    )
    assert note in flags("comm_overlap=tp4_h100")
    assert "Not asked for" not in flags(*PLAN)


def test_bridge_gets_no_value_that_its_recipe_decides() -> None:
    text = exported("megatron-bridge", "megatron_bridge.yaml", *PLAN)
    found = yaml.safe_load(text)
    assert not {"lr", "min_lr", "weight_decay"} & set(found["optimizer"])
    assert "train_iters" not in found["train"] and "gradient_accumulation_fusion" not in found["model"]
    assert "check_for_nan_in_grad" not in found["ddp"]
    assert not any(name.startswith("moe_") for name in found["model"])
    assert "#   optimizer.lr" in text and "#   model.gradient_accumulation_fusion" in text
    snippet = exported("megatron-bridge", "megatron_bridge_overlap.py", *PLAN)
    compile(snippet, "snippet", "exec")
    assert "config.optimizer.lr =" not in snippet


def test_everything_counts_as_asked_where_nobody_says_what_was() -> None:
    resolution = check(PLAN, trainer="other").resolution
    assert resolution is not None
    assert "--train-iters 100" in export("megatron-lm", resolution)["megatron_lm_flags.txt"]


@pytest.mark.parametrize(("overrides", "keys"), [
    (["optimizer.lr=1"], {"optimizer.lr"}),
    (["++training={seed:3,train_iters:4}"], {"training.seed", "training.train_iters"}),
    (["~training.seed"], set()),
    (["optimizer=adam"], {"optimizer.lr", "optimizer.weight_decay"}),
    (["experiment=llama3_70b_64gpu_h100_bf16"], {"training.global_batch_size", "model.num_layers", "precision.bf16"}),
    (["comm_overlap=tp4_h100"], {"parallelism.tensor_model_parallel_size", "comm_overlap.tp.tp_comm_overlap"}),
])  # fmt: skip
def test_the_fields_that_a_command_line_sets(overrides: list[str], keys: set[str]) -> None:
    found = asked_keys(overrides)
    assert keys <= found
    assert keys or not found
    assert not {*YOURS, *UPSTREAM_ON} & found or any("optimizer" in line or "training" in line for line in overrides)
