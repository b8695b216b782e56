"""`userbuffers=auto`: the preset that matches, else the nearest, else Transformer Engine's defaults; always said."""

import copy
from typing import Any

import pytest

from hydra_overlap import resolve
from hydra_overlap.compose.enforce import judged
from hydra_overlap.presets import catalogue
from hydra_overlap.resolver.ledger import LedgerRow
from tests.plans import plan_of

LLAMA = catalogue.preset("bf16_h100_h8192_tp4_mbs1_seq8192")


def request(**changes: Any) -> dict[str, Any]:
    """The plan that preset was tuned for, on its GPU; `node__field=value` changes it."""
    plan = copy.deepcopy({**LLAMA.plan(), "platform": {"name": "h100"}, "userbuffers": {"name": "auto"}})
    for key, value in changes.items():
        node, _, field = key.partition("__")
        plan[node][field] = value
    return plan


def chosen(**changes: Any) -> str:
    choice = catalogue.choose(request(**changes))
    return "none" if choice.preset is None else choice.preset.name


def test_the_preset_of_the_shape_is_taken() -> None:
    assert catalogue.choose(request()) == (LLAMA, f"userbuffers=auto: {LLAMA.name}, tuned for this shape")


def test_else_the_nearest_with_its_distance_and_every_difference() -> None:
    choice = catalogue.choose(request(model__hidden_size=5120, model__seq_length=16384))
    assert choice.preset is not None
    assert choice.preset.tuned_for["tp"] == 4
    assert f"{choice.preset.name}, the nearest, distance 1.7: " in choice.reason
    assert "hidden_size 8192, here 5120; seq_length 8192, here 16384" in choice.reason


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("gpu", ["a100", "h200", "gb300"])
def test_never_one_for_another_tp_size(tp: int, gpu: str) -> None:
    choice = catalogue.choose(request(parallelism__tensor_model_parallel_size=tp, platform__name=gpu))
    assert choice.preset is not None
    assert choice.preset.tuned_for["tp"] == tp


def test_no_preset_for_the_tp_size_means_transformer_engines_defaults() -> None:
    choice = catalogue.choose(request(parallelism__tensor_model_parallel_size=16))
    assert choice == (None, "userbuffers=auto: no preset for TP16, so Transformer Engine's defaults")


@pytest.mark.parametrize(
    "change", [{"comm_overlap__tp": {"tp_comm_overlap": None}}, {"parallelism__tensor_model_parallel_size": 1}]
)
def test_nothing_is_chosen_where_nothing_would_read_it(change: dict[str, Any]) -> None:
    assert chosen(**change) == "none"


def test_a_preset_that_a_rule_refuses_is_passed_over() -> None:
    """The nearest for GPT-3 on Blackwell in FP8 at TP8 and micro-batch 2 would be one with atomic GEMMs or another."""
    for tp in (2, 4, 8):
        for precision in (None, "hybrid"):
            plan = request(
                parallelism__tensor_model_parallel_size=tp,
                precision__fp8=precision,
                model__hidden_size=12288,
                model__seq_length=2048,
            )
            choice = catalogue.choose(plan)
            assert choice.preset is not None
            assert catalogue.refusals({**plan, "userbuffers": choice.preset.node()}) == ()
    passed = catalogue.nearest(catalogue.shape_of(request(model__hidden_size=12288, model__seq_length=2048)))
    assert any(candidate.preset.refusals() for candidate in passed)


# composed


COMPOSED = ("comm_overlap=tp4_h100", "model=llama3_70b", "training.micro_batch_size=1", "userbuffers=auto")


def row_of(*overrides: str) -> LedgerRow:
    ledger = plan_of(*overrides).resolution.ledger
    return next(row for row in ledger if row.field == "userbuffers")


def test_the_ledger_says_what_auto_took_and_the_run_gets_it() -> None:
    plan = plan_of(*COMPOSED)
    assert plan.resolution.userbuffers == LLAMA.layers
    assert plan.request.userbuffers.name == LLAMA.name
    row = row_of(*COMPOSED)
    assert (row.effective, row.origin) == (LLAMA.name, f"userbuffers=auto: {LLAMA.name}, tuned for this shape")


def test_the_ledger_of_bridge_mode_says_it_too() -> None:
    assert row_of(*COMPOSED, "gating=bridge").origin == f"userbuffers=auto: {LLAMA.name}, tuned for this shape"


def test_the_ledger_says_so_where_auto_finds_nothing() -> None:
    row = row_of(*COMPOSED, "platform=gb200", "parallelism.tensor_model_parallel_size=16")
    assert row.effective == "none"
    assert "no preset for TP16" in row.origin


def test_the_ledger_says_what_became_of_a_choice_that_nothing_reads_or_that_was_changed() -> None:
    row = row_of("userbuffers=auto")
    assert (row.asked, row.effective) == ("auto", None)
    assert "nothing to choose" in row.origin
    preset = "userbuffers/bf16_h100_h8192_tp4_mbs1_seq8192.yaml"
    assert row_of("comm_overlap=tp4_h100").origin == preset
    changed = row_of("comm_overlap=tp4_h100", "userbuffers.layers.qkv_fprop.num_sm=2")
    assert changed.origin == f"{preset}, except qkv_fprop"
    empty = row_of("comm_overlap=tp4_h100", "userbuffers=none", "userbuffers.name=mine")
    assert (empty.asked, empty.effective) == ("mine", "none")


def test_the_composed_config_shows_the_values_and_is_judged_alike_in_the_job() -> None:
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = compose("config", [*COMPOSED, "+userbuffers.layers.proj_fprop.num_sm=8"])
    assert cfg.overlap.effective.userbuffers.proj_fprop.num_sm == 8
    assert cfg.overlap.effective.userbuffers.fc2_fprop.num_sm == LLAMA.layers["fc2_fprop"]["num_sm"]
    answer = judged(cfg).userbuffers
    assert answer is not None and answer["proj_fprop"]["num_sm"] == 8


def test_choosing_leaves_the_catalogue_as_it_was() -> None:
    node = LLAMA.node()
    node["layers"]["proj_fprop"]["num_sm"] = 1
    assert LLAMA.layers["proj_fprop"]["num_sm"] == 24
    assert resolve(LLAMA.plan()).userbuffers == LLAMA.layers
