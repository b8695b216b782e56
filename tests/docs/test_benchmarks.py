"""What measures our speed runs, and measures both sides."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def output(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cost_of_composition_is_measured_against_a_bare_hydra_app() -> None:
    told = output("compose.py", "--rounds", "2")
    assert told.count("ratio of medians") == 2  # of wall time and of processor time
    assert "`resolve` alone, measured" in told


def test_one_grid_of_the_sweep_benchmark_is_judged() -> None:
    assert '"points": 10' in output("sweep.py", "--one", "grid", "--points", "10")
