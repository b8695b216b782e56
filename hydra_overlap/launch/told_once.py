"""A refusal that every rank of a job meets, told once: ranks that torchrun or srun started compose one each, all the same.

Rank 0 prints it. The first rank of another machine prints one line, for that machine's environment may be the cause. Every
other rank is silent if the first one of its machine met the same; if not, it prints a line of its own.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import LaunchError
from .external import Joined, joined

PATIENCE_S = 10.0  # for the first rank of a machine, which composes at the same time
FRESH_S = 120.0  # age up to which a file is of this start of the job, not of an earlier one at the same port
LOOK_S = 0.05
JOB = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)


def shortened(text: str, rules: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """What this process is to print in place of `text`; None where all of it. rules: what stands in one line for the text.

    Empty where another rank of this machine says the same.
    """
    try:
        job = joined(environment)
    except LaunchError:
        return None  # nobody knows which rank this is
    if job is None:
        return None
    file = _file(text, environment)
    if job.local_rank and _was_told(file):
        return ""
    kept = _keep(file, text)
    return None if job.rank == 0 else _line(job, rules, file if kept else None)


def _line(job: Joined, rules: str, file: Path | None) -> str:
    return f"[rank {job.rank}] refused: {rules}" + (f"; the whole text is in {file}" if file else "")


def _file(text: str, environment: Mapping[str, str]) -> Path:
    """One place for one text in one start of one job, on this machine and for this user."""
    names = [environment.get(name, "") for name in JOB]
    key = hashlib.sha256("\0".join([str(os.getuid()), *names, text]).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"hydra-overlap-refused-{key}.txt")


def _was_told(file: Path) -> bool:
    """Whether the first rank of this machine says the same, or will."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if time.time() - file.stat().st_mtime < FRESH_S:
                return True
        time.sleep(LOOK_S)
    return False


def _keep(file: Path, text: str) -> bool:
    """Leave the text for the others; never through a link that somebody else made. -> whether it is there."""
    with suppress(OSError):
        with suppress(FileNotFoundError):
            file.unlink()
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(f"{text}\n")
        return True
    return False
