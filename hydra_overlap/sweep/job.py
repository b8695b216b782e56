"""What one job of a sweep leaves in its folder, whoever ran it: `job.json`, and a lock that is held while it runs.

The folder alone says how a job ended, so that nothing is lost with a launcher, a worker or the process that swept.
"""

import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import files
from ..errors import GatingError, HydraOverlapError, LaunchError
from ..findings import render
from ..launch.stopping import REQUEUE

JOB, RESULT, OUTPUT_LOG = "job.json", "result.json", "output.log"
LOCK = ".running"
DRY_RUN = "dry run"  # mode of a result that is computed, by dry_run/report.py
RANKS = ("SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")  # set in every task of a job that has several
QUEUED, RUNNING, COMPLETED, FAILED, STOPPED = "queued", "running", "completed", "failed", "stopped"
FINAL = (COMPLETED, FAILED, STOPPED)


class JobExitError(Exception):
    """The task function called sys.exit with a code that is not 0: as an exception, it ends this job alone."""


def queue(folder: Path, *, number: int, identity: str | None) -> None:
    """Mark a folder as that of a job about to be launched; what an earlier attempt said of itself goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (folder / RESULT, *folder.glob("job.*.json")):
        left.unlink(missing_ok=True)
    files.write_json(folder / JOB, {"format": 1, "status": QUEUED, "number": number, "identity": identity})


def state(folder: Path) -> dict[str, Any]:
    """What became of the job in `folder`: its `job.json`, with `result` where the run wrote one; empty if there is none.

    status: queued, running, completed, failed or stopped. A job that says it runs, and whose process is gone, failed.
    """
    job = files.read_json(folder / JOB)
    if not job:
        return {}
    if job["status"] == RUNNING and not _held(folder):
        job = files.read_json(folder / JOB)  # it may have ended between the two looks
        if job.get("status") == RUNNING and files.read_json(folder / RESULT).get("status") == COMPLETED:
            job = {**job, "status": COMPLETED}  # ranks outlived the process that started them
        elif job.get("status") == RUNNING:
            job = {
                **job,
                "status": FAILED,
                "error": "The process ended without a result: it was killed, or its machine was lost.",
            }
    for other in sorted(folder.glob("job.*.json")):  # a rank that failed, of a launcher that asks only the first
        job = {**job, **files.read_json(other)} if job["status"] in (COMPLETED, RUNNING) else job
    result = files.read_json(folder / RESULT)
    returned = job.get("returned")
    if not result and isinstance(returned, dict) and ("step_ms" in returned or returned.get("mode") == DRY_RUN):
        result = returned
    if job["status"] == COMPLETED and result.get("status") in (FAILED, STOPPED):
        job = {**job, "status": result["status"], "error": result.get("error") or ""}
    return {**job, "result": result}


def fail(folder: Path, error: str, *, status: str = FAILED) -> None:
    """Say in its place how a job ended that could not say so itself."""
    job = {**files.read_json(folder / JOB), "status": status, "error": error, "ended": _now()}
    files.write_json(folder / JOB, job)


@dataclass(frozen=True)
class Recorded:
    """A task function that leaves `job.json` in its output directory. Pickled to wherever a launcher runs it.

    to_file: output of the job, its ranks included, goes into output.log of its folder when it runs in another process
    than the sweep: several jobs at once would write over each other.
    """

    task: Any
    to_file: bool = False
    sweeper: int = field(default_factory=os.getpid)

    def __call__(self, cfg: Any) -> Any:
        """Run the task; raises what it raises, and JobExitError for sys.exit with a code other than 0 and 75."""
        from hydra.core.hydra_config import HydraConfig

        folder = Path(HydraConfig.get().runtime.output_dir)
        if any(os.environ.get(name, "0") != "0" for name in RANKS):
            return self._as_other_rank(cfg, folder)
        job = {**files.read_json(folder / JOB), "status": RUNNING, "began": _now(), "host": socket.gethostname()}
        job["pid"] = os.getpid()
        began = time.monotonic()
        with _holding(folder), self._output(folder):
            files.write_json(folder / JOB, job)
            try:
                returned = self._run(cfg)
            except BaseException as error:
                job |= described(error)
                raise
            else:
                job |= {"status": COMPLETED, "returned": plain(returned)}
                return returned
            finally:
                files.write_json(folder / JOB, {**job, "seconds": round(time.monotonic() - began, 3), "ended": _now()})

    def _run(self, cfg: Any) -> Any:
        """The task; sys.exit in it ends it, and only a request to stop goes on to end the sweep."""
        try:
            return self.task(cfg)
        except SystemExit as end:
            if not end.code:
                return None
            if end.code == REQUEUE and os.getpid() == self.sweeper:
                raise
            raise JobExitError(end.code) from None

    def _as_other_rank(self, cfg: Any, folder: Path) -> Any:
        try:
            return self._run(cfg)
        except BaseException as error:
            rank = next(os.environ[name] for name in RANKS if name in os.environ)
            files.write_json(folder / f"job.{rank}.json", described(error))
            raise

    @contextmanager
    def _output(self, folder: Path) -> Iterator[None]:
        if not self.to_file or os.getpid() == self.sweeper:
            yield
            return
        _flush()
        before = os.dup(1), os.dup(2)
        with (folder / OUTPUT_LOG).open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            for number, kept in enumerate(before, start=1):
                os.dup2(kept, number)
                os.close(kept)


def described(error: BaseException) -> dict[str, Any]:
    """How a job ended: status, what a person reads, and the traceback of a bug."""
    stopped = getattr(error, "exit_code", None) == REQUEUE or (
        isinstance(error, (SystemExit, JobExitError)) and error.args[:1] == (REQUEUE,)
    )
    if isinstance(error, KeyboardInterrupt):
        return {"status": STOPPED, "error": "Interrupted."}
    if isinstance(error, (SystemExit, JobExitError)):
        said = error.args[0] if error.args else None
        text = said if isinstance(said, str) else f"The job ended with exit code {said}."
        return {"status": STOPPED if stopped else FAILED, "error": "The job was asked to stop." if stopped else text}
    if isinstance(error, HydraOverlapError):
        return {"status": STOPPED if stopped else FAILED, "reason": _reason(error), "error": told(error)}
    first = "".join(traceback.format_exception_only(error)).strip()
    return {"status": FAILED, "error": first, "traceback": _traceback(error)}


def told(error: HydraOverlapError) -> str:
    """Text of an error of ours within a sweep, of which other jobs may have run: without "nothing was started"."""
    if isinstance(error, GatingError):
        return "\n\n".join(render(finding) for finding in error.findings)
    if type(error).__str__ is LaunchError.__str__:
        return render(error.finding)  # type: ignore[attr-defined]
    return str(error)


def reason(state: Mapping[str, Any]) -> str:
    """Why a job ended as it did, in one line: the first that says something."""
    lines = [state.get("reason") or "", *(state.get("error") or "").splitlines()]
    return next((line.strip() for line in lines if line.strip()), "")


def _reason(error: HydraOverlapError) -> str:
    """The title of a LaunchError whose text opens with it."""
    return error.finding.title if isinstance(error, LaunchError) and type(error).__str__ is LaunchError.__str__ else ""


def plain(value: Any) -> Any:
    """What a job returned, as JSON holds it; None for what it cannot hold. Numbers of numpy and torch are numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    with suppress(Exception):
        return plain(value.item())
    return None


def _traceback(error: BaseException) -> str:
    """From the task on: what called it is Hydra's and ours."""
    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename in (__file__,) and shown.tb_next is not None:
        shown = shown.tb_next
    return "".join(traceback.format_exception(type(error), error, shown))


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Hold the lock that says this job runs; the system lets go of it however the process ends."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):  # a file system without locks: then nobody can tell
        yield
        return
    try:
        yield
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)


def _held(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
