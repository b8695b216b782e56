"""The arguments of Transformer Engine's initialize_ub. The call itself needs a GPU."""

from types import SimpleNamespace

import pytest

from hydra_overlap.megatron import userbuffers
from tests.plans import plan_of

MODES = SimpleNamespace(NONE="none", FP8="fp8")
LLAMA = ("comm_overlap=tp4_h100", "model=llama3_70b")


def test_shape_is_tokens_of_a_micro_batch_by_hidden_size():
    arguments = userbuffers.arguments(plan_of(*LLAMA, "training.micro_batch_size=2"), MODES)
    assert arguments["shape"] == [8192 * 2, 8192]
    assert arguments["tp_size"] == 4
    assert arguments["bootstrap_backend"] == "nccl"


def test_context_parallel_ranks_hold_their_part_of_the_tokens():
    model = ("comm_overlap=tp8_h100", "model=llama31_405b", "training=smoke")
    plan = plan_of(*model, "parallelism.context_parallel_size=2")
    assert userbuffers.arguments(plan, MODES)["shape"] == [4096, 16384]


def test_the_dictionary_is_the_composed_preset():
    plan = plan_of(*LLAMA)
    assert userbuffers.arguments(plan, MODES)["ub_cfgs"]["proj_fprop"]["num_sm"] == 24


@pytest.mark.parametrize(
    ("overrides", "modes"),
    [
        ((), ["none"]),
        (("precision=fp8_delayed",), ["fp8"]),
        (("precision=fp8_current",), ["fp8", "none"]),
    ],
    ids=["bf16", "fp8", "fp8 with bf16 layers"],
)
def test_one_set_of_buffers_per_number_format(overrides, modes):
    assert userbuffers.arguments(plan_of(*LLAMA, *overrides), MODES)["quantization_modes"] == modes


def test_a_run_without_transformer_engine_stops_where_tp_overlap_was_promised():
    with pytest.raises(userbuffers.UserbuffersError, match="TP overlap was promised"):
        userbuffers.initialize(plan_of(*LLAMA))


def test_nothing_is_created_where_nothing_was_promised():
    assert userbuffers.initialize(plan_of()) is None
