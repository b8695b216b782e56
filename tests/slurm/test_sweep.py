"""A sweep of training runs through hydra/launcher=submitit_slurm: one Slurm job a point, two tasks on two nodes each."""

import json

import pytest

from .cluster import wait

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

LAUNCHER = (
    "hydra/launcher=submitit_slurm", "hydra.launcher.partition=debug", "hydra.launcher.nodes=2",
    "hydra.launcher.tasks_per_node=1",
)  # fmt: skip
POINTS = "optimizer.lr=0.001,0.002"


def test_a_cancelled_job_leaves_the_others_and_is_submitted_again_alone(start, slurm, tmp_path):
    # Four cores a task: a job takes both nodes, so the jobs run one after the other.
    own = ("hydra.launcher.cpus_per_task=4", f"hydra.sweep.dir={tmp_path}/sweep", "hydra.mode=MULTIRUN")
    started = start(POINTS, *LAUNCHER, *own)
    running = wait(lambda: _running(slurm), bool, "the first job runs")
    slurm.ask("scancel", running[0])
    run = started.end(180)
    assert run.code == 1, run.output
    assert _statuses(tmp_path / "sweep") == ["failed", "completed"]
    assert len(_losses(tmp_path / "sweep/1")) == 5
    before = (tmp_path / "sweep/1/metrics.jsonl").stat().st_mtime_ns

    again = start(POINTS, *LAUNCHER, *own, "hydra.sweeper.resume=true").end(180)
    assert again.code == 0, again.output
    assert "1 of 2 jobs are finished, 1 left" in again.output
    assert _statuses(tmp_path / "sweep") == ["completed"] * 2
    assert len(_losses(tmp_path / "sweep/0")) == 5
    assert (tmp_path / "sweep/1/metrics.jsonl").stat().st_mtime_ns == before, "it did not run again"


def _running(slurm):
    """Ids of jobs that run, each of an array by itself."""
    return slurm.ask("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()


def _losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _statuses(folder):
    return [json.loads((folder / str(number) / "job.json").read_text())["status"] for number in range(2)]
