"""Starting ranks on this machine with torch.distributed.elastic: one process each, one script, one frozen plan."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import LaunchError
from . import heartbeat, tags
from .plan import Plan, load, save, world_size
from .stopping import REQUEUE, Stopped, message

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

STOP_TIME_S = 120  # for a last checkpoint, before ranks that were asked to stop are killed
PARENT_S = 1.0  # between two looks at whether the parent lives
PLAN_FILE = "HYDRA_OVERLAP_RANK_PLAN"  # set in ranks alone: where the plan lies


def plan_of_this_rank() -> Plan | None:
    """The plan, in a process that `start` started; None in any other."""
    path = os.environ.get(PLAN_FILE)
    return load(path) if path else None


def as_rank(train: Callable[[Plan], None], plan: Plan) -> None:
    """Run `train(plan)` as a rank that `start` started: an exception goes to the parent through elastic's error file."""
    from torch.distributed.elastic.multiprocessing.errors import record

    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    tags.tag(int(os.environ["RANK"]))
    try:
        record(train)(plan)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def _end_with(parent: int) -> None:
    """Stop as a run that is asked to, once the process that started this rank is gone; killed, it could tell nobody."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIME_S)
    os.kill(os.getpid(), signal.SIGKILL)


class RankError(LaunchError):
    """A rank ended early; the others were stopped."""

    def __str__(self) -> str:
        return self.args[0]


def start(plan: Plan, script: str, environment: Mapping[str, str]) -> None:
    """Run `script` as every rank of the plan and wait. environment: variables every rank starts with.

    Ranks find the plan through `plan_of_this_rank`. Rank 0 writes to this terminal, errors and the other ranks to files
    under the plan's output directory. Raises RankError, naming the first rank that failed, after all were stopped.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks = world_size(plan)
    logs = Path(plan.output_dir, "ranks")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=STOP_TIME_S,
        logs_specs=DefaultLogsSpecs(
            log_dir=str(logs), redirects={rank: Std.ALL if rank else Std.ERR for rank in range(ranks)}
        ),
    )
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # RankError and Stopped say it, once
    path = str(save(plan))
    exported = _exported({**environment, PLAN_FILE: path})
    with exported, _usr1_as_term(), heartbeat.watched(plan) as watch, _none_left(path):
        try:
            elastic_launch(config, sys.executable)("-u", os.path.abspath(script))
        except ChildFailedError as failed:
            if failed.get_first_failure()[1].exitcode == REQUEUE:
                _stop(plan)
            raise RankError(_first_cause(plan, failed, watch, logs)) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            _stop(plan)


def _stop(plan: Plan) -> NoReturn:
    """End this process, and with it a sweep it may be part of: an exception would make Hydra start the next job."""
    print(message(plan), file=sys.stderr)
    sys.exit(REQUEUE)


@contextmanager
def _usr1_as_term() -> Iterator[None]:
    """SIGUSR1 (Slurm's warning before a time limit) stops this run as SIGTERM does; elastic passes that on to the ranks."""
    before = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def _none_left(path: str) -> Iterator[None]:
    """Kill what ranks started and left: megatron-core's checkpoint writers and their queue outlive a rank that is killed.

    path: the plan's, which all of them have in their environment, and no other run's processes.
    """
    import psutil

    try:
        yield
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(PLAN_FILE) == path:
                    process.kill()


@contextmanager
def _exported(values: Mapping[str, str]) -> Iterator[None]:
    """os.environ with `values`, while ranks are started and run."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_cause(plan: Plan, failed: "ChildFailedError", watch: heartbeat.Watch, logs: Path) -> str:
    """What a person reads: which rank failed first, with what, and where the rest is. Of a hang: which did not come."""
    rank, failure = failed.get_first_failure()
    what = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    reported: Any = failure.error_file_data.get("message", failure.message)
    cause = reported["message"] if isinstance(reported, dict) else str(reported)
    output = f"\n\nOutput of every rank: {logs}"
    hang, _, told = cause.partition(f"{heartbeat.HangError.__name__}: ")
    if told and not hang:  # a rank that gave up found out who did not come
        return f"{told}\n\nAll ranks were stopped.{output}"
    if watch.killed:
        return f"{watch.killed}\n\nAll ranks were stopped.{output}"
    if failure.exitcode == -signal.SIGABRT and not plan.rehearsal:  # what NCCL's watchdog does about a time-out
        cause += f"\n\n{heartbeat.explained(plan, cause)}"
    return f"Rank {rank} failed first ({what}); all ranks were stopped.\n\n{cause}{output}"
