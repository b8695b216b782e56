"""Ramps: the arithmetic is megatron-core's, and a run goes through the sizes exactly."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_overlap.megatron import batches
from hydra_overlap.schema.nodes import Training
from tests import needs

RAMP = "training.rampup_batch_size=[4,4,24]"  # to 16: 4, 8, 12, each for 8 samples


def training(ramp, last, iterations):
    return Training(rampup_batch_size=ramp, global_batch_size=last, train_iters=iterations)


def test_without_a_ramp_every_step_takes_the_global_batch():
    said = training(None, 16, 3)
    assert [(number, batch.first, batch.size) for number, batch in batches.steps(said)] == [
        (1, 0, 16), (2, 16, 16), (3, 32, 16),
    ]  # fmt: skip
    assert [number for number, _ in batches.steps(said, 2)] == [3]
    assert batches.consumed(said, 2) == 32


@needs.IN_PROCESS
@settings(max_examples=60, deadline=None)
@given(start=st.integers(1, 20), increments=st.integers(1, 12), step=st.integers(1, 9), samples=st.integers(1, 3000))
def test_sizes_are_those_of_megatron_cores_calculator(start, increments, step, samples):
    from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

    last = start + increments * step
    theirs = RampupBatchsizeNumMicroBatchesCalculator(last, 1, 1, False, 1, start, step, samples)
    for _, batch in batches.steps(training([start, step, samples], last, 120)):
        theirs.update(batch.first, True)
        assert batch.size == theirs.get_current_global_batch_size() == theirs.get()
    assert batches.consumed(training([start, step, samples], last, 1), 120) == batch.first + batch.size


@pytest.mark.slow
def test_a_run_ramps_up_and_resumes_within_the_ramp_exactly(train, tmp_path):
    saved = (f"checkpoint.save={tmp_path}/saved", "checkpoint.save_interval=3", "checkpoint.keep=9")
    whole = train(RAMP, "training.train_iters=7", *saved)
    assert whole.code == 0, whole.output
    assert [step["samples"] for step in whole.steps] == [4, 4, 8, 12, 16, 16, 16]
    # Warm-up is four steps, 28 of its samples: the rate follows the samples and not the steps.
    rates = [step["learning_rate"] for step in whole.steps]
    assert rates[:5] == pytest.approx([0.0, 3e-3 * 4 / 28, 3e-3 * 8 / 28, 3e-3 * 16 / 28, 3e-3])
    losses, whole_steps = whole.losses, whole.steps  # before the next run takes its place
    for late in (6, 7):
        shutil.rmtree(tmp_path / f"saved/iter_000000{late}")
    resumed = train(RAMP, "training.train_iters=7", f"checkpoint.load={tmp_path}/saved")
    assert "resumed after step 3" in resumed.said
    # The same directory: what the run before left of its first three steps belongs to this one.
    assert resumed.losses == losses
    assert [step["step"] for step in resumed.steps] == list(range(1, 8))
    assert resumed.steps[2] == whole_steps[2] and resumed.steps[3] != whole_steps[3], "taken again from the fourth on"
