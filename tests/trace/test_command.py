"""`hydra-overlap trace` as it is typed: what it prints, and one sentence for everything that is no trace."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hydra_overlap.cli import main

from .traces import GEMM, NCCL, collective, gpu, step, write


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["trace", *map(str, words)])


def a_rank(folder: Path, rank: int, exposed: int = 2) -> Path:
    return write(
        folder / f"rank{rank}.json.gz", step(1, 0, 20), collective(1, "allreduce", "DATA_PARALLEL_GROUP", sent=1024),
        gpu(GEMM, 0, 10), gpu(NCCL, 8, 10 + exposed, stream=20, external=1), gpu(GEMM, 15, 16), rank=rank,
    )  # fmt: skip


def test_a_rank_has_a_line_for_each_dimension(tmp_path: Path) -> None:
    done = run(a_rank(tmp_path, 3))
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "rank 3: 1 step of 0.02 ms, 55% compute, 35% idle"
    assert lines[2].split()[:6] == ["DP", "reduce", "1", "0.0", "0.00", "50%"]


def test_of_many_ranks_the_middle_and_the_worst_are_told(tmp_path: Path) -> None:
    for rank in range(6):
        a_rank(tmp_path, rank, exposed=2000 if rank == 4 else 2)
    done = run(tmp_path)
    assert done.exit_code == 0 and "6 ranks; medians of a step" in done.output
    assert [line.split()[-1] for line in done.output.splitlines() if line.startswith("DP reduce")] == ["4"]


def test_json_has_every_number(tmp_path: Path) -> None:
    answer = json.loads(run(a_rank(tmp_path, 0), "--json").output)
    assert answer["verdict"] == "ok"
    (window,) = answer["result"][0]["windows"]
    assert window["figures"]["DP reduce"] == {
        "calls": 1, "bytes": 2048, "volume": 4000, "exposed": 2000, "blocking": 2000, "waiting": 0, "hidden": 0.5,
    }  # fmt: skip


def test_names_that_sound_like_communication_and_are_unknown_are_told(tmp_path: Path) -> None:
    done = run(write(tmp_path / "rank0.json", gpu("void my_all_gather<int>(int)", 0, 1)))
    assert "Not recognised, and counted as compute: void my_all_gather<int>(int) (1)." in " ".join(done.output.split())


WHOLE = gzip.compress(json.dumps({"traceEvents": [gpu(GEMM, 0, 1)] * 500}).encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.json.gz", WHOLE[: len(WHOLE) // 2], "its gzip is damaged or was cut off"),
        ("damaged.json.gz", WHOLE[:40] + bytes(20) + WHOLE[60:], "its gzip is damaged or was cut off"),
        ("half.json", gzip.decompress(WHOLE)[:5000], "perhaps because it was cut off"),
        ("other.json", b'{"steps": []}', "not a trace of torch's profiler"),
        ("empty.json", b"", "its JSON cannot be read"),
        ("host.json", b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 1}]}', "holds no work of a GPU"),
        ("garbage.json", bytes(range(256)) * 4096, "its JSON cannot be read"),
        ("latin.json", '{"traceEvents": [{"name": "ü"}]}'.encode("latin-1"), "its JSON cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert str(tmp_path / name) in done.output


def test_two_traces_of_one_rank_a_folder_without_any_and_steps_without_time_are_told(tmp_path: Path) -> None:
    one, two = a_rank(tmp_path, 0), write(tmp_path / "again.json", gpu(GEMM, 0, 1), rank=0)
    assert "are both of rank 0" in run(one, two).output
    (tmp_path / "none").mkdir()
    assert "holds no trace" in run(tmp_path / "none").output
    assert "it is not a file" in run(tmp_path / "missing.json").output
    still = write(tmp_path / "still.json", step(1, 5, 5), gpu(GEMM, 0, 1), rank=1)
    assert "profiled steps that take no time" in run(still).output


def test_a_bare_list_of_events_is_read_and_its_rank_is_that_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace_rank-7.json"
    path.write_text(json.dumps([gpu(NCCL, 0, 1), gpu(GEMM, 1, 2)]))
    assert run(path).output.startswith("rank 7: 1 step")
