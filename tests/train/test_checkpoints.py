"""Stopped at any moment, resumed exactly, in another layout too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hydra_overlap.launch import local, preflight, stopping
from hydra_overlap.megatron import checkpoint, rehearsal
from tests import warm
from tests.plans import plan_of
from tests.train.conftest import ROOT, SMOKE

STEPS, STOP = 7, 4
TRAIN = ROOT / "train.py"


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """`run_once(*overrides)` -> (losses of an uninterrupted run, its checkpoint after step STOP); kept for the module."""
    runs = {}

    def run(*overrides):
        if overrides not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted")
            command = [
                str(TRAIN), *SMOKE, f"training.train_iters={STEPS}", f"hydra.run.dir={folder}/run",
                f"checkpoint.save={folder}/checkpoints", f"checkpoint.save_interval={STOP}", *overrides,
            ]  # fmt: skip
            done = warm.run(command, cwd=folder, timeout=600, modules=warm.TRAINER)
            assert done.returncode == 0, done.stdout + done.stderr
            lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
            runs[overrides] = [json.loads(line)["loss"] for line in lines], folder / "checkpoints"
        return runs[overrides]

    return run


@pytest.fixture
def stopped_at(run_once, tmp_path):
    """`stopped_at(*overrides)` -> (losses, a directory whose last checkpoint is that of step STOP)."""

    def take(*overrides):
        losses, saved = run_once(*overrides)
        here = tmp_path / "checkpoints"
        shutil.copytree(saved, here)
        shutil.rmtree(here / f"iter_{STEPS:07d}")
        return losses, here

    return take


@pytest.mark.xdist_group("checkpoints")
@pytest.mark.parametrize(
    "overrides",
    [
        ("parallelism=dp2",),
        pytest.param(("parallelism=pp2_vpp2_dp2", "model.hidden_dropout=0.1"), marks=pytest.mark.slow),
        pytest.param(("parallelism=dp2", "checkpoint.async_save=true", "checkpoint.keep=9"), marks=pytest.mark.slow),
    ],
    ids=["dp2", "pp2 vpp2 dp2 with dropout", "dp2, written while training went on"],
)
def test_a_resumed_run_goes_on_exactly(train, stopped_at, overrides):
    losses, folder = stopped_at(*overrides)
    run = train(f"checkpoint.load={folder}", f"training.train_iters={STEPS}", *overrides)
    assert run.code == 0, run.output
    assert f"resumed after step {STOP} from {folder}" in run.said
    assert run.losses == losses[STOP:]


@pytest.mark.slow
@pytest.mark.xdist_group("checkpoints")
@pytest.mark.parametrize(
    "layout",
    ["parallelism=tp2", "parallelism=dp4", "parallelism.world_size=1", "comm_overlap=pp_interleaved"],
)
def test_another_layout_resumes_the_same_run(train, stopped_at, layout):
    losses, folder = stopped_at("parallelism=dp2")
    run = train(f"checkpoint.load={folder}", f"training.train_iters={STEPS}", layout)
    assert run.code == 0, run.output
    assert "written in another layout" in run.said
    assert run.losses == pytest.approx(losses[STOP:], rel=1e-4)  # bf16


@pytest.mark.xdist_group("checkpoints")
def test_a_finished_run_has_nothing_left_to_do(train, run_once):
    _, folder = run_once("parallelism=dp2")
    run = train(f"checkpoint.load={folder}", f"training.train_iters={STEPS}")
    assert run.code == 0, run.output
    assert f"no step is left to take: training.train_iters={STEPS}" in run.said


@pytest.mark.slow
@pytest.mark.xdist_group("checkpoints")
def test_the_rate_asked_for_holds_whatever_the_checkpoint_was_written_with(train, stopped_at):
    _, folder = stopped_at("parallelism=dp2")
    asked = (
        "optimizer.lr=1e-4",
        "optimizer.min_lr=1e-5",
        "optimizer.lr_decay_style=constant",
        "optimizer.lr_warmup_iters=0",
    )
    run = train(f"checkpoint.load={folder}", f"training.train_iters={STEPS}", *asked)
    assert [step["learning_rate"] for step in run.steps] == pytest.approx([1e-4] * (STEPS - STOP))


@pytest.mark.slow
@pytest.mark.xdist_group("checkpoints")
def test_a_damaged_checkpoint_is_named(train, stopped_at):
    _, folder = stopped_at("parallelism=dp2")
    for file in (folder / f"iter_{STOP:07d}").glob("*.distcp"):
        file.write_bytes(b"")
    run = train(f"checkpoint.load={folder}")
    assert run.code == 1 and f"iter_{STOP:07d} cannot be read" in run.said


@pytest.mark.slow
@pytest.mark.xdist_group("checkpoints")
def test_a_checkpoint_of_another_model_is_refused_and_named(train, stopped_at):
    _, folder = stopped_at("parallelism=dp2")
    run = train(f"checkpoint.load={folder}", "model.num_layers=2")
    assert run.code == 1
    assert "model.num_layers=2, but 4 in the checkpoint" in run.said


@pytest.mark.slow
def test_a_directory_without_checkpoints_starts_anew(train, tmp_path):
    (tmp_path / "none" / "iter_0000003.partial").mkdir(parents=True)
    run = train(f"checkpoint.load={tmp_path}/none", f"checkpoint.save={tmp_path}/none")
    assert run.code == 0, run.output
    assert "no complete checkpoint" in run.said and len(run.losses) == 5


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
from megatron.core import dist_checkpointing

saves, original = [], dist_checkpointing.save
def killed(state, folder, **options):
    original(state, folder, **options)
    saves.append(folder)
    if len(saves) == 2 and os.environ["RANK"] == {rank!r}:
        os.kill(os.getpid(), signal.SIGKILL)
dist_checkpointing.save = killed
if __name__ == "__main__":  # megatron-core's writer starts a process that imports this file again
    local.as_rank(train.train, local.plan_of_this_rank())
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_killed_while_saving_leaves_the_last_complete_checkpoint(tmp_path, rank):
    folder = tmp_path / "checkpoints"
    overrides = ("training=smoke", "data=mock", f"checkpoint.save={folder}", "checkpoint.save_interval=2")
    plan = plan_of(*overrides, output_dir=tmp_path)
    script = tmp_path / "killed.py"
    script.write_text(
        "from hydra_overlap.megatron import cpu\ncpu.install()\n" + KILLED.format(root=str(ROOT), rank=rank)
    )
    with pytest.raises(local.RankError, match=f"Rank {rank} failed first"):
        local.start(rehearsal.rehearse(plan), str(script), preflight.rank_environment(plan, 2))
    last = checkpoint.complete(folder)[-1]
    assert json.loads((last / checkpoint.STATE).read_text())["step"] == (2 if rank == "0" else 4)


@pytest.fixture
def training(tmp_path):
    """A run of train.py that has made three steps of very many, and would save where it stops."""
    command = [
        sys.executable, str(TRAIN), *SMOKE, "training.train_iters=10000", f"hydra.run.dir={tmp_path}/run",
        f"checkpoint.save={tmp_path}/checkpoints", "data=mock",
    ]  # fmt: skip
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.2)
    return run


def assert_saved_where_it_stopped(folder):
    last = checkpoint.complete(folder / "checkpoints")[-1]
    taken = json.loads((last / checkpoint.STATE).read_text())["step"]
    assert taken == len((folder / "run/metrics.jsonl").read_text().splitlines())
    record = json.loads((folder / "run/result.json").read_text())
    assert (record["status"], record["steps"]) == ("stopped", taken) and "checkpoint.load=" in record["error"]
    assert record["peak_memory_gib"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_run_asked_to_stop_saves_and_ends_with_the_code_to_requeue(training, tmp_path, signum):
    os.kill(training.pid, signum)
    output, _ = training.communicate(timeout=120)
    assert training.returncode == stopping.REQUEUE, output
    assert "checkpoint.load=" in output and "Traceback" not in output
    assert_saved_where_it_stopped(tmp_path)


@pytest.mark.slow
def test_ranks_whose_parent_is_killed_save_and_end(training, tmp_path):
    ranks = psutil.Process(training.pid).children()
    assert len(ranks) == 2
    training.kill()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    assert_saved_where_it_stopped(tmp_path)
