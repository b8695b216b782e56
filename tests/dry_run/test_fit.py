"""A rank fits its GPU only with what is not counted: context, NCCL, workspaces, temporaries, fragmentation."""

from dataclasses import replace

import pytest

from hydra_overlap.dry_run.fit import CONTEXT_BYTES, NCCL_BYTES, WORKSPACE_BYTES, Fit, assumptions, communicators, fit
from hydra_overlap.dry_run.holdings import RankFigures
from tests.plans import plan_of

GIB = 2**30
H100 = ("comm_overlap=tp4_h100", "parallelism.world_size=8")


def rank(counted: float, number: int = 0, stage: int = 0) -> RankFigures:
    """A rank that holds so many GiB."""
    return RankFigures(
        rank=number, stage=stage, chunks=(), data_parallel_size=2, num_microbatches=1, in_flight=(1,),
        weights_bytes=int(counted * GIB), gradients_bytes=0, optimizer_bytes=0, userbuffers_bytes=0, activations_bytes=0,
    )  # fmt: skip


def verdict_on(counted: float) -> Fit:
    return fit(plan_of(*H100).request, [rank(counted)])


@pytest.mark.parametrize(("counted", "verdict"), [
    (10, "fits"), (68.4, "fits"), (73.8, "fits"), (75, "tight"), (77, "tight"), (78, "does not fit"), (79.3, "does not fit"),
    (90, "does not fit"),
])  # fmt: skip
def test_the_verdict_leaves_room_for_what_is_not_counted(counted: float, verdict: str) -> None:
    assert verdict_on(counted).verdict == verdict


def test_the_line_says_what_is_needed_what_is_usable_and_what_is_assumed() -> None:
    assert str(verdict_on(79.3)) == (
        "does not fit: rank 0 (stage 0) needs the most, 84.8 of 79.2 GiB usable, 107%: 79.3 GiB counted and 5.5 GiB assumed "
        "(computed)"
    )
    said = assumptions(verdict_on(79.3))
    for part in (
        "CUDA context",
        "NCCL's buffers",
        "workspaces",
        "fragmentation",
        "1% of the GPU's memory",
        "not measured",
    ):
        assert part in said


def test_the_fullest_rank_decides() -> None:
    found = fit(plan_of(*H100).request, [rank(10), rank(78, 4, 1), rank(60, 5, 2)])
    assert (found.rank, found.stage, found.verdict) == (4, 1, "does not fit")


def test_every_process_group_of_several_ranks_costs_a_communicator() -> None:
    alone = plan_of("comm_overlap=none", "parallelism=tp1", "parallelism.world_size=1", "platform=h100").request
    grid = plan_of("comm_overlap=default", "parallelism=tp2_pp2", "parallelism.world_size=8", "platform=h100").request
    assert (communicators(alone, 1), communicators(grid, 2)) == (0, 3)
    assert fit(alone, [replace(rank(1), data_parallel_size=1)]).fixed == CONTEXT_BYTES + WORKSPACE_BYTES
    assert fit(grid, [rank(1)]).fixed == CONTEXT_BYTES + WORKSPACE_BYTES + 3 * NCCL_BYTES


def test_without_a_gpu_there_is_no_verdict() -> None:
    found = fit(plan_of("comm_overlap=dp", "platform=h100", "platform.memory_gib=null").request, [rank(10)])
    assert found.verdict is None and "platform.memory_gib is not set" in str(found)
