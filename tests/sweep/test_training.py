import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from hydra_overlap.sweep.words import REHEARSED
from tests.compose.commands import TRAIN
from tests.slurm.cluster import wait
from tests.sweep.commands import Sweeps, end_with, results, statuses


@pytest.mark.slow
def test_a_sweep_of_train_py_compares_what_its_runs_measured(tmp_path: Path) -> None:
    done = Sweeps(tmp_path).run(
        "comm_overlap=none,dp",
        "parallelism=dp2,tp2",
        "training=smoke",
        "training.train_iters=16",
        "hydra.sweep.dir=s",
        app=TRAIN,
    )
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "s")
    none, dp = found["rows"][0], found["rows"][2]

    assert [row["status"] for row in found["rows"]] == ["completed", "completed", "completed", "refused"]
    assert none["result"]["step_ms"]["counted"] == 11
    assert none["result"]["loss"]["final"] == pytest.approx(dp["result"]["loss"]["final"], abs=1e-3)
    assert found["best"] in (0, 1, 2)
    assert found["rehearsal"] is True
    (effect,) = (effect for effect in found["effects"]["comm_overlap"] if effect["value"] == "dp")
    speed = [row["result"]["tokens_per_s"] for row in (dp, none)]
    assert effect["ratios"] == [pytest.approx(speed[0] / speed[1])]
    assert re.search(r"#2 .*completed in .*: [\d.]+ ms a step, [\d,]+ tokens/s, loss", done.stdout)
    assert REHEARSED in done.stdout
    assert "refused  DP001" in done.stdout


def test_jobs_that_would_share_a_checkpoint_folder_are_refused_before_the_first(tmp_path: Path) -> None:
    arguments = ("comm_overlap=none,default", "hydra.sweep.dir=s")
    done = Sweeps(tmp_path).run(*arguments, "checkpoint.save=c", app=TRAIN)
    assert done.returncode == 1
    assert "checkpoint.save=c: #0, #1" in done.stderr
    assert "checkpoint.save='${hydra:runtime.output_dir}/checkpoints'" in done.stderr
    assert list(tmp_path.iterdir()) == []

    own = "checkpoint.save=${hydra:runtime.output_dir}/checkpoints"
    assert Sweeps(tmp_path).run(*arguments, own, "hydra.sweeper.plan_only=true", app=TRAIN).returncode == 0


@pytest.mark.slow
def test_a_stopped_job_with_a_checkpoint_folder_of_its_own_goes_on_when_the_sweep_is_resumed(tmp_path: Path) -> None:
    own = "${hydra:runtime.output_dir}/checkpoints"
    sweeps = Sweeps(tmp_path)
    arguments = (
        *("training.seed=1,2", "training=smoke", "training.train_iters=24", f"hydra.sweep.dir={tmp_path}/s"),
        *(f"checkpoint.save={own}", f"checkpoint.load={own}"),
    )
    stopped = sweeps.start(*arguments, app=TRAIN)
    wait((tmp_path / "s/1/metrics.jsonl").exists, bool, "the second job trains", 120)
    end_with(stopped, signal.SIGTERM)
    assert (stopped.returncode, statuses(tmp_path / "s")) == (75, ["completed", "stopped"])

    done = sweeps.run(*arguments, "hydra.sweeper.resume=true", app=TRAIN)
    assert (done.returncode, statuses(tmp_path / "s")) == (0, ["completed", "completed"]), done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "s/1/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 25))  # each once: what was trained before the stop was not trained again


@pytest.mark.slow
def test_ranks_that_outlived_their_sweep_are_named_and_not_started_a_second_time(tmp_path: Path) -> None:
    sweeps = Sweeps(tmp_path)
    where = f"hydra.sweep.dir={tmp_path}/s"
    arguments = ("comm_overlap=none,dp", "training=smoke", "training.train_iters=300", where)
    killed = sweeps.start(*arguments, app=TRAIN)
    metrics = tmp_path / "s/0/metrics.jsonl"
    wait(metrics.exists, bool, "the first job trains", 60)
    for rank in psutil.Process(killed.pid).children():
        rank.suspend()  # a rank that runs notices that its parent is gone, and ends
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    done = sweeps.run(*arguments, "hydra.sweeper.resume=true", app=TRAIN)
    left = re.findall(r"s/0: process (\d+)", done.stderr)
    for process in left:
        os.kill(int(process), signal.SIGKILL)
    assert done.returncode == 1
    assert len(left) == 2, done.stderr
    assert f"kill {' '.join(left)}" in done.stderr
