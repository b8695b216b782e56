"""What goes wrong in a run, for real: a rank that hangs, a batch that is no number, a write that is cut off."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hydra_overlap.launch import checkpoint_names, local, preflight
from hydra_overlap.launch import plan as plans
from hydra_overlap.megatron import rehearsal
from tests import needs, ranks
from tests.plans import plan_of
from tests.train.conftest import ROOT, SMOKE

TRAIN = ROOT / "train.py"
STEPS, BAD = 6, 3  # steps of a run, and the one that is poisoned


def test_a_rank_that_hangs_ends_the_run_and_is_named(tmp_path):
    command = [
        sys.executable, str(TRAIN), *SMOKE, "training.train_iters=100000", "data=mock", f"hydra.run.dir={tmp_path}/run",
        "launch.distributed_timeout_minutes=0.05",
    ]  # fmt: skip
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sign = tmp_path / "run/ranks/alive/1.json"
    deadline = time.monotonic() + 120
    while not (sign.exists() and json.loads(sign.read_text())["step"] >= 3):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.1)
    hung = json.loads(sign.read_text())["pid"]
    os.kill(hung, signal.SIGSTOP)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 1, output
    assert "Rank 1 hangs: no heartbeat" in output and "Traceback" not in output
    assert "Timed out waiting 3000ms" in " ".join(output.split()), "what the first that gave up says"
    assert not psutil.pid_exists(hung)
    record = json.loads((tmp_path / "run/result.json").read_text())
    assert record["status"] == "failed" and record["error"].startswith("Rank 1 hangs")
    assert record["steps"] >= 2 and record["verdict"] == "in effect"


POISON = """
import sys
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
from hydra_overlap.megatron import step

{change}

if __name__ == "__main__":
    local.as_rank(train.train, local.plan_of_this_rank())
"""

# One microbatch of rank 1, the third of step 3: its loss, and with it every gradient, becomes no number.
BATCH = """
import os
calls, original = [], step._loss
def poisoned(mask, per_token):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == {call}:
        per_token = per_token * float("nan")
    return original(mask, per_token)
step._loss = poisoned

import pathlib, torch
from hydra_overlap.megatron import data
taken, batches = [], data._of_this_rank
def kept(*args):
    for batch in batches(*args):
        taken.append(1)
        if os.environ["RANK"] == "1" and len(taken) == {call}:
            torch.save(batch["tokens"], pathlib.Path(os.environ[local.RANK_PLAN]).with_name("tokens"))
        yield batch
data._of_this_rank = kept
"""

# The loss stays a number and the gradient of one layer of rank 0 does not, as after an overflow in a kernel's backward.
GRADIENT = """
import os
from hydra_overlap.megatron import build
original = build.build
def poisoned(plan):
    built = original(plan)
    weight = next(built.model[0].parameters())
    backwards = []
    def hook(gradient):
        backwards.append(1)
        bad = os.environ["RANK"] == "0" and len(backwards) == {call}
        return gradient * float("inf") if bad else gradient
    weight.register_hook(hook)
    return built
build.build = poisoned
"""


@pytest.fixture
def poisoned(tmp_path):
    """`poisoned(change, *overrides)`: two ranks that train with `change` made; -> (folder, error or None)."""

    def run(change, *overrides):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        plan = plan_of(*SMOKE[:1], "data=mock", f"training.train_iters={STEPS}", *overrides, output_dir=folder)
        microbatches = 8  # of each rank in a step
        script = folder / "rank.py"
        script.write_text(POISON.format(root=str(ROOT), change=change.format(call=microbatches * (BAD - 1) + 3)))
        try:
            ranks.start(rehearsal.rehearse(plan), str(script), preflight.rank_environment(plan, 2))
        except local.RankError as error:
            return folder, str(error)
        return folder, None

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs.IN_PROCESS
def test_a_bad_batch_stops_the_run_before_it_touches_a_parameter_and_can_be_rebuilt(poisoned):
    import torch

    from hydra_overlap.megatron import data

    folder, error = poisoned(BATCH)
    assert f"Step {BAD}: the loss is nan. No parameter was changed." in error
    assert "training.on_nonfinite=skip" in error
    assert len(lines(folder / "metrics.jsonl")) == BAD
    (bad,) = lines(folder / "bad_steps.jsonl")
    assert bad["step"] == BAD and bad["samples"] == [32, 48] and bad["action"] == "stop"
    assert bad["bad_samples"] == [[37, 38]], "microbatch 2 of rank 1 of 2, one sample each, from 32 on"
    again = data.dataset(plans.load(folder / "plan.json"), bad["num_samples"])[37]["tokens"]
    assert again.tolist() == torch.load(folder / "tokens")[0].tolist(), "what is kept rebuilds the batch"


# What a skipped step must come to: the optimizer and the schedule do nothing in step 3, and the next step is the fourth.
UNMOVED = """
from hydra_overlap.megatron import build
original = build.build
def unmoved(plan):
    built = original(plan)
    updates, update = [], built.optimizer.step_with_ready_grads
    def step_with_ready_grads():
        updates.append(1)
        return False if len(updates) == 3 else update()
    type(built.optimizer).step_with_ready_grads = lambda self: step_with_ready_grads()
    return built
