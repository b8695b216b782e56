"""Running the real `train.py` and reading what it left."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import warm

ROOT = Path(__file__).parents[2]
SMOKE = ("training=smoke", "data.max_bytes=1000000")


class Run(NamedTuple):
    """A finished command and its output directory."""

    code: int
    output: str
    folder: Path

    @property
    def said(self) -> str:
        """The output with its lines joined: where a text is broken depends on the width of the terminal."""
        return " ".join(self.output.split())

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())


@pytest.fixture
def train(tmp_path):
    """`train(*overrides)`: `python train.py training=smoke OVERRIDES` in an empty directory, warm.

    launcher: what comes before train.py, in a process of its own: torchrun, or a new interpreter.
    """

    def run(*overrides, launcher=(), smoke=SMOKE, env=None, timeout=600):
        folder = tmp_path / "run"
        words = [str(ROOT / "train.py"), *smoke, f"hydra.run.dir={folder}", *overrides]
        environment = {**os.environ, **(env or {})}
        if launcher:
            options = {"capture_output": True, "text": True, "timeout": timeout}
            done = subprocess.run([*launcher, *words], cwd=tmp_path, env=environment, **options)
        else:
            done = warm.run(words, cwd=tmp_path, env=environment, timeout=timeout, modules=warm.TRAINER)
        return Run(done.returncode, done.stdout + done.stderr, folder)

    return run
