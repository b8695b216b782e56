"""The directories of checkpoints, looked at before anything starts: writable, and not another run's."""

import os
from pathlib import Path

from ..errors import LaunchError
from .plan import Plan

PARTIAL = ".partial"
STATE = "state.json"


def complete(folder: str | Path) -> list[Path]:
    """Complete checkpoints of a directory, oldest first; empty if there is no such directory."""
    found = [path for path in Path(folder).glob("iter_*") if path.suffix != PARTIAL and (path / STATE).is_file()]
    return sorted(found)


def require_checkpoint_folders(plan: Plan) -> None:
    """Raise LaunchError for a checkpoint.save that cannot be written, or is another run's, and for nothing to resume."""
    wanted = plan.request.checkpoint
    save, load = wanted.save, wanted.load
    if load is not None and load != save and not complete(load):
        raise LaunchError(
            "No complete checkpoint in checkpoint.load",
            where=[f"checkpoint.load={load}"],
            why="Only a directory that is also checkpoint.save may be empty at first.",
            fixes=[
                ("checkpoint.load=null", "starts anew"),
                (f"checkpoint.save={load}", "starts anew and saves there"),
            ],
        )
    if save is not None:
        _require_own(Path(save), load)
        _require_writable(Path(save))


def _require_own(save: Path, load: str | None) -> None:
    if complete(save) and (load is None or Path(load).resolve() != save.resolve()):
        raise LaunchError(
            "checkpoint.save holds the checkpoints of another run",
            where=[f"checkpoint.save={save}"],
            why=f"This run does not resume from {complete(save)[-1].name}, and new checkpoints replace older ones.",
            fixes=[(f"checkpoint.load={save}", "resumes from there"), ("checkpoint.save=ANOTHER", "keeps them apart")],
        )


def _require_writable(save: Path) -> None:
    try:
        save.mkdir(parents=True, exist_ok=True)
        writable = os.access(save, os.W_OK | os.X_OK)
        reason = "No permission to write there."
    except OSError as error:
        writable, reason = False, f"{error.strerror or error}."
    if not writable:
        raise LaunchError(
            "checkpoint.save cannot be written",
            where=[f"checkpoint.save={save}"],
            why=reason,
            fixes=[
                ("checkpoint.save=ANOTHER", "a directory you may write to"),
                ("checkpoint.save=null", "writes none"),
            ],
        )
