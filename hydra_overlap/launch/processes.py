"""Processes of ranks on this machine: forked from this one or begun afresh, watched until all have ended.

A forked rank has everything imported that this process has, at no cost of its own. Only a process with a single thread may
fork: what another thread held would stay locked in the copy for ever.
"""

import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, TextIO

from . import claims

LOOK_S = 0.05  # between two looks at whether all ranks run
ERROR_BYTES = 8192
ERROR_FILE = "HYDRA_OVERLAP_RANK_ERROR"  # set in ranks alone: where a rank says what it failed with


@dataclass(frozen=True)
class Rank:
    """A running rank. poll: its exit code, negative for a signal, None while it runs."""

    number: int
    pid: int
    folder: Path
    poll: Callable[[], int | None]


@dataclass(frozen=True)
class Failure:
    """How a rank ended early. error: `Type: text` of its exception, empty if it left none; when: by this machine's monotonic clock."""

    rank: int
    code: int
    error: str
    when: float


class AskedToStop(BaseException):
    """A signal came that ends this process and is handed on to the ranks."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def single_threaded() -> bool:
    """Whether this process may fork: it has one thread, those of C++ libraries counted."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) == 1
    return False  # nothing is known without /proc


def begin(number: int, script: str, environment: Mapping[str, str], folder: Path, *, fork: bool) -> Rank:
    """Run `script` as rank `number`. Rank 0 writes to this terminal, its errors and the other ranks to `folder`.

    fork: as a copy of this process, which must be `single_threaded`. A rank leads a session of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    error = folder / "error.json"
    error.write_text(" " * ERROR_BYTES)  # a rank that fails of a full disk has this room to say so
    values = {**environment, ERROR_FILE: str(error)}
    if not fork:
        process = _fresh(number, script, values, folder)
        return Rank(number, process.pid, folder, process.poll)
    import multiprocessing

    sys.stdout.flush()
    sys.stderr.flush()
    copy = multiprocessing.get_context("fork").Process(target=_run_forked, args=(number, script, values, folder))
    copy.start()
    assert copy.pid is not None
    return Rank(number, copy.pid, folder, lambda: copy.exitcode)


def _fresh(number: int, script: str, environment: Mapping[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with _opened(number, folder) as files:
        return subprocess.Popen(
            [sys.executable, "-u", script],
            env={**os.environ, **environment},
            stdout=files.get(1),
            stderr=files.get(2),
            start_new_session=True,
            pass_fds=claims.descriptors(),  # a forked rank has them anyway
        )


@contextmanager
def _opened(number: int, folder: Path) -> Iterator[dict[int, BinaryIO]]:
    """Files for the streams of a rank that are not this process's: all but the output of rank 0."""
    names = {1: "stdout.log", 2: "stderr.log"} if number else {2: "stderr.log"}
    with ExitStack() as opened:
        yield {stream: opened.enter_context((folder / name).open("wb")) for stream, name in names.items()}


def _run_forked(number: int, script: str, environment: Mapping[str, str], folder: Path) -> None:
    """What a copy of this process does: become what a fresh process would be, then run the script."""
    os.setsid()
    for handled in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(handled, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    with _opened(number, folder) as files:
        for stream, file in files.items():
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = _text(1), _text(2)
    logging.root.handlers.clear()  # those of the application, Hydra's
    logging.root.setLevel(logging.WARNING)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def _text(stream: int) -> TextIO:
    """A text stream that writes every line at once, as that of a fresh process with -u."""
    return open(stream, "w", buffering=1, errors="backslashreplace", closefd=False)


def leave(error: BaseException) -> None:
    """In a rank: leave what it failed with for whoever watches it."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return
    text, when = f"{type(error).__name__}: {error}", time.monotonic()
    content = json.dumps({"error": text, "when": when})
    if len(content) > ERROR_BYTES:
        content = json.dumps({"error": text[: ERROR_BYTES // 8], "when": when})  # a character takes up to 6 bytes
    with suppress(OSError), open(path, "r+") as file:  # in the room it has; a full disk gives no more
        file.write(content.ljust(ERROR_BYTES))


def wait(ranks: Sequence[Rank]) -> Failure | None:
    """Until all have ended or one has failed; -> which failed first, None if none did."""
    while True:
        codes = [rank.poll() for rank in ranks]
        if any(codes):
            ended = [(rank, rank.poll()) for rank in ranks]  # once more: the cause ended before what it led to
            failed = [_failure(rank, code) for rank, code in ended if code]
            return min(failed, key=lambda one: (not _killed(one.code), one.when))
        if None not in codes:
            return None
        time.sleep(LOOK_S)


def _killed(code: int) -> bool:
    """Whether something from outside ended a rank: no rank dies of that because another one failed. Of SIGABRT some do."""
    return code < 0 and code != -signal.SIGABRT


def _failure(rank: Rank, code: int) -> Failure:
    said: dict[str, Any] = {"error": "", "when": time.monotonic()}
    with suppress(OSError, ValueError):
        said = json.loads((rank.folder / "error.json").read_text())
    return Failure(rank.number, code, said["error"], said["when"])


def end(ranks: Sequence[Rank], number: int, patience_s: float) -> None:
    """Send the signal to ranks that still run, with all they started; kill what is left of them after `patience_s`.

    Ctrl-C ends the patience.
    """
    running = [rank for rank in ranks if rank.poll() is None]
    deadline = time.monotonic() + patience_s
    with suppress(KeyboardInterrupt):
        for rank in running:
            _signal(rank.pid, number)
        while any(rank.poll() is None for rank in running) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
    kill(ranks)


def kill(ranks: Sequence[Rank]) -> None:
    """Kill ranks and what they started and left: megatron-core's checkpoint writers outlive a rank that is killed."""
    import psutil

    sessions = {rank.pid for rank in ranks}
    for rank in ranks:
        if rank.poll() is None:
            _signal(rank.pid, signal.SIGKILL)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in sessions and os.getsid(process.pid) in sessions:
                process.kill()


def _signal(pid: int, number: int) -> None:
    """To the rank's session; to the rank alone if it has no session yet."""
    with suppress(ProcessLookupError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """The first SIGTERM, SIGHUP, SIGQUIT or SIGUSR1 (Slurm's warning before a time limit) raises AskedToStop within.

    Further ones change nothing, here and afterwards: a process that was asked has its record to write, and ends by itself.
    -> call it before what must not be cut off: from then on none raises. SIGINT stays what it is.
    """
    asked = settled = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if not asked and not settled:
            asked = True
            raise AskedToStop(number)

    def settle() -> None:
        nonlocal settled
        settled = True

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield settle
    finally:
        settle()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if asked else handler)
