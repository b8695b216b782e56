"""A folder belongs to one run at a time: claimed before anything is written in it, and free again however its owner ends.

The claim is a lock of the system (flock) on a file that names the owner. Ranks inherit it: of a run whose first process was
killed they may be saving still, and the folder is free once the last of them has ended. flock holds between the processes
of a machine, and between machines on NFS 3 and 4 and on Lustre mounted with `-o flock`. Where the file system has no locks,
a living owner is known on its own machine alone, and on another one its name is said.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LaunchError
from .plan import Plan, now

FILE_NAME = ".claimed"
LEFT_S = 125  # ranks whose parent was killed save and end in that time: local.STOP_TIME_S, and some
LOOK_S = 0.2
_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class TakenError(Exception):
    """Another run has the folder. owner: what its file says of it."""

    def __init__(self, folder: Path, owner: dict[str, Any]) -> None:
        super().__init__(str(folder))
        self.folder, self.owner = folder, owner


@dataclass
class _Held:
    """A claim of this process. uses: how many `held` stand inside each other."""

    descriptor: int
    pid: int
    uses: int = 1


_HELD: dict[Path, _Held] = {}


def descriptors() -> list[int]:
    """Of the claims of this process: what a rank keeps open."""
    return [claim.descriptor for claim in _HELD.values()]


@contextmanager
def held(folder: str | Path, setting: str) -> Iterator[None]:
    """Have the folder while inside; made if it is not there. setting: the key that names it, for the refusal.

    A process that has it already has it once more. Raises LaunchError if another run has it, or if it cannot be written.
    """
    try:
        with claimed(Path(folder)):
            yield
    except TakenError as taken:
        raise refusal(taken, setting) from None


@contextmanager
def of_plan(plan: Plan) -> Iterator[None]:
    """Have what a run writes to: its output directory and checkpoint.save. Raises LaunchError."""
    with ExitStack() as claims:
        claims.enter_context(held(plan.output_dir, "hydra.run.dir"))
        if plan.request.checkpoint.save is not None:
            claims.enter_context(held(plan.request.checkpoint.save, "checkpoint.save"))
        yield


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """As `held`, with TakenError for one that another run has."""
    place = folder.resolve()
    mine = _HELD.get(place)
    if mine is None or mine.pid != os.getpid():  # a copy of the process that claimed it owns nothing
        mine = _HELD[place] = _Held(_claim(place), os.getpid(), 0)
    mine.uses += 1
    try:
        yield
    finally:
        mine.uses -= 1
        if not mine.uses and mine.pid == os.getpid():
            _release(place, mine)


def hand_over(folder: str | Path) -> None:
    """Let go of a folder before the end: to a job that this process has queued, and that claims it where it runs."""
    place = Path(folder).resolve()
    mine = _HELD.get(place)
    if mine is not None and mine.pid == os.getpid():
        _release(place, mine)


def _release(place: Path, mine: _Held) -> None:
    if _HELD.get(place) is not mine:
        return  # handed over
    del _HELD[place]
    with suppress(OSError):
        (place / FILE_NAME).unlink()  # first: whoever waits sees that what it locked has no name any more
    os.close(mine.descriptor)


def _claim(folder: Path) -> int:
    """-> the descriptor that holds the lock. Raises TakenError, and LaunchError for a folder that cannot be written."""
    path = folder / FILE_NAME
    deadline, told = time.monotonic() + LEFT_S, False
    while True:
        descriptor = _open(path)
        try:
            locked = _locked(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _unwritable(folder, error) from None
        owner = _owner(path)
        if locked and os.fstat(descriptor).st_nlink:
            with suppress(OSError):  # a full disk: the lock is what counts
                _write_owner(descriptor)
            return descriptor
        os.close(descriptor)
        if locked:
            continue  # its owner took the file away meanwhile
        if not _left_behind(owner) or time.monotonic() > deadline:
            raise TakenError(folder, owner)
        if not told:
            print(f"waiting for the ranks that a killed run left in {folder}: they save and end", file=sys.stderr)
            told = True
        time.sleep(LOOK_S)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> LaunchError:
    return LaunchError(
        "A folder of this run cannot be written",
        where=[str(folder)],
        why=f"{error.strerror or error}.",
        fixes=[("hydra.run.dir=ANOTHER", "writes the run elsewhere"), ("checkpoint.save=ANOTHER", "its checkpoints")],
        source="hydra_overlap/launch/claims.py",
    )


def _locked(descriptor: int) -> bool:
    """Whether the lock is this process's now. Without locks: whether nobody on this machine is known to have the folder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    owner = _parsed(os.pread(descriptor, 10_000, 0))
    if owner and owner.get("host") != socket.gethostname():
        print(f"This file system has no locks; {_described(owner)} may still write here.", file=sys.stderr)
    return not (owner and owner.get("host") == socket.gethostname() and _alive(owner))


def _write_owner(descriptor: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "began": now(), "command": sys.argv}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _owner(path: Path) -> dict[str, Any]:
    with suppress(OSError):
        return _parsed(path.read_bytes())
    return {}


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(content)
        return found if isinstance(found, dict) else {}
    return {}


def _alive(owner: dict[str, Any]) -> bool:
    try:
        os.kill(int(owner["pid"]), 0)
    except (KeyError, TypeError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _left_behind(owner: dict[str, Any]) -> bool:
    """Whether the owner is gone, and what holds the lock is what it had started."""
    return bool(owner) and owner.get("host") == socket.gethostname() and not _alive(owner)


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('began')}"


def refusal(taken: TakenError, setting: str) -> LaunchError:
    """What a person reads: whose the folder is, and where to go."""
    command = taken.owner.get("command")
    words = f" Its command: {' '.join(map(str, command))}" if isinstance(command, list) else ""
    return LaunchError(
        "Another run is writing into this folder",
        where=[f"{setting}={taken.folder}"],
        why=f"It belongs to {_described(taken.owner)}; two runs would overwrite each other.{words}",
        fixes=[(f"{setting}=ANOTHER", "a folder of its own")],
        source=str(taken.folder / FILE_NAME),
    )
