"""Starting ranks on this machine: one process each, one script, one frozen plan."""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ..errors import LaunchError
from . import RANK_PARENT, RANK_PLAN, RANK_PLAN_SUM, heartbeat, processes, rank_tags
from .plan import Plan, checksum, load, save, world_size
from .processes import AskedToStop, Failure
from .stopping import REQUEUE, Stopped, message

STOP_TIME_S = 120  # for a last checkpoint, before ranks that were asked to stop are killed
LOOPBACK = "lo"
PARENT_S = 1.0  # between two looks at whether the parent lives
RANKS = "ranks"  # folder of the logs of ranks, below the output directory


def plan_of_this_rank() -> Plan | None:
    """The plan, in a process that `start` started; None in any other."""
    path = os.environ.get(RANK_PLAN)
    return load(path, os.environ.get(RANK_PLAN_SUM)) if path else None


def as_rank(train: Callable[[Plan], None], plan: Plan) -> None:
    """Run `train(plan)` as a rank that `start` started: what it fails with is left for the process that started it."""
    parent = int(os.environ.get(RANK_PARENT, os.getppid()))
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    faulthandler.enable()
    rank_tags.tag(int(os.environ["RANK"]))
    try:
        train(plan)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except Exception as error:
        processes.leave(error)
        raise


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


def start(plan: Plan, script: str, environment: Mapping[str, str], *, fork: bool = False) -> None:
    """Run `script` as every rank of the plan and wait. environment: variables every rank starts with.

    fork: as copies of this process, which has imported what ranks need under `exported(environment)`; if it has other
    threads by now, as fresh processes all the same. Never for GPUs: CUDA does not survive a fork.

    Ranks find the plan through `plan_of_this_rank`. Rank 0 writes to this terminal, errors and the other ranks to files
    under the plan's output directory. Raises RankError, naming the first rank that failed, after all were stopped.
    """
    number = world_size(plan)
    logs = Path(plan.output_dir, RANKS)
    script, fork = os.path.abspath(script), fork and processes.single_threaded()
    ranks: list[processes.Rank] = []
    meeting = socket.create_server(("127.0.0.1", 0))
    saved = save(plan)
    of_ranks = {**environment, RANK_PLAN: str(saved), RANK_PLAN_SUM: checksum(saved)}
    of_ranks[RANK_PARENT] = str(os.getpid())
    try:
        with meeting, exported(of_ranks), processes.stoppable() as settle:
            try:
                for rank in range(number):  # while this process has one thread; the watch and the store bring more
                    said = _said_to(rank, number, meeting)
                    ranks.append(processes.begin(rank, script, said, logs / str(rank), fork=fork))
                with heartbeat.watched(plan) as watch, _store(meeting, number):
                    failure = _outcome(ranks)
            finally:
                settle()
                processes.kill(ranks)
    except AskedToStop:
        _stop(plan)
    if failure is None:
        return
    if failure.code == REQUEUE:
        _stop(plan)
    raise RankError(_first_cause(plan, failure, watch, logs))


def _outcome(ranks: Sequence[processes.Rank]) -> Failure | None:
    """Wait for all ranks to end; once one has failed, or this process is asked to stop, see to it that they do."""
    try:
        failure = processes.wait(ranks)
    except (AskedToStop, KeyboardInterrupt) as asked:
        number = signal.SIGINT if isinstance(asked, KeyboardInterrupt) else signal.SIGTERM
        processes.end(ranks, number, STOP_TIME_S)
        raise
    processes.end(ranks, signal.SIGTERM, STOP_TIME_S)
    return failure


def _said_to(rank: int, number: int, meeting: socket.socket) -> dict[str, str]:
    """What torch.distributed reads in a rank. The store that ranks meet in is this process's, as under torchrun.

    All of them are on this machine, so nothing listens where another one could connect: the store has our socket, gloo and
    NCCL are told to take the loopback device unless the environment says which.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.getsockname()[1]),
        **{name: os.environ.get(name) or LOOPBACK for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if _loops()},
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }


def _loops() -> bool:
    """Whether there is a loopback device of the usual name."""
    return LOOPBACK in (name for _, name in socket.if_nameindex())


@contextmanager
def _store(meeting: socket.socket, number: int) -> Iterator[None]:
    """The store in which ranks find each other. They wait for it, and begin nothing together before."""
    from torch.distributed import TCPStore

    port, listening = meeting.getsockname()[1], os.dup(meeting.fileno())  # which the store closes
    store = TCPStore("127.0.0.1", port, number, is_master=True, wait_for_workers=False, master_listen_fd=listening)
    try:
        yield
    finally:
        del store


def _stop(plan: Plan) -> NoReturn:
    """End this process, and with it a sweep it may be part of: an exception would make Hydra start the next job."""
    print(message(plan), file=sys.stderr)
    sys.exit(REQUEUE)


@contextmanager
def exported(values: Mapping[str, str]) -> Iterator[None]:
    """os.environ with `values`, while what ranks need is imported, and while they are started and run."""
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


def _first_cause(plan: Plan, failure: Failure, watch: heartbeat.Watch, logs: Path) -> str:
    """What a person reads: which rank failed first, with what, and where the rest is. Of a hang: which did not come."""
    what = f"signal {-failure.code}" if failure.code < 0 else f"exit code {failure.code}"
    cause = failure.error or _unsaid(failure.code)
    output = f"\n\nOutput of every rank: {logs}"
    hang, _, told = cause.partition(f"{heartbeat.HangError.__name__}: ")
    if told and not hang:  # a rank that gave up found out who did not come
        return f"{told}\n\nAll ranks were stopped.{output}"
    if watch.killed:
        return f"{watch.killed}\n\nAll ranks were stopped.{output}"
    if failure.code == -signal.SIGABRT and not plan.rehearsal:  # what NCCL's watchdog does about a time-out
        cause += f"\n\n{heartbeat.explained(plan, cause)}"
    return f"Rank {failure.rank} failed first ({what}); all ranks were stopped.\n\n{cause}{output}"


def _unsaid(code: int) -> str:
    """The cause of a rank that left no exception."""
    if code < 0:
        return f"{signal.Signals(-code).name} ended it."
    return "It ended without an exception."
