"""Which samples a step takes: the global batch, or a ramp up to it. Arithmetic of the step alone, so a resumed run knows.

The ramp is megatron-core's (RampupBatchsizeNumMicroBatchesCalculator, core_v0.16.1 num_microbatches_calculator.py:417):
from the first size to global_batch_size in equal increments, each held for an equal part of the samples. Ranks ask that
calculator; this says the same before any of them is there.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ..launch.plan import known
from ..schema.nodes import Training

BAD_STEPS = "bad_steps.jsonl"  # in a run's output directory: batches whose loss or gradients were no numbers


@dataclass(frozen=True)
class Batch:
    """The samples [first, first + size) of the data."""

    first: int
    size: int


def steps(training: Training, done: int = 0) -> Iterator[tuple[int, Batch]]:
    """(number of the step, its batch) for every step after `done` up to train_iters. training: plan's node."""
    return islice(_all_steps(training), done, None)


def consumed(training: Training, number: int) -> int:
    """Samples that the first `number` steps take."""
    return sum(batch.size for _, batch in islice(_all_steps(dataclasses.replace(training, train_iters=number)), number))


def _all_steps(training: Training) -> Iterator[tuple[int, Batch]]:
    ramp, last = training.rampup_batch_size, known(training.global_batch_size)
    size = last
    first = 0
    for number in range(1, training.train_iters + 1):
        if ramp is not None:
            size = _ramped(ramp, last, first)
        yield number, Batch(first, size)
        first += size


def _ramped(ramp: list[int], last: int, taken: int) -> int:
    start, increment, samples = ramp
    if taken > samples:
        return last
    return start + int(taken / (samples / ((last - start) // increment))) * increment
