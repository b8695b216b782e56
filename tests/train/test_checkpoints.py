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

from hydra_overlap.launch import checkpoint_manifest as manifests
from hydra_overlap.launch import local, preflight, stopping
from hydra_overlap.launch.checkpoint_names import MANIFEST
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
    assert f"resumed after step {STOP} from {folder}" in run.said and "MiB, verified in" in run.said
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


def flip(path, _):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero(path, _):
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(min(512, len(content) - middle)) + content[middle + 512 :])


def truncate(path, _):
    path.write_bytes(path.read_bytes()[:-1])


def append(path, _):
    path.write_bytes(path.read_bytes() + b"x")


def swap(path, older):
    path.write_bytes((older / path.name).read_bytes())


def delete(path, _):
    path.unlink()


DAMAGES = (flip, zero, truncate, append, swap, delete)


def wrong_with(folder):
    """What all ranks together find wrong with a checkpoint."""
    manifest, wrong = manifests.glance(folder)
    if wrong or manifest is None:
        return wrong
    return [line for rank in (0, 1) for line in manifests.verify(folder, manifest, manifests.share(manifest, rank, 2))]


@pytest.mark.xdist_group("checkpoints")
def test_every_damage_of_every_file_is_found_and_named(run_once, tmp_path):
    _, saved = run_once("parallelism=dp2")
    older, newest = (saved / f"iter_{step:07d}" for step in (STOP, STEPS))
    assert wrong_with(older) == wrong_with(newest) == []
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file())
    assert {MANIFEST, checkpoint.STATE, "common.pt", ".metadata", "metadata.json"} < set(names)
    assert len([name for name in names if name.endswith(".distcp")]) >= 2
    unseen = []
    for name in names:
        for damage in DAMAGES:
            here = tmp_path / f"{name.replace('/', '_')}_{damage.__name__}" / newest.name
            shutil.copytree(newest, here, copy_function=os.link)
            content = (here / name).read_bytes()
            (here / name).unlink()  # the link: the original stays
            (here / name).write_bytes(content)
            damage(here / name, older)
            damaged = not (here / name).is_file() or (here / name).read_bytes() != content
            said = " ".join(wrong_with(here))
            if (name not in said) == damaged:
                unseen.append(f"{damage.__name__} {name}: {said or 'nothing'}")
            shutil.rmtree(here.parent)
    assert not unseen
    assert wrong_with(newest) == []


@pytest.mark.xdist_group("checkpoints")
def test_a_renamed_checkpoint_is_refused_and_a_copy_under_another_name_is_none(run_once, tmp_path):
    _, saved = run_once("parallelism=dp2")
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    newest = folder / f"iter_{STEPS:07d}"
    shutil.copytree(newest, folder / f"{newest.name}_bak")
    assert checkpoint.named(folder)[-1] == newest
    later = newest.rename(folder / "iter_0000099")
    (said,) = wrong_with(later)
    assert said.startswith(f"manifest.json is of step {STEPS}, so this folder was renamed")


@pytest.mark.xdist_group("checkpoints")
def test_a_checkpoint_of_a_release_without_manifests_is_resumed_and_said_to_be_unverified(train, stopped_at):
    losses, folder = stopped_at("parallelism=dp2")
    (folder / f"iter_{STOP:07d}" / MANIFEST).unlink()
    state = folder / f"iter_{STOP:07d}" / checkpoint.STATE
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "manifest"}))
    run = train(f"checkpoint.load={folder}", f"training.train_iters={STEPS}")
    assert run.code == 0, run.output
    assert "its files could not be verified" in run.said and run.losses == losses[STOP:]


@pytest.mark.slow
@pytest.mark.xdist_group("checkpoints")
def test_a_flipped_byte_is_refused_by_name_or_the_newest_whole_checkpoint_is_resumed(train, run_once, tmp_path):
    losses, saved = run_once("parallelism=dp2")
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    newest = folder / f"iter_{STEPS:07d}"
    flip(newest / "__1_0.distcp", None)
    asked = (f"checkpoint.load={folder}", f"checkpoint.save={folder}", f"training.train_iters={STEPS}")
    refused = train(*asked)
    assert refused.code == 1 and "Traceback" not in refused.output
    assert f"{newest} is damaged: __1_0.distcp has other content than was written" in refused.said
    assert "checkpoint.on_damage=older" in refused.said and not (refused.folder / "metrics.jsonl").exists()
    run = train(*asked, "checkpoint.on_damage=older")
    assert run.code == 0, run.output
    assert f"passed over: {newest} is damaged" in run.said and f"resumed after step {STOP}" in run.said
    assert run.losses == losses[STOP:] and wrong_with(newest) == []
    assert [path.name.rpartition(".")[2] for path in folder.glob("*.damaged")] == ["damaged"]


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
