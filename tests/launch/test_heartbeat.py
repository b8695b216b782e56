"""Ranks that wait for one another: the one that does not come is named, and nobody waits for ever."""

import dataclasses
import json
import os
import time

import psutil
import pytest

from hydra_overlap.launch import heartbeat, local
from tests.plans import plan_of

SCRIPT = """
import os, signal, time
from hydra_overlap.launch import heartbeat, local

def read_sample():
    time.sleep(60)

def train(plan):
    rank = int(os.environ["RANK"])
    with heartbeat.Heart(plan, rank) as heart:
        heart.step = 3
        {body}

local.as_rank(train, local.plan_of_this_rank())
"""

COLLECTIVE = """
        import datetime, torch, torch.distributed as dist
        limit = datetime.timedelta(seconds=heartbeat.timeout_s(plan))
        dist.init_process_group("gloo", timeout=limit)
        if rank == 1:
            read_sample()
        dist.all_reduce(torch.ones(1))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(body)`: two ranks that run `body` within a heart, which sees rank and plan; they wait 3 s for each other."""
    monkeypatch.setattr(heartbeat, "GRACE_S", 1.0)

    def run(body):
        script = tmp_path / "ranks.py"
        script.write_text(SCRIPT.format(body=body))
        plan = plan_of("launch.distributed_timeout_minutes=0.05", output_dir=tmp_path)
        local.start(plan, str(script), {})

    return run


def test_a_rank_that_is_busy_elsewhere_is_named_with_the_place_it_stands_at(start):
    with pytest.raises(local.RankError) as failure:
        start(COLLECTIVE.strip())
    text = str(failure.value)
    assert text.startswith("Rank 1 did not arrive: busy with something else while the others waited.")
    assert "read_sample" in text and "launch.distributed_timeout_minutes=0.05" in text
    assert "all_reduce" in text and "Timed out waiting 3000ms" in text


def test_if_all_ranks_hang_none_is_waited_for(start, tmp_path, monkeypatch):
    """Ranks that are asked to stop get STOP_TIME_S for a last checkpoint; those that hang could not hear it."""
    monkeypatch.setattr(local, "STOP_TIME_S", 1200)
    began = time.monotonic()
    with pytest.raises(local.RankError):
        start("os.kill(os.getpid(), signal.SIGSTOP)")
    assert time.monotonic() - began < local.STOP_TIME_S / 2, "they were waited for"
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"{tmp_path}/ranks.py" in (process.info["cmdline"] or [])
    ]
    assert not left


def sign(rank, *, age=0.0, step=5, place="torch/distributed/distributed_c10d.py:1 all_reduce"):
    return {"rank": rank, "time": 1000.0 - age, "step": step, "place": [place], "pid": 1}


def test_a_clock_that_is_set_makes_nobody_silent_and_a_silent_rank_is_found_all_the_same(tmp_path):
    def write(rank, *, up, clock, host="one"):
        content = {**sign(rank), "began": plan.began, "host": host, "up": up, "time": clock}
        (tmp_path / "ranks/alive" / f"{rank}.json").write_text(json.dumps(content))

    plan = plan_of("launch.distributed_timeout_minutes=0.05", "parallelism.world_size=2", output_dir=tmp_path)
    (tmp_path / "ranks/alive").mkdir(parents=True)
    write(0, up=50.0, clock=1000.0)
    write(1, up=50.1, clock=4600.1)  # an hour on
    assert "Ranks wait for each other" in heartbeat.explained(plan, "Timed out")
    write(0, up=20.0, clock=4600.0)
    assert heartbeat.explained(plan, "Timed out").startswith("Rank 0 hangs: no heartbeat for 30 s.")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([sign(0), sign(1, age=30)], "Rank 1 hangs: no heartbeat for 30 s."),
        ([sign(0), sign(1, step=4)], "Rank 1 did not arrive: a step behind the others."),
        ([sign(0)], "Rank 1 never began."),
        ([sign(0), sign(1)], "Ranks wait for each other"),
        ([sign(0), sign(1, place="train/data.py:9 read")], "Rank 1 did not arrive: busy"),
    ],
    ids=["silent", "behind", "missing", "all wait", "elsewhere"],
)
def test_who_is_named(monkeypatch, found, said):
    plan = plan_of("launch.distributed_timeout_minutes=0.05")
    monkeypatch.setattr(heartbeat, "signs", lambda _: found)
    assert heartbeat.explained(plan, "Timed out").startswith(said)


def test_signs_of_an_earlier_run_do_not_count(tmp_path):
    plan = plan_of(output_dir=tmp_path)
    with heartbeat.Heart(dataclasses.replace(plan, began="earlier"), 0):
        pass
    assert heartbeat.signs(plan) == []
    with heartbeat.Heart(plan, 1) as heart:
        heart.step = 2
    (found,) = heartbeat.signs(plan)
    assert found["rank"] == 1 and found["pid"] == os.getpid()


def test_other_errors_than_time_outs_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="no number"), heartbeat.Heart(plan_of(output_dir=tmp_path), 0):
        raise ValueError("no number")
