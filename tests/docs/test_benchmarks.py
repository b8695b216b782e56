"""What measures our speed runs, and measures both sides."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def output(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_cost_of_composition_is_measured_against_a_bare_hydra_app() -> None:
    told = output("compose.py", "--rounds", "2")
    assert told.count("ratios to bare Hydra of medians") == 2  # of wall time and of processor time
    assert told.count("train.py") == told.count("our config") == 2
    assert "`resolve` alone, measured" in told


def test_one_grid_of_the_sweep_benchmark_is_judged() -> None:
    assert '"points": 10' in output("sweep.py", "--one", "grid", "--points", "10")


@pytest.mark.slow
def test_the_seconds_of_a_run_are_told_by_stage() -> None:
    told = output("start.py", "--rounds", "1", "--iters", "5", "training=smoke", "data=mock")
    stages = {line[:38].strip(): float(line[38:45]) for line in told.splitlines()[2:]}
    parts = list(stages.values())[:5]
    assert all(seconds > 0 for seconds in parts)
    assert stages["in all"] == pytest.approx(sum(parts), abs=0.3)  # each is rounded
    assert stages["until the first loss is on the screen"] < stages["in all"]
