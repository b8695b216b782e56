"""Ranks that srun starts on two nodes, directly and through torchrun, find each other."""

import shutil
import sys
from pathlib import Path

import pytest

from .cluster import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_srun_starts_one_rank_on_each_node(start):
    run = start(before=("srun", "-N2", "-n2", sys.executable)).end()
    assert run.code == 0, run.output
    assert len(run.losses) == 5
    assert run.output.count("read back on every rank") == 1
    assert [path.name for path in run.folder.parent.iterdir()] == ["run"], "one output directory for all ranks"


def test_srun_starts_one_torchrun_on_each_node(start):
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    rendezvous = f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}"
    nodes = ("srun", "-N2", "--ntasks-per-node=1", torchrun, "--nnodes=2", "--nproc-per-node=1")
    run = start(before=(*nodes, "--rdzv-backend=c10d", "--rdzv-id=run", "--local-addr=127.0.0.1", rendezvous)).end()
    assert run.code == 0, run.output
    assert len(run.losses) == 5
    assert run.output.count("read back on every rank") == 1


def test_srun_with_another_number_of_tasks_than_the_plan_has_ranks_is_refused(start):
    run = start("parallelism.world_size=4", before=("srun", "-N2", "-n2", sys.executable)).end()
    assert run.code == 1
    assert "srun started 2 ranks, but the plan is for 4" in run.said
