"""The apps the tests run, and what is asserted of every refusal."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from hydra_overlap import GatingError
from hydra_overlap.compose.enforce import refusal_in

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
JOB = APPS / "job.py"
TRAIN = ROOT / "train.py"

Run = Callable[..., subprocess.CompletedProcess[str]]
Compose = Callable[..., DictConfig]


def what_the_job_saw(output: str) -> list[dict[str, Any]]:
    """The lines job.py printed, one for each job."""
    return [json.loads(line.removeprefix("TASK RAN ")) for line in output.splitlines() if line.startswith("TASK RAN ")]


def assert_refused(done: subprocess.CompletedProcess[str], rule: str) -> None:
    """The command ended in the message of this rule, without a traceback, before any job."""
    assert done.returncode == 1, done.stderr
    assert f"\nerror {rule}  " in done.stderr
    assert "Traceback" not in done.stderr
    assert "TASK RAN" not in done.stdout


def refusal_of(error: pytest.ExceptionInfo[ConfigCompositionException]) -> GatingError:
    refusal = refusal_in(error.value)
    assert refusal is not None, error.value
    return refusal


def rules_of(error: pytest.ExceptionInfo[ConfigCompositionException]) -> list[str]:
    return [finding.rule for finding in refusal_of(error).findings]


def fixes_of(error: pytest.ExceptionInfo[ConfigCompositionException]) -> list[str]:
    return [fix.override for finding in refusal_of(error).findings for fix in finding.fixes]
