"""What is hidden, exposed and blocking: by hand, by a timeline of single nanoseconds, and in the traps that traces hold."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydra_overlap.trace.events import TraceError, read
from hydra_overlap.trace.meter import ALL, Figures, Measured, measure

from .traces import GEMM, NCCL, collective, copy, gpu, step, write

US = 1000  # nanoseconds


def measured(folder: Path, *events: dict[str, Any]) -> Measured:
    return measure(read(write(folder / "trace.json", *events)))


def figures(folder: Path, name: str, *events: dict[str, Any]) -> Figures:
    return measured(folder, *events).total(name)


def test_userbuffers_copies_and_deepep_are_communication_and_hide_none(tmp_path: Path) -> None:
    """2,600 us of communication, 500 of them hidden, 19 %. Meters that know NCCL alone call it 100 % hidden."""
    found = figures(
        tmp_path, ALL,
        gpu(NCCL, 0, 1000, stream=20), gpu("void deep_ep::intranode::dispatch<8>(int)", 0, 300, stream=21),
        copy("DtoD", 1000, 1500, stream=22), gpu("kuserbuffers_pushrecv(int)", 1500, 1800, stream=22),
        gpu("void deep_ep::intranode::combine<8>(int)", 1800, 2600, stream=21), gpu(GEMM, 1200, 1700), gpu(GEMM, 2600, 2700),
    )  # fmt: skip
    assert found.volume == 2600 * US and found.exposed == 2100 * US
    assert found.hidden == pytest.approx(0.19, abs=0.003)
    assert found.waiting == 300 * US


def test_blocking_is_what_compute_waited_for(tmp_path: Path) -> None:
    waits = [gpu(GEMM, 0, 10), gpu(NCCL, 5, 30, stream=20), gpu(GEMM, 31, 40)]
    goes_on = [gpu(GEMM, 0, 10), gpu(NCCL, 5, 30, stream=20), gpu(GEMM, 20, 40)]
    last = [gpu(GEMM, 0, 10), gpu(NCCL, 5, 30, stream=20)]
    assert [figures(tmp_path, ALL, *one).exposed for one in (waits, goes_on, last)] == [20 * US, 10 * US, 20 * US]
    assert [figures(tmp_path, ALL, *one).blocking for one in (waits, goes_on, last)] == [20 * US, 0, 0]


def test_two_kernels_of_one_collective_are_one_call_of_its_bytes(tmp_path: Path) -> None:
    said = collective(5, "_allgather_base", "DATA_PARALLEL_GROUP_WITH_CP", sent=100, received=200)
    found = figures(tmp_path, "DP gather", said, gpu(NCCL, 0, 10, external=5), gpu(NCCL, 10, 20, external=5))
    assert (found.calls, found.bytes, found.volume) == (1, 400, 20 * US)


def test_half_of_the_transfers_between_two_stages_run_in_the_default_group(tmp_path: Path) -> None:
    send = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
    found = measured(
        tmp_path, collective(1, "send", "PIPELINE_MODEL_PARALLEL_GROUP"), collective(2, "recv", "default_pg"),
        collective(3, "allreduce", "default_pg"), gpu(send, 0, 1, external=1), gpu(send, 2, 3, external=2), gpu(NCCL, 4, 5, external=3),
    )  # fmt: skip
    assert {name: found.total(name).calls for name in found.dimensions} == {"PP": 2, "other": 1, ALL: 3}


def test_a_group_of_one_rank_communicates_nothing(tmp_path: Path) -> None:
    found = measured(
        tmp_path, collective(1, "allreduce", "TENSOR_MODEL_PARALLEL_GROUP", size=1), gpu(NCCL, 0, 5, external=1), gpu(GEMM, 5, 9)
    )  # fmt: skip
    assert found.dimensions == () and found.single == 1


def test_a_collective_of_copy_engines_is_told_by_the_host_and_a_copy_beside_a_kernel_is_not_one(tmp_path: Path) -> None:
    gather = collective(1, "_allgather_base", "DATA_PARALLEL_GROUP_WITH_CP")
    by_copies = measured(tmp_path, gather, copy("DtoD", 0, 5, external=1), gpu(GEMM, 5, 9))
    assert by_copies.total("DP gather").volume == 5 * US
    beside = measured(tmp_path, gather, copy("DtoD", 0, 5, external=1), gpu(NCCL, 5, 9, external=1))
    assert beside.total("DP gather").volume == 4 * US and beside.windows[0].memory == 5 * US


def test_a_copy_within_a_gpu_is_no_communication_and_hides_none(tmp_path: Path) -> None:
    found = measured(tmp_path, copy("DtoD", 0, 10, stream=8), gpu(NCCL, 0, 10, stream=20), gpu(GEMM, 10, 11))
    assert found.total(ALL).exposed == 10 * US


def test_work_of_a_communication_counts_as_compute(tmp_path: Path) -> None:
    found = measured(tmp_path, gpu("void reduce_bf16_cuda<2>(void*)", 0, 10), gpu(NCCL, 0, 10, stream=20))
    assert found.total(ALL).hidden == 1


def test_each_step_has_its_figures_and_what_crosses_its_edge_counts_on_both_sides(tmp_path: Path) -> None:
    found = measured(tmp_path, step(4, 0, 10), step(5, 10, 20), gpu(NCCL, 5, 15, stream=20), gpu(GEMM, 12, 18))
    first, second = found.windows
    assert [one.step for one in found.windows] == [4, 5]
    assert [one.figures[ALL].volume for one in (first, second)] == [5 * US, 5 * US]
    assert [one.figures[ALL].exposed for one in (first, second)] == [5 * US, 2 * US]
    assert [one.figures[ALL].calls for one in (first, second)] == [1, 0]
    assert (first.idle, second.idle) == (5 * US, 2 * US)


SPAN = st.tuples(st.integers(0, 40), st.integers(0, 20))
NAMES = ("TP", "PP", "DP reduce")
GROUPS = {
    "TP": "TENSOR_MODEL_PARALLEL_GROUP",
    "PP": "PIPELINE_MODEL_PARALLEL_GROUP",
    "DP reduce": "DATA_PARALLEL_GROUP",
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(NAMES), SPAN), max_size=8), st.lists(SPAN, min_size=1, max_size=8))
def test_the_figures_are_those_of_a_timeline_of_single_units(
    tmp_path: Path, moved: list[tuple[str, tuple[int, int]]], computed: list[tuple[int, int]]
) -> None:
    """Nested, overlapping, touching and empty spans, on streams of their own."""
    external = {name: number for number, name in enumerate(GROUPS, 1)}
    events = [collective(external[name], "allreduce", group) for name, group in GROUPS.items()]
    events += [gpu(NCCL, a, a + n, stream=20 + i, external=external[name]) for i, (name, (a, n)) in enumerate(moved)]
    events += [gpu(GEMM, a, a + n, external=9) for a, n in computed] + [gpu(GEMM, 99, 100, external=9)]
    found = measured(tmp_path, *events)
    busy = {at for a, n in computed for at in range(a, a + n)} | {99}
    for name in (*NAMES, ALL):
        own = [(a, a + n) for one, (a, n) in moved if name in (one, ALL)]
        volume = {at for a, end in own for at in range(a, end)}
        blocking = {at for a, end in own for at in range(a, end) if not busy & set(range(at, end))}
        total = found.total(name)
        assert (total.volume, total.exposed, total.blocking) == (
            len(volume) * US, len(volume - busy) * US, len(blocking) * US,
        )  # fmt: skip


def test_the_work_of_two_gpus_in_one_process_is_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="2 GPUs in one process"):
        measured(tmp_path, gpu(GEMM, 0, 1), gpu(GEMM, 0, 1, device=1))


def test_a_large_trace_is_measured_in_the_memory_that_the_page_states(tmp_path: Path) -> None:
    import resource

    many = [gpu(GEMM, n, n + 0.5) for n in range(100_000)] + [
        gpu(NCCL, n, n + 1, stream=20) for n in range(0, 100_000, 10)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = write(tmp_path / "large.json.gz", *many)
    written = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    found = measure(read(path))
    assert found.total(ALL).volume == 10_000 * US and found.total(ALL).hidden == 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - written < 500 * 1024  # KiB; writing it takes more
