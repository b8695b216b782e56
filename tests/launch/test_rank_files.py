"""What joined ranks write while they train goes to files, as that of ranks that train.py starts."""

import logging
import os
import sys
from pathlib import Path

import pytest

from hydra_overlap.launch import local, rank_files
from hydra_overlap.launch.plan import Plan
from tests.plans import plan_of


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of("comm_overlap=dp", output_dir=tmp_path)


def as_outside_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's streams write to the descriptors; pytest's own are set anew when a test begins, and so are handlers of logs."""
    monkeypatch.setattr(logging.root, "handlers", [])  # one that another test left writes to a stream that is closed
    for number, name in ((1, "stdout"), (2, "stderr")):
        monkeypatch.setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def write(word: str) -> None:
    """As Python and as a C++ library write."""
    print(f"{word} out", flush=True)
    print(f"{word} err", file=sys.stderr, flush=True)
    os.write(2, f"{word} library\n".encode())


@pytest.mark.parametrize("rank", [0, 1])
def test_errors_of_every_rank_and_the_output_of_all_but_rank_0_go_to_files(
    plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    as_outside_of_pytest(monkeypatch)
    with rank_files.in_files(plan, rank):
        write("within")
    write("after")
    out, err = capfd.readouterr()
    assert out == ("within out\n" if rank == 0 else "") + "after out\n"
    assert err == "after err\nafter library\n"
    folder = tmp_path / local.RANKS / str(rank)
    assert (folder / "stderr.log").read_text() == "within err\nwithin library\n"
    assert (folder / "stdout.log").exists() == (rank > 0)
    assert rank == 0 or (folder / "stdout.log").read_text() == "within out\n"


def test_logs_leave_the_report_of_rank_0_and_come_back(
    plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_outside_of_pytest(monkeypatch)
    handler = logging.StreamHandler(sys.stdout)  # as Hydra makes it
    monkeypatch.setattr(logging.root, "handlers", [handler])
    with rank_files.in_files(plan, 0):
        logging.getLogger("megatron.core").warning("a library's word")
    logging.getLogger("megatron.core").warning("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
    assert "a library's word" in (tmp_path / local.RANKS / "0" / "stderr.log").read_text()


def test_an_exception_is_told_on_the_terminal(
    plan: Plan, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_outside_of_pytest(monkeypatch)
    with pytest.raises(RuntimeError), rank_files.in_files(plan, 1):
        raise RuntimeError
    write("after")
    assert "after err" in capfd.readouterr().err


def test_a_folder_that_cannot_be_made_leaves_everything_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_outside_of_pytest(monkeypatch)
    (tmp_path / "file").write_text("")
    with rank_files.in_files(plan_of("comm_overlap=dp", output_dir=tmp_path / "file"), 1):
        write("within")
    out, err = capfd.readouterr()
    assert out == "within out\n" and "stays on the terminal" in err and "within err" in err


def test_ranks_that_train_py_starts_have_their_files_already(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_files, "plan_of_this_rank", lambda: plan)
    with rank_files.in_files(plan, 1):
        pass
    assert not (tmp_path / local.RANKS).exists()
