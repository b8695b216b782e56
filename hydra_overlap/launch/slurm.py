"""One run as one job of Slurm: submitted through submitit, one task a rank, all tasks in one process group.

How many nodes and tasks it has, and whether its ranks run on GPUs or rehearse, is decided before anything is queued
(slurm_layout.py). The frozen plan goes into the job; its tasks decide nothing, but refuse a node that lacks what was
promised. `launch.slurm.*` says the rest.
"""

import contextlib
import dataclasses
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LaunchError
from ..quoting import breaks_lines
from . import claims, external, preflight, requeue
from .local import RankError
from .plan import Plan, known, save, world_size
from .stopping import Stopped, message

FOLDER = "slurm"  # in the run's output directory: batch script, frozen plan, one log and one result a task
LATE_S = 5  # that a result may take to show up on this node after its job has ended

Run = Callable[[Plan, external.Joined | None], Any]


class Task:
    """What every task of the job calls: refuse a node that lacks what was promised, then be a rank."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan, self.run = plan, run

    def __call__(self) -> Any:
        """-> what `run` returns on this rank."""
        job = external.joined()
        preflight.require_ready(self.plan, job.local_ranks if job else world_size(self.plan))
        return self.run(requeue.resumed(self.plan), job)


def submit(plan: Plan, run: Run) -> Any:
    """Queue the job and say how to follow it; with launch.slurm.wait, stay until it has ended.

    run: stage 4 of train.py, pickled into the job; with launch.slurm.wait what it returns on rank 0 is returned. Raises
    LaunchError if Slurm refuses the job; RankError, naming the rank that failed first, and Stopped if it is waited for.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    wanted, folder = plan.request.launch.slurm, Path(plan.output_dir, FOLDER)
    _require_one_line(str(folder))
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**parameters(plan))
    claims.hand_over(plan.output_dir)  # rank 0 of the job claims it, and may do so before submit returns
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            job = executor.submit(Task(plan, run))
    except FailedJobError as error:
        shutil.rmtree(folder)
        raise _refused(plan, str(error)) from None
    save(plan)
    gpus = "" if wanted.gpus_per_node else ", without GPUs"
    nodes, tasks = known(wanted.nodes), known(wanted.tasks_per_node)
    print(
        f"\nqueued as job {job.job_id}: {_count(nodes, 'node')} of {_count(tasks, 'rank')}{gpus}\n"
        f"  rank 0      tail -F {folder}/{job.job_id}_0_log.out\n"
        f"  every rank  {folder}/{job.job_id}_RANK_log.out and .err\n"
        f"  state       squeue -j {job.job_id}\n"
        f"  cancel      scancel {job.job_id}",
        flush=True,
    )
    return _wait(plan, job) if wanted.wait else None


