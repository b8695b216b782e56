"""The directories of checkpoints, looked at before anything starts: writable, not another run's, and whole at first sight."""

import os
from pathlib import Path

from ..errors import LaunchError
from .checkpoint_manifest import glance, told
from .checkpoint_names import OLDER, named
from .plan import Plan


def require_checkpoint_folders(plan: Plan) -> None:
    """Raise LaunchError for a checkpoint.save that cannot be written, or is another run's, and for nothing to resume.

    So it does for a folder that cannot be looked at: a name that is too long, a parent that this user may not enter.
    """
    try:
        _look(plan)
    except OSError as error:
        wanted = plan.request.checkpoint
        raise LaunchError(
            "A folder of checkpoints cannot be read",
            where=[
                f"checkpoint.{key}={value}" for key, value in (("save", wanted.save), ("load", wanted.load)) if value
            ],
            why=f"{error.strerror or error}.",
            fixes=[("checkpoint.save=ANOTHER", "saves there"), ("checkpoint.load=ANOTHER", "resumes from there")],
        ) from None


def _look(plan: Plan) -> None:
    wanted = plan.request.checkpoint
    save, load = wanted.save, wanted.load
    if load is not None and load != save and not named(load):
        raise LaunchError(
            "No complete checkpoint in checkpoint.load",
            where=[f"checkpoint.load={load}"],
            why="Only a directory that is also checkpoint.save may be empty at first.",
            fixes=[
                ("checkpoint.load=null", "starts anew"),
                (f"checkpoint.save={load}", "starts anew and saves there"),
            ],
        )
    if load is not None and wanted.on_damage != OLDER:
        _require_whole(Path(load))
    if save is not None:
        _require_own(Path(save), load)
        _require_writable(Path(save))


def _require_whole(load: Path) -> None:
    """Names and sizes of the newest checkpoint; its content is verified by the ranks, which share that work."""
    found = named(load)
    wrong = glance(found[-1])[1] if found else []
    if wrong:
        raise LaunchError(
            "The newest checkpoint in checkpoint.load is damaged",
            where=[f"checkpoint.load={load}"],
            why=f"{told(found[-1], wrong)} Training on from it would go wrong without a word.",
            fixes=[
                (f"checkpoint.on_damage={OLDER}", "resumes from the newest one that is whole, and says which"),
                (f"rm -r {found[-1]}", "gives it up for good; the one before it is resumed"),
            ],
            source="hydra_overlap/launch/checkpoint_manifest.py",
        )


def _require_own(save: Path, load: str | None) -> None:
    if named(save) and (load is None or Path(load).resolve() != save.resolve()):
        raise LaunchError(
            "checkpoint.save holds the checkpoints of another run",
            where=[f"checkpoint.save={save}"],
            why=f"This run does not resume from {named(save)[-1].name}, and new checkpoints replace older ones.",
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
