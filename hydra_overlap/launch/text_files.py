"""The text a run trains on, looked at before anything starts: its files are there, and the tokenised text can be kept."""

import glob
import os
import sysconfig
from pathlib import Path

from ..errors import LaunchError
from .plan import Plan

_SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3"})


def sources(plan: Plan) -> list[Path]:
    """Files of the plan's text, sorted, repeats left out. Raises LaunchError if there are none or one cannot be read."""
    data = plan.request.data
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files = _stdlib_files(stdlib) if data.kind == "stdlib" else _named_files(data.files)
    if not files:
        raise LaunchError(
            "No text to train on",
            where=[f"data.kind={data.kind}", f"data.files=[{','.join(data.files)}]"],
            why="No file is named, or the pattern matches none.",
            fixes=[("data=text 'data.files=[/path/*.txt]'", "your own files"), ("data=mock", "made-up tokens")],
        )
    return files


def _stdlib_files(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        # site-packages may hold a hundred times as many
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [Path(folder, name) for name in files if name.endswith(".py") and name not in _SKIPPED]
    return sorted(found)


def _named_files(patterns: list[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        bad = [name for name in found or [pattern] if not os.path.isfile(name) or not os.access(name, os.R_OK)]
        if bad:
            raise LaunchError(
                "A data file does not exist or cannot be read",
                where=[f"data.files=[{','.join(patterns)}]"],
                why=f"Not a readable file: {', '.join(bad)}.",
                fixes=[
                    ("data.files=[/path/*.txt]", "files that exist"),
                    ("data=stdlib data.files=[]", "the standard library's source files"),
                ],
            )
        files += [Path(name) for name in found]
    return list(dict.fromkeys(files))


def cache_dir(plan: Plan) -> Path:
    """data.cache_dir, or the user's cache directory."""
    said = plan.request.data.cache_dir
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.path.expanduser(said)) if said else base / "hydra-overlap" / "data"


def require(plan: Plan) -> list[Path]:
    """The files of the plan's text, none of mock data; nothing is read or written, or imported.

    Raises LaunchError for what `prepare` would find as soon as it looks.
    """
    if plan.request.data.kind == "mock":
        return []
    files, folder = sources(plan), cache_dir(plan)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(plan, f"{folder}: {'no permission to write there' if folder.is_dir() else 'not a directory'}.")
    return files


def unwritable(plan: Plan, why: str) -> LaunchError:
    """The refusal of data.cache_dir."""
    return LaunchError(
        "The tokenised text cannot be stored",
        where=[f"data.cache_dir={plan.request.data.cache_dir or 'null'}"],
        why=why,
        fixes=[("data.cache_dir=DIRECTORY", "a directory you may write to")],
    )
