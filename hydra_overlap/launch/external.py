"""Joining ranks that somebody else started: torchrun sets RANK, srun sets SLURM_PROCID, submitit goes through srun."""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import commands
from ..errors import LaunchError

if TYPE_CHECKING:
    from .plan import Plan

QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")


@dataclass(frozen=True, kw_only=True)
class Joined:
    """This process among the ranks of a job. launcher: torchrun, srun, or submitit, which goes through srun."""

    launcher: str
    rank: int
    local_rank: int
    local_ranks: int
    world_size: int


def joined(environment: Mapping[str, str] = os.environ) -> Joined | None:
    """Where this process stands in a running job; None if it stands alone and has ranks to start.

    A Slurm batch step or an interactive shell has SLURM_NTASKS but one process: only a step that srun started counts.
    """
    try:
        return _joined(environment)
    except (KeyError, ValueError) as error:
        names = (
            "RANK",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "WORLD_SIZE",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_PROCID",
            "SLURM_LOCALID",
        )
        raise LaunchError(
            "The variables of torchrun or srun are incomplete or not numbers",
            where=[f"{name}={environment[name]}" for name in names if name in environment],
            why=f"{error.args[0]} is missing." if isinstance(error, KeyError) else f"One is not a number: {error}.",
            fixes=[
                (f"env -u RANK -u WORLD_SIZE -u SLURM_STEP_ID {commands.train()} ...", "starts ranks on this machine")
            ],
        ) from None


def _joined(environment: Mapping[str, str]) -> Joined | None:
    if "RANK" in environment:  # without WORLD_SIZE as well: who sets it means a rank, and not that ranks start here
        return Joined(
            launcher="torchrun",
            rank=int(environment["RANK"]),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            local_ranks=int(environment.get("LOCAL_WORLD_SIZE", "1")),
            world_size=int(environment["WORLD_SIZE"]),
        )
    if environment.get("SLURM_STEP_ID", "").isdigit() and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return Joined(
            launcher="submitit" if environment.get("SUBMITIT_EXECUTOR") == "slurm" else "srun",
            rank=int(environment["SLURM_PROCID"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            local_ranks=int(environment["SLURM_STEP_TASKS_PER_NODE"].partition("(")[0].partition(",")[0]),
            world_size=int(environment["SLURM_STEP_NUM_TASKS"]),
        )
    return None


def quiet_overrides(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Hydra overrides with which a joined rank other than 0 writes nothing: all compose, one has an output directory."""
    try:
        job = joined(environment)
    except LaunchError:
        return ()  # said by the command itself
    return QUIET if job and job.rank > 0 else ()


def require_single_run(job: Joined, *, sweeping: bool) -> None:
    """Raise LaunchError for a sweep inside a job: its ranks have one process group, and one run to make in it.

    A job that Hydra's submitit launcher submitted is one run of a sweep that goes on elsewhere.
    """
    if sweeping and job.launcher != "submitit":
        raise LaunchError(
            f"A sweep was started under {job.launcher}",
            where=["-m"],
            why=f"The ranks of {job.launcher} form one process group for one run; a sweep starts its own ranks.",
            fixes=[(f"{commands.train()} -m ...", "starts ranks for one run after the other")],
        )


def require_same_size(plan: "Plan", job: Joined) -> None:
    """Raise LaunchError if the job has another number of ranks than the plan."""
    from .plan import world_size

    planned = world_size(plan)
    if job.world_size != planned:
        raise LaunchError(
            f"{job.launcher} started {job.world_size} ranks, but the plan is for {planned}",
            where=[f"parallelism.world_size={planned}"],
            why="Data parallelism, buckets and batch arithmetic were decided for the planned number.",
            fixes=[(f"parallelism.world_size={job.world_size}", f"plans for what {job.launcher} started")],
            source="hydra_overlap/launch/external.py",
        )


def export(job: Joined, environment: MutableMapping[str, str]) -> None:
    """What torch.distributed's env:// rendezvous reads, for ranks that srun started."""
    if job.launcher == "torchrun":
        return
    environment.update(
        RANK=str(job.rank),
        WORLD_SIZE=str(job.world_size),
        LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.local_ranks),
    )
    environment.setdefault("MASTER_ADDR", _address_of_rank_0(environment))
    # A free port is not known before, so it comes from the job's id; below those that systems hand out themselves.
    number = int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
    environment.setdefault("MASTER_PORT", str(20000 + number % 12000))


def _address_of_rank_0(environment: Mapping[str, str]) -> str:
    """The first node of the step; where its name does not resolve, the address srun was called from.

    The two are one machine in a batch job. An srun on a login node is called from there, and rank 0 runs elsewhere.
    """
    name = first_node(environment["SLURM_STEP_NODELIST"])
    import socket

    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return environment.get("SLURM_LAUNCH_NODE_IPADDR", name)
    return name


def first_node(nodes: str) -> str:
    """The first name of a Slurm node list: `a[03-07,9]-ib,b` -> `a03-ib`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group() if first else "")
