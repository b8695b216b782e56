"""A search by hydra-optuna-sweeper: what a rule refuses is pruned, and never launched."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.sweep.commands import APPS

pytest.importorskip(
    "hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper (pip install hydra-optuna-sweeper)"
)

SEARCH = APPS / "search.py"


def search(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SEARCH), "-m", "hydra/sweeper=overlap_optuna", "hydra.sweep.dir=s", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_refused_trial_is_pruned_and_the_search_goes_on(tmp_path: Path) -> None:
    grid = ("hydra/sweeper/sampler=grid", "comm_overlap=choice(none,tp4_h100)", "parallelism=choice(tp1,tp2,tp4)")
    done = search(tmp_path, *grid, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3")
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("TASK RAN")) == [
        "TASK RAN 1", "TASK RAN 2", "TASK RAN 4", "TASK RAN 4",
    ]  # fmt: skip
    assert done.stdout.count(" pruned: comm_overlap=tp4_h100 parallelism=tp1") == 1
    assert "TP001 TP overlap is on with a single tensor-parallel rank" in done.stdout
    assert "Failed experiment" not in done.stdout + done.stderr
    best = OmegaConf.load(tmp_path / "s" / "optimization_results.yaml")
    assert (best.best_value, best.best_params.parallelism) == (6.0, "tp4")


def test_a_search_without_a_legal_point_ends_in_the_refusal(tmp_path: Path) -> None:
    done = search(tmp_path, "comm_overlap=tp4_h100", "parallelism=choice(tp1)", "hydra.sweeper.n_trials=3")
    assert done.returncode == 1
    assert "The search found no legal point" in done.stderr and "\nerror TP001  " in done.stderr
    assert "Traceback" not in done.stderr and "TASK RAN" not in done.stdout
