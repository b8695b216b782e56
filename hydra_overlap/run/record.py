"""The record of a run: `result.json` in its output directory, and what train.py's main returns.

Rank 0 writes it when the run ends as planned or is asked to stop; whoever started the ranks does when they fail. Both
make it of what the run left in its directory, so it says as much after a failure. Sweeps and schedulers read it.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from .. import files
from ..launch.external import Joined
from ..launch.plan import Plan, now, world_size
from ..launch.stopping import REQUEUE, Stopped, message
from . import manifest
from .report import METRICS, MIN_COUNTED, WARM_UP

FILE_NAME = "result.json"
FORMAT = 1
COMPLETED, FAILED, STOPPED = "completed", "failed", "stopped"
IN_EFFECT = "in effect"  # the verdict of a run that was read back: a difference ends it before its first step

Record = dict[str, Any]


def begin(plan: Plan) -> Plan:
    """The plan with the time at which its run began: now. Takes away what an earlier run left in the same directory that would speak for this one."""
    folder = Path(plan.output_dir)
    names = [FILE_NAME, manifest.FILE_NAME]
    if plan.request.checkpoint.load is None:  # else the steps before the checkpoint are this run's
        names.append(METRICS)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return dataclasses.replace(plan, began=now())


def make(plan: Plan, status: str, *, error: str | None = None, peak_memory_gib: float | None = None) -> Record:
    """The record of a run, from what lies in its directory. peak_memory_gib: over all ranks, where they could tell."""
    folder = Path(plan.output_dir)
    steps = _steps(folder / METRICS)
    losses = [step["loss"] for step in steps if step["loss"] is not None]
    validated = [step["validation_loss"] for step in steps if step.get("validation_loss") is not None]
    counted = steps[WARM_UP:] if len(steps) >= WARM_UP + MIN_COUNTED else []
    began = datetime.fromisoformat(plan.began)
    return {
        "format": FORMAT,
        "status": status,
        "plan": _fingerprint(plan),
        "overrides": list(plan.overrides),
        "mode": "rehearsal" if plan.rehearsal else "gpu",
        "world_size": world_size(plan),
        "steps": len(steps),
        "step_ms": step_ms([step["step_ms"] for step in steps]),
        "tokens_per_s": round(statistics.median(step["tokens_per_s"] for step in counted), 1) if counted else None,
        "loss": {"first": losses[0], "final": losses[-1]} if losses else None,
        "validation_loss": validated[-1] if validated else None,
        "exposed_ms": None,
        "peak_memory_gib": peak_memory_gib if peak_memory_gib is None else round(peak_memory_gib, 3),
        "verdict": IN_EFFECT if (folder / manifest.FILE_NAME).exists() else None,
        "error": error,
        "began": plan.began,
        "seconds": round((datetime.now(timezone.utc) - began).total_seconds(), 1),
    }


def step_ms(times_ms: list[float]) -> dict[str, float] | None:
    """Quartiles of the step times after warm-up; None if too few are left."""
    counted = times_ms[WARM_UP:]
    if len(counted) < MIN_COUNTED:
        return None
    low, median, high = (round(value, 3) for value in statistics.quantiles(counted, n=4))
    return {"median": median, "low": low, "high": high, "counted": len(counted), "discarded": WARM_UP}


def write(plan: Plan, record: Mapping[str, Any]) -> Path:
    """Put the record in its place: there is no moment at which half of it can be read."""
    return files.write_json(Path(plan.output_dir, FILE_NAME), record)


def read(plan: Plan) -> Record | None:
    """The record of a run, once there is one."""
    path = Path(plan.output_dir, FILE_NAME)
    return json.loads(path.read_text()) if path.exists() else None


@contextmanager
def kept(plan: Plan, job: Joined | None) -> Iterator[None]:
    """Leave a record of what ends inside otherwise than planned. Where ranks were joined, rank 0 leaves it."""
    try:
        yield
    except BaseException as error:
        if job is None or job.rank == 0:
            try:
                _leave(plan, error)
            except OSError as unwritten:  # how the run ended is what counts
                print(f"{FILE_NAME} cannot be written: {unwritten.strerror or unwritten}", file=sys.stderr)
        raise


def _leave(plan: Plan, error: BaseException) -> None:
    status, told = _how(plan, error)
    before = read(plan) or {}
    if before.get("status") != status:  # a rank that stops as asked wrote it, and knew more
        write(plan, make(plan, status, error=told, peak_memory_gib=before.get("peak_memory_gib")))


def _how(plan: Plan, error: BaseException) -> tuple[str, str]:
    """(status, what a person reads) of the exception a run ended with."""
    if isinstance(error, Stopped) or (isinstance(error, SystemExit) and error.code == REQUEUE):
        return STOPPED, message(plan)
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, "Interrupted."
    return FAILED, str(error) or type(error).__name__


def _steps(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; the last of a run that was killed may be half a line."""
    steps = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            steps.append(json.loads(line))
        except ValueError:
            break
    return steps


def _fingerprint(plan: Plan) -> str | None:
    """overlap.plan, as it stands in the composed config."""
    config: dict[str, Any] = yaml.safe_load(plan.config) or {}
    return (config.get("overlap") or {}).get("plan")
