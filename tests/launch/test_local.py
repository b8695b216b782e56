"""Ranks on this machine: they get the plan and the environment, and a failure names its rank."""

import json
import os

import pytest

from hydra_overlap.launch import local
from tests.plans import plan_of

SCRIPT = """
import json, os, signal, sys, time
from hydra_overlap.launch import local

def train(plan):
    rank = int(os.environ["RANK"])
    {body}

local.as_rank(train, local.plan_of_this_rank())
"""


@pytest.fixture
def start(tmp_path):
    """`start(body)`: two ranks that run `body`, which sees rank and plan."""

    def run(body, environment=None):
        script = tmp_path / "ranks.py"
        script.write_text(SCRIPT.format(body=body))
        local.start(plan_of(output_dir=tmp_path), str(script), environment or {})

    return run


def test_every_rank_gets_the_plan_and_the_environment(start, tmp_path):
    start(
        f"open({str(tmp_path)!r} + f'/seen{{rank}}', 'w').write("
        "json.dumps([os.environ['WORLD_SIZE'], os.environ['PROMISED'], plan.request.model.name]))",
        {"PROMISED": "1"},
    )
    assert [json.loads((tmp_path / f"seen{rank}").read_text()) for rank in (0, 1)] == [["2", "1", "tiny"]] * 2
    assert "PROMISED" not in os.environ and local.plan_of_this_rank() is None


def test_an_exception_names_its_rank_and_stops_the_others(start):
    with pytest.raises(local.RankError, match=r"Rank 1 failed first \(exit code 1\)") as failure:
        start("time.sleep(60) if rank == 0 else 1 / 0")
    assert "ZeroDivisionError: division by zero" in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_a_killed_rank_is_named_with_its_signal(start):
    with pytest.raises(local.RankError, match=r"Rank 0 failed first \(signal 9\)"):
        start("time.sleep(60) if rank == 1 else os.kill(os.getpid(), signal.SIGKILL)")


def test_the_traceback_of_a_rank_is_kept_in_its_log(start, tmp_path):
    with pytest.raises(local.RankError):
        start("1 / 0 if rank == 1 else time.sleep(60)")
    logs = "".join(path.read_text() for path in tmp_path.glob("ranks/*/*/1/stderr.log"))
    assert "ZeroDivisionError" in logs
