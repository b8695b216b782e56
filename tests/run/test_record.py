"""The record of a run, made of what the run left."""

import json
import sys

import pytest

from hydra_overlap.launch.external import Joined
from hydra_overlap.launch.local import RankError
from hydra_overlap.launch.stopping import REQUEUE
from hydra_overlap.run import record
from tests.plans import plan_of


@pytest.fixture
def plan(tmp_path):
    return plan_of("training=smoke", output_dir=tmp_path)


def left(folder, losses, *, validation=None, half_a_line=False):
    """What a run leaves that took steps of 100, 101 ... ms."""
    lines = [
        {"step": n, "loss": loss, "step_ms": 99.0 + n, "tokens_per_s": 1000.0, "validation_loss": None}
        for n, loss in enumerate(losses, start=1)
    ]
    if validation is not None:
        lines[-1]["validation_loss"] = validation
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 9' if half_a_line else ""))
    (folder / "manifest.json").write_text("{}")


def test_a_completed_run(plan, tmp_path):
    left(tmp_path, [6.0, 5.0, *[4.0] * 13], validation=4.5)
    found = record.make(plan, record.COMPLETED, peak_memory_gib=0.71234)
    assert found["step_ms"] == {"median": 109.5, "low": 106.75, "high": 112.25, "counted": 10, "discarded": 5}
    assert (found["steps"], found["tokens_per_s"], found["validation_loss"]) == (15, 1000.0, 4.5)
    assert found["loss"] == {"first": 6.0, "final": 4.0}
    assert (found["peak_memory_gib"], found["verdict"], found["error"]) == (0.712, "in effect", None)
    assert (found["mode"], found["world_size"], found["overrides"]) == ("gpu", 2, ["training=smoke"])


def test_a_median_of_too_few_steps_is_not_said(plan, tmp_path):
    left(tmp_path, [6.0] * 14)
    found = record.make(plan, record.COMPLETED)
    assert found["step_ms"] is None and found["tokens_per_s"] is None


def test_losses_that_are_no_numbers_and_a_line_cut_short_are_left_out(plan, tmp_path):
    left(tmp_path, [6.0, 5.0, None], half_a_line=True)
    found = record.make(plan, record.FAILED)
    assert found["loss"] == {"first": 6.0, "final": 5.0} and found["steps"] == 3


def test_a_run_that_failed_before_it_was_read_back_has_no_verdict(plan):
    found = record.make(plan, record.FAILED, error="why")
    assert (found["verdict"], found["steps"], found["loss"], found["error"]) == (None, 0, None, "why")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RankError("Rank 1 failed first"), "failed", "Rank 1 failed first"),
        (SystemExit(REQUEUE), "stopped", "asked to stop"),
        (KeyboardInterrupt(), "stopped", "Interrupted."),
        (ZeroDivisionError("division by zero"), "failed", "division by zero"),
    ],
)
def test_how_a_run_ended_that_did_not_end_as_planned(plan, error, status, said):
    with pytest.raises(type(error)), record.kept(plan, None):
        raise error
    found = record.read(plan)
    assert found["status"] == status and said in found["error"]


def test_what_the_ranks_wrote_before_they_stopped_stays(plan, tmp_path):
    left(tmp_path, [6.0])
    record.write(plan, record.make(plan, record.STOPPED, error="after step 1", peak_memory_gib=0.5))
    with pytest.raises(SystemExit), record.kept(plan, None):
        sys.exit(REQUEUE)
    assert record.read(plan)["error"] == "after step 1" and record.read(plan)["peak_memory_gib"] == 0.5


def test_only_rank_0_of_joined_ranks_keeps_it(plan):
    other = Joined(launcher="torchrun", rank=1, local_rank=1, local_ranks=2, world_size=2)
    with pytest.raises(ZeroDivisionError), record.kept(plan, other):
        1 / 0  # noqa: B018
    assert record.read(plan) is None


def test_what_an_earlier_run_left_does_not_speak_for_this_one(plan, tmp_path):
    left(tmp_path, [6.0])
    record.write(plan, record.make(plan, record.COMPLETED))
    record.begin(plan)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_steps_before_its_checkpoint_belong_to_a_run_that_resumes(tmp_path):
    plan = plan_of("training=smoke", f"checkpoint.load={tmp_path}", output_dir=tmp_path)
    left(tmp_path, [6.0])
    record.begin(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
