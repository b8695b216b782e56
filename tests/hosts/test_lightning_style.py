"""The example in the layout of lightning-hydra-template, run as its README says."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import warm

APP = Path(__file__).parents[2] / "examples" / "lightning_style"


@pytest.fixture
def run(tmp_path: Path):
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
        return warm.run([APP / "src" / "train.py", *arguments], cwd=tmp_path, env=environment)

    return start


def test_the_app_runs_without_a_bundle(run) -> None:
    assert run().stdout == "no overlap was asked for\n"


@pytest.mark.parametrize("asked", ["+comm_overlap=tp4_h100", "experiment=tp4"])
def test_a_bundle_is_judged_with_the_apps_own_nodes(run, asked: str) -> None:
    done = run(asked)
    assert "tp_comm_overlap=True" in done.stdout, done.stderr
    assert "overlap_grad_reduce=True" in done.stdout  # its trainer shards the optimizer over two replicas
    assert "ranks=8 env={'CUDA_DEVICE_MAX_CONNECTIONS': '1'}" in done.stdout


def test_a_layout_on_the_command_line_wins_and_is_judged(run) -> None:
    done = run("experiment=tp4", "overlap/parallelism=tp8")
    assert done.returncode == 1 and "\nerror UB001  " in done.stderr and "Traceback" not in done.stderr
    assert "tensor_model_parallel_size=8 overlap/parallelism/tp8.yaml" in " ".join(done.stderr.split())


def test_a_rule_reads_the_apps_own_name_and_its_fix_names_it(run) -> None:
    done = run("experiment=tp4", "model.net.n_heads=6")
    assert done.returncode == 1 and "\nerror PAR006  " in done.stderr
    assert "model.net.n_heads (overlap.reads)" in done.stderr
    assert "model.net.n_heads=8" in done.stderr
    assert run("experiment=tp4", "model.net.n_heads=8").returncode == 0


def test_a_sweep_over_the_apps_own_values_is_refused_before_its_first_job(run, tmp_path: Path) -> None:
    done = run("-m", "experiment=tp4", "model.net.n_heads=64,6", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 1 and "PAR006" in done.stderr and "ranks=" not in done.stdout
