"""A Slurm of this session's own, and `train.py` as its users start it there."""

import re
import subprocess
import sys

import pytest

from tests.train.conftest import ROOT, SMOKE, Run

from . import cluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running cluster of two nodes; stopped at the end of the session, whatever happened in it."""
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    with cluster.running(tmp_path_factory.mktemp("slurm")) as running:
        yield running


class Started:
    """`train.py` while it runs, and the job it submitted."""

    def __init__(self, process, folder):
        self.process, self.folder = process, folder

    @property
    def job(self) -> str:
        """Id of the job, once it is queued."""
        named = cluster.wait(lambda: list(self.folder.glob("slurm/*_submission.sh")), bool, "the job is queued")
        return re.match(r"\d+", named[0].name).group()

    def log(self, rank=0) -> str:
        """Output of a rank so far, without what libraries say."""
        files = sorted(self.folder.glob(f"slurm/*_{rank}_log.out"))
        return files[0].read_text() if files else ""

    def wait_for(self, text, timeout=60):
        """Wait until rank 0 has said it."""
        cluster.wait(self.log, lambda log: text in log, f"rank 0 says {text!r}", timeout)

    def end(self, timeout=120) -> Run:
        """What the command came to."""
        output, _ = self.process.communicate(timeout=timeout)
        return Run(self.process.returncode, output, self.folder)


@pytest.fixture
def start(slurm, tmp_path):
    """`start(*overrides)`: `python train.py training=smoke OVERRIDES` where Slurm's commands are; before: what starts it."""
    started = []

    def run(*overrides, before=(), folder="run"):
        output = f"hydra.run.dir={tmp_path / folder}"
        command = [*(before or [sys.executable]), str(ROOT / "train.py"), *SMOKE, output, *overrides]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=slurm.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return Started(process, tmp_path / folder)

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
