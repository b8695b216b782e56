"""A refusal under torchrun or srun is told once for the job, and once more for a machine whose environment may be the cause."""

import os
import time
from pathlib import Path

import pytest

from hydra_overlap.launch import told_once

TEXT = "refused by 1 rule; nothing was started.\n\nerror TP002  ..."


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(told_once, "PATIENCE_S", 0.2)


def rank(number: int, *, port: str = "29500", machine: int = 4, world: int = 8) -> dict[str, str]:
    return {
        "RANK": str(number), "LOCAL_RANK": str(number % machine), "LOCAL_WORLD_SIZE": str(machine),
        "WORLD_SIZE": str(world), "MASTER_ADDR": "node0", "MASTER_PORT": port,
    }  # fmt: skip


def said(number: int, text: str = TEXT, port: str = "29500") -> str | None:
    return told_once.shortened(text, "TP002", rank(number, port=port))


def test_outside_a_job_everything_is_told() -> None:
    assert told_once.shortened(TEXT, "TP002", {}) is None
    assert told_once.shortened(TEXT, "TP002", {"RANK": "x", "WORLD_SIZE": "2"}) is None, (
        "nobody knows which rank this is"
    )


def test_rank_0_tells_it_and_the_other_ranks_of_its_machine_are_silent() -> None:
    assert said(0) is None
    assert [said(number) for number in (1, 2, 3)] == ["", "", ""]


def test_the_first_rank_of_another_machine_says_one_line_and_where_the_text_is() -> None:
    line = said(4)
    assert line is not None and line.startswith("[rank 4] refused: TP002; the whole text is in ")
    kept = Path(line.rpartition(" ")[2])
    assert kept.read_text() == f"{TEXT}\n" and kept.stat().st_mode & 0o777 == 0o600
    assert said(5) == ""


def test_a_rank_that_is_refused_for_another_reason_says_so() -> None:
    assert said(0) is None
    line = said(2, text="another text")
    assert line is not None and line.startswith("[rank 2] refused: TP002")


def test_a_rank_that_is_refused_alone_says_so() -> None:
    line = said(3)
    assert line is not None and line.startswith("[rank 3] refused: TP002")


def test_what_an_earlier_start_left_silences_nobody() -> None:
    assert said(0) is None
    assert said(1, port="29501") != "", "another job of the same command"
    (file,) = {path for path in Path(told_once.tempfile.gettempdir()).glob("*.txt") if path.stat().st_mtime} - {
        told_once._file(TEXT, rank(1, port="29501"))
    }
    old = time.time() - 2 * told_once.FRESH_S
    os.utime(file, (old, old))
    assert said(1) != ""


def test_a_link_that_somebody_made_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    told_once._file(TEXT, rank(0)).symlink_to(target)
    assert said(0) is None
    assert target.read_text() == "mine"
