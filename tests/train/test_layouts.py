"""The same weights and the same data in every layout, with overlap on and off: the losses agree.

Real megatron-core on gloo, fp32, so that only the order of sums differs. Tolerance: relative 2e-6, some twenty times the
spacing of fp32; what was seen is 1e-7 (docs/rehearsal.md).
"""

import pytest

TOLERANCE = 2e-6
STEPS = 6
RUN = ("precision=fp32", f"training.train_iters={STEPS}")
MOE = (
    "model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall", "model.moe_ffn_hidden_size=128",
    "model.num_layers=2", "precision=bf16",
)  # fmt: skip

LAYOUTS = {
    "dp2": ("parallelism=dp2",),
    "dp2, no overlap": ("parallelism=dp2", "comm_overlap=none"),
    "tp2, sequence parallel": ("parallelism=tp2",),
    "pp2, 1F1B": ("parallelism=pp2",),
    "pp2 vpp2, interleaved, p2p overlapped": ("comm_overlap=pp_interleaved",),
    "pp2 vpp2, no overlap": ("comm_overlap=pp_interleaved", "comm_overlap/pp=none"),
    "pp2 vpp2, layers as a layout says": ("parallelism=pp2", "model.pipeline_model_parallel_layout='Et|tt|t|L'"),
    "dp2, replicated optimizer": ("ddp=replicated", "optimizer=adam_replicated"),
    "dp2 pp2 vpp2, gathers aligned": ("parallelism=pp2_vpp2_dp2",),
}
FAST = ("dp2", "tp2, sequence parallel", "pp2 vpp2, interleaved, p2p overlapped")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Losses of one rank: nothing is communicated, nothing overlaps."""
    return {}


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(overrides, marks=[] if name in FAST else pytest.mark.slow) for name, overrides in LAYOUTS.items()],
    ids=LAYOUTS.keys(),
)
@pytest.mark.xdist_group("layouts")
def test_losses_equal_those_of_one_rank(train, one_rank, overrides):
    if not one_rank:
        one_rank["losses"] = train("parallelism=tp1", *RUN).losses
    run = train(*overrides, *RUN)
    assert run.code == 0, run.output
    assert run.losses == pytest.approx(one_rank["losses"], rel=TOLERANCE)
    assert len(run.losses) == STEPS


@pytest.mark.slow
def test_losses_of_a_mixture_of_experts_agree_with_all_to_all_overlap_on_and_off(train):
    off = train("parallelism=ep2", "comm_overlap/ep=none", *RUN, *MOE).losses
    on = train("parallelism=ep2", "comm_overlap/ep=a2a", *RUN, *MOE, "software=reference")
    assert on.code == 0, on.output
    assert on.losses == pytest.approx(off, rel=1e-3)  # bf16, which the overlap needs