def _require_one_line(folder: str) -> None:
    """The batch script names the folder in comment lines; of the plan's own texts rule CFG011 has asked the same."""
    if breaks_lines(folder):
        raise LaunchError(
            "The output directory's name holds a line break or another control character",
            where=[f"hydra.run.dir={folder}"],
            why="Slurm reads it from lines of the batch script; a line break would make a command of what follows.",
            fixes=[("hydra.run.dir=outputs/NAME", "a name on one line")],
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def parameters(plan: Plan) -> dict[str, Any]:
    """What submitit's SlurmExecutor gets for a plan that was laid out, in sbatch's words."""
    wanted = plan.request.launch.slurm
    values: dict[str, Any] = {
        name: getattr(wanted, name) for name in ("nodes", "cpus_per_task", "partition", "account", "qos")
    }
    values |= {
        "job_name": "hydra-overlap",
        "ntasks_per_node": wanted.tasks_per_node,
        "gpus_per_node": wanted.gpus_per_node or None,
        "setup": wanted.setup or None,
    }
    values = {name: value for name, value in values.items() if value is not None}
    # submitit's own default is 5 minutes; null leaves it to the partition.
    values["time"] = wanted.time_min
    # Ranks that wait for one that died end with it. Since Slurm 22.05 srun does not take the cores from sbatch.
    cores = [f"--cpus-per-task={wanted.cpus_per_task}"] if wanted.cpus_per_task else []
    values["srun_args"] = ["--kill-on-bad-exit=1", *cores]
    values["additional_parameters"] = {
        "signal": f"USR1@{wanted.stop_s}",
        **({"requeue": True} if wanted.requeue else {"no-requeue": True}),
        **dict(_option(text) for text in wanted.options),
    }
    return values


def _option(text: str) -> tuple[str, Any]:
    """`--constraint=h100` -> ("constraint", "h100"); an option without a value is switched on."""
    name, equals, value = text.removeprefix("--").partition("=")
    return name, value if equals else True


def _refused(plan: Plan, reason: str) -> LaunchError:
    wanted = plan.request.launch.slurm
    said = {name: value for name, value in dataclasses.asdict(wanted).items() if value not in (None, [], False)}
    fixes = [("launch.slurm.partition=NAME", "one of those that `sinfo` lists")]
    if wanted.gpus_per_node:
        fixes.append(("launch.slurm.gpus_per_node=0", "rehearses on the nodes' CPUs"))
    return LaunchError(
        "Slurm rejected the job",
        where=[f"launch.slurm.{name}={value}" for name, value in said.items() if name not in ("requeue", "stop_s")],
        why=reason.strip().replace("sbatch: error: ", ""),
        fixes=fixes,
    )


def _wait(plan: Plan, job: Any) -> Any:
    """Until the job has ended, however often it is queued again; -> what rank 0 returned."""
    try:
        job.wait()
    except KeyboardInterrupt:
        print(f"\njob {job.job_id} continues; `scancel {job.job_id}` ends it", flush=True)
        raise
    tasks = [job.task(rank) for rank in range(job.num_tasks)]
    told, failed = _told(tasks)
    end = time.monotonic() + LATE_S
    while len(told) < len(tasks) and not failed and time.monotonic() < end:
        time.sleep(0.2)
        told, failed = _told(tasks)
    logs = f"\n\nOutput of every rank: {Path(plan.output_dir, FOLDER)}"
    if failed:
        first = min(failed, key=lambda rank: tasks[rank].paths.result_pickle.stat().st_mtime)
        cause = _cause(str(failed[first]))
        if cause == message(plan):
            raise Stopped(cause)
        killed = [str(rank) for rank in range(len(tasks)) if rank not in told]
        silent = f" These ended without a message, as if killed: {', '.join(killed)}." if killed else ""
        raise RankError(
            f"Rank {first} of job {job.job_id} is the first failed rank that says why.{silent}\n\n{cause}{logs}"
        )
    if len(told) < len(tasks):
        state = job.get_info().get("State", "nothing")
        raise RankError(f"Job {job.job_id} ended before its ranks; Slurm says {state}.{logs}")
    print(f"\njob {job.job_id} has ended: {plan.output_dir}")
    return tasks[0].result()


def _told(tasks: list[Any]) -> tuple[list[int], dict[int, Any]]:
    """(ranks that left a result, rank -> its error for those that failed)."""
    told = [rank for rank, task in enumerate(tasks) if task.paths.result_pickle.exists()]
    return told, {rank: error for rank in told if (error := tasks[rank].exception())}


def _cause(trace: str) -> str:
    """The last exception of a traceback, with all lines of its message; of one of ours the message alone."""
    lines = trace.partition("-" * 22)[2].rpartition("-" * 22)[0].strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    rest = lines[frames[-1] + 1 :] if frames else lines
    while rest and rest[0].startswith(" "):
        rest = rest[1:]
    text = "\n".join(rest)
    return text.partition(": ")[2] if text.startswith("hydra_overlap.") else text
