"""Going on after a stop: a job of Slurm that was asked to stop queues itself again, and goes on from its last checkpoint."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .. import commands
from ..errors import HydraOverlapError, LaunchError
from .checkpoint_names import complete
from .plan import Plan, known
from .stopping import REQUEUE, Stopped, message

RESTARTS = "SLURM_RESTART_COUNT"  # set by Slurm in a job that was queued again, from 1
SUBMITTED = "SUBMITIT_EXECUTOR"  # set in a job that submitit submitted: for launch=slurm, or for Hydra's launcher
TIME_LIMIT_S = 60  # for the controller to answer


def submitted() -> bool:
    """Whether this process is one of a job that submitit submitted to Slurm."""
    return os.environ.get(SUBMITTED) == "slurm"


def resumed(plan: Plan) -> Plan:
    """The plan; in a job that Slurm started again, with checkpoint.load where this very job saved before."""
    save = plan.request.checkpoint.save
    if not _restarts() or save is None or not complete(save):
        return plan
    return plan.with_values({"checkpoint.load": save})


def _restarts() -> int:
    """How often Slurm has started this job again. Raises LaunchError for what is no number."""
    said = os.environ.get(RESTARTS) or "0"
    if not (said.isascii() and said.isdigit()):
        raise LaunchError(
            f"{RESTARTS} is no number",
            where=[f"{RESTARTS}={said}"],
            why="Slurm sets it in a job that is queued again; whether this run goes on from a checkpoint depends on it.",
            fixes=[(f"env -u {RESTARTS} {commands.train()} ...", "begins as a job that was not queued again")],
            source="hydra_overlap/launch/requeue.py",
        )
    return int(said)


@contextmanager
def on_stop(plan: Plan) -> Iterator[None]:
    """Queue the job again if what runs inside was asked to stop, and stopped with a checkpoint.

    Ends this process then, on every rank. Elsewhere than in a job that submitit submitted, the stop goes on to whoever started the run:
    exit code 75. submitit's own signal would queue the job again at once, without a checkpoint; here it asks to stop.
    """
    if not submitted():
        yield
        return
    before = signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        yield
    except (Stopped, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != REQUEUE:
            raise
        if not _worth_it(plan):
            # Told as an error: SystemExit would leave whoever waits for this job without a word.
            raise Stopped(message(plan)) from None
        if int(os.environ.get("SLURM_PROCID", "0")) == 0:
            _requeue(plan)
        sys.stdout.flush()
        # No result: submitit and a sweep would take the job for ended. And no code for which srun would end rank 0 first.
        os._exit(0)
    finally:
        signal.signal(signal.SIGUSR2, before)


def _worth_it(plan: Plan) -> bool:
    checkpoint, wanted = plan.request.checkpoint, plan.request.launch.slurm.requeue
    return bool(wanted and checkpoint.save is not None and complete(checkpoint.save))


def _requeue(plan: Plan) -> None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    last = complete(known(plan.request.checkpoint.save))[-1]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=TIME_LIMIT_S)
    if done.returncode:
        raise HydraOverlapError(f"Stopped at {last.name}, but Slurm did not requeue job {job}: {done.stderr.strip()}")
    print(f"asked to stop: job {job} is requeued and resumes from {last.name}", flush=True)
