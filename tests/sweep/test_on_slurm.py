import signal
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait
from tests.slurm.conftest import slurm  # noqa: F401
from tests.sweep.commands import Sweeps, statuses

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_a_sweep_whose_parent_died_is_resumed_once_slurm_has_none_of_its_jobs(
    slurm: Cluster,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    sweeps = Sweeps(tmp_path)
    where = f"hydra.sweep.dir={tmp_path}/s"
    # Four CPUs a node and four of them a job: two run, two wait.
    submit = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=4", "hydra.launcher.mem_gb=null")
    arguments = ("layers=1,2,3,4", "deeds.n4=raises", "seconds=3", where, *submit)
    killed = sweeps.start(*arguments)
    sweeps.wait_for(2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    early = sweeps.run(*arguments, "hydra.sweeper.resume=true")
    assert early.returncode == 1
    assert "Jobs of this sweep are still running" in early.stderr
    assert early.stderr.count("Slurm job ") >= 2  # the waiting ones too

    wait(lambda: slurm.ask("squeue", "-h"), lambda left: not left, "the jobs ended", 60)
    resumed = sweeps.run(*arguments, "hydra.sweeper.resume=true")
    assert "resuming: 3 of 4 jobs are finished, 1 left" in resumed.stdout, resumed.stderr
    assert sorted(sweeps.ran()) == [1, 2, 3, 4, 4]
    assert statuses(tmp_path / "s") == ["completed"] * 3 + ["failed"]
    assert "RuntimeError: no room for 4 layers" in resumed.stdout