build.build = unmoved
"""


@pytest.mark.slow
def test_a_skipped_step_leaves_no_trace_in_the_parameters(poisoned):
    """The step after it starts from the same parameters: its loss is that of a run in which the step had no effect."""
    plain = ("precision=fp32", "optimizer.lr_decay_style=constant", "optimizer.lr_warmup_iters=0")
    other, _ = poisoned(UNMOVED, *plain)
    expected = [step["loss"] for step in lines(other / "metrics.jsonl")]
    for change in (BATCH, GRADIENT):
        folder, error = poisoned(change, "training.on_nonfinite=skip", *plain)
        assert error is None
        steps = lines(folder / "metrics.jsonl")
        assert [step["skipped"] for step in steps] == [number == BAD for number in range(1, STEPS + 1)]
        (bad,) = lines(folder / "bad_steps.jsonl")
        assert bad["step"] == BAD
        assert bad["bad_samples"] == ([[37, 38]] if change is BATCH else [])
        assert bad["parameters"] and ("gradient norm is" in bad["why"]) == (change is GRADIENT)
        assert [step["loss"] for step in steps[BAD:]] == expected[BAD:]


@pytest.mark.slow
def test_gradients_above_the_limit_are_bad_steps_and_too_many_in_a_row_end_a_run_that_skips_them(poisoned):
    spike = ("training.spike_grad_norm=1e-3", "training.on_nonfinite=skip", "training.max_skipped_steps=2")
    folder, error = poisoned("", *spike)
    assert "Step 2: the gradient norm is" in error and "above training.spike_grad_norm=0.001" in error
    assert "number 2, the limit of training.max_skipped_steps" in error
    bad = lines(folder / "bad_steps.jsonl")
    assert [one["step"] for one in bad] == [1, 2]
    assert bad[0]["grad_norm"] == pytest.approx(bad[1]["grad_norm"], rel=0.5), "of the same parameters"


CUT_OFF = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
from megatron.core.dist_checkpointing.strategies import filesystem_async

writer, rank = filesystem_async.FileSystemWriterAsync, os.getpid()
original = writer.write_preloaded_data_multiproc
def cut_off(transforms, use_msc, number, buckets, queue):
    original(transforms, use_msc, number, buckets, queue)
    second = "iter_0000004" in buckets[0][0]
    if second and number == 1:
        assert os.getppid() == rank, "this is the process beside the rank"
        os.kill(rank, signal.SIGKILL)
writer.write_preloaded_data_multiproc = staticmethod(cut_off)
if __name__ == "__main__":
    local.as_rank(train.train, local.plan_of_this_rank())
"""


@pytest.mark.slow
def test_a_rank_killed_while_its_checkpoint_is_written_beside_it_leaves_the_one_before_and_no_process(tmp_path):
    folder = tmp_path / "checkpoints"
    plan = plan_of(
        "training=smoke", "data=mock", f"checkpoint.save={folder}", "checkpoint.save_interval=2",
        "checkpoint.async_save=true", output_dir=tmp_path,
    )  # fmt: skip
    script = tmp_path / "rank.py"
    script.write_text("from hydra_overlap.megatron import cpu\ncpu.install()\n" + CUT_OFF.format(root=str(ROOT)))
    with pytest.raises(local.RankError, match=r"Rank 1 failed first \(signal 9\)"):
        local.start(rehearsal.rehearse(plan), str(script), preflight.rank_environment(plan, 2))
    assert [path.name for path in checkpoint_names.complete(folder)] == ["iter_0000002"]
    left = [process for process in psutil.process_iter(["cmdline"]) if str(script) in (process.info["cmdline"] or [])]
    assert not left
