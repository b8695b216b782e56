import os
import re
import signal
from pathlib import Path

import pytest

from hydra_overlap.sweep.results import REHEARSED
from tests.compose.commands import TRAIN
from tests.slurm.cluster import wait
from tests.sweep.commands import Sweeps, results


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


@pytest.mark.slow
def test_ranks_that_outlived_their_sweep_are_named_and_not_started_a_second_time(tmp_path: Path) -> None:
    sweeps = Sweeps(tmp_path)
    where = f"hydra.sweep.dir={tmp_path}/s"
    arguments = ("comm_overlap=none,dp", "training=smoke", "training.train_iters=1000", where)
    killed = sweeps.start(*arguments, app=TRAIN)
    metrics = tmp_path / "s/0/metrics.jsonl"
    wait(metrics.exists, bool, "the first job trains", 60)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    done = sweeps.run(*arguments, "hydra.sweeper.resume=true", app=TRAIN)
    left = re.findall(r"s/0: process (\d+)", done.stderr)
    for process in left:
        os.kill(int(process), signal.SIGKILL)
    assert done.returncode == 1
    assert len(left) == 2, done.stderr
    assert f"kill {' '.join(left)}" in done.stderr
