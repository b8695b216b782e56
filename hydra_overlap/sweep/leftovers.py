"""What joblib leaves in temporary folders when a sweep is killed: taken away when the next one starts.

It names shared folders and semaphores after the process that made them, as torch names shared memory. Only those of our own
sweeps go: each writes a note of its process while it runs, and one whose process is gone says whose leavings they are.
Elsewhere a number may be another process's: the note names the machine's boot and the container (its PID namespace) in which
the number means something.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import files

SHARED = Path("/dev/shm")
NOTES = "hydra_overlap_{user}"  # folder of the notes, in that of temporary files
_OF_PROCESS = re.compile(r"(?:joblib_memmapping_folder_|sem\.loky-|torch_)(\d+)[_-].*")


@contextmanager
def noted() -> Iterator[None]:
    """Take away what killed sweeps have left, and let this one be known for as long as it runs. Never raises of its own."""
    note = _notes() / f"{os.getpid()}.json"
    with suppress(OSError):
        _clean()
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_json(note, _here())
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


def _notes() -> Path:
    return Path(tempfile.gettempdir(), NOTES.format(user=os.getuid()))


def _here() -> dict[str, Any]:
    """Where a process number means what it means here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"boot": boot, "processes": os.readlink("/proc/self/ns/pid")}


def _clean() -> None:
    notes, here, dead = _notes(), _here(), set()
    if not notes.is_dir() or notes.stat().st_uid != os.getuid():
        return
    for note in notes.glob("*.json"):
        with suppress(ValueError, OSError):
            if json.loads(note.read_text()) == here and not Path("/proc", note.stem).exists():
                dead.add(note.stem)
    for folder in (SHARED, Path(tempfile.gettempdir())):
        for path in folder.iterdir() if folder.is_dir() else ():
            found = _OF_PROCESS.fullmatch(path.name)
            if found and found[1] in dead and path.lstat().st_uid == os.getuid():
                _remove(path)
    for process in dead:
        (notes / f"{process}.json").unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
