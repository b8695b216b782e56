"""The names of checkpoints in their directory: which folders are some, of which step, and which were written to their end."""

import re
from pathlib import Path

PARTIAL = ".partial"
STATE = "state.json"
MANIFEST = "manifest.json"
DAMAGED = ".damaged"  # ends the name of one that checkpoint.on_damage=older has set aside
OLDER = "older"  # checkpoint.on_damage: go back to the newest whole one
_NAME = re.compile(r"iter_(\d{7,})")


def step_of(folder: Path) -> int | None:
    """The step in the name of a checkpoint; None for any other name, that of a copy (`iter_0000004_bak`) among them."""
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def named(folder: str | Path) -> list[Path]:
    """What has the name of a checkpoint in a directory, whole or damaged, oldest first; empty if there is no directory."""
    found = [path for path in Path(folder).glob("iter_*") if step_of(path) is not None and path.is_dir()]
    return sorted(found, key=lambda path: (step_of(path), path.name))


def complete(folder: str | Path) -> list[Path]:
    """Checkpoints of a directory that were written to their end, oldest first. Whether they are damaged is not looked at."""
    return [path for path in named(folder) if (path / MANIFEST).is_file() or (path / STATE).is_file()]
