"""Sweeps as people start them, interrupt them and kill them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests import warm

APPS = Path(__file__).parent / "apps"
JOB = APPS / "job.py"
RANKS = APPS / "ranks.py"
TIME_LIMIT_S = 240  # a wide bound, for what would never come


class Sweeps:
    """`job.py -m ...` in a directory of its own, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"

    def command(self, *arguments: str, app: Path = JOB) -> list[str]:
        said = [f"runs={self.runs}"] if app == JOB else []
        return [sys.executable, str(app), "-m", *said, *arguments]

    def run(self, *arguments: str, app: Path = JOB, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        modules = warm.TRAINER if app.name == "train.py" else warm.HYDRA
        words = self.command(*arguments, app=app)[1:]
        return warm.run(words, cwd=cwd or self.folder, timeout=TIME_LIMIT_S, modules=modules)

    def start(self, *arguments: str, app: Path = JOB) -> subprocess.Popen[str]:
        """In the background, with a Ctrl-C that reaches it."""
        return subprocess.Popen(
            self.command(*arguments, app=app),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    def ran(self) -> list[int]:
        """The number of layers of every job that began, in order, however often."""
        lines = self.runs.read_text().splitlines() if self.runs.exists() else []
        return [int(line.partition(",")[0]) for line in lines]

    def wait_for(self, jobs: int) -> None:
        """Until that many jobs began."""
        end = time.monotonic() + TIME_LIMIT_S
        while len(self.ran()) < jobs:
            assert time.monotonic() < end, f"only {self.ran()} began"
            time.sleep(0.05)

    def sweep_folder(self) -> Path:
        (found,) = self.folder.glob("multirun/*/*")
        return found


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def statuses(folder: Path) -> list[str]:
    """Of every point, in order."""
    return [row["status"] for row in results(folder)["rows"]]


def end_with(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send the signal to the command alone and wait; -> what it had printed."""
    os.kill(process.pid, number)
    return process.communicate(timeout=TIME_LIMIT_S)[0]
