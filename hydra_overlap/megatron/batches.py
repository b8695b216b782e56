"""Which samples a step takes: the global batch, or a ramp up to it. Arithmetic of the step alone, so a resumed run knows.

The ramp is megatron-core's (RampupBatchsizeNumMicroBatchesCalculator, core_v0.16.1 num_microbatches_calculator.py:417):
from the first size to global_batch_size in equal increments, each held for an equal part of the samples. Ranks ask that
calculator; this says the same before any of them is there.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ..errors import GatingError, LaunchError
from ..findings import yaml_value
from ..launch.plan import Plan, known, world_size
from ..resolver.resolve import resolve
from ..schema.nodes import Training

BAD_STEPS = "bad_steps.jsonl"  # in a run's output directory: batches whose loss or gradients were no numbers
SOURCE = "megatron-core core_v0.16.1 megatron/core/num_microbatches_calculator.py:417-500"


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


def sizes(training: Training) -> tuple[int, ...]:
    """The global batch sizes of a run's ramp, in order; the one size where there is none."""
    ramp, last = training.rampup_batch_size, known(training.global_batch_size)
    return (last,) if ramp is None else tuple(range(ramp[0], last + 1, ramp[1]))


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


def require_batches(plan: Plan) -> None:
    """Raise LaunchError for a ramp that cannot be, or that goes through a size a rule refuses; and for nothing to validate on."""
    training, data = plan.request.training, plan.request.data
    if training.eval_interval is not None and data.kind != "mock" and not data.held_out:
        raise LaunchError(
            "Validation is on, but no text is held out",
            where=[f"training.eval_interval={training.eval_interval}", f"data.held_out={data.held_out}"],
            why="Training uses all of the text. The end of the text can be held out.",
            fixes=[("data.held_out=0.03", "keeps 3 % of it"), ("training.eval_interval=null", "measures none")],
        )
    if training.rampup_batch_size is not None:
        _require_ramp(training)
        _require_rules_at_every_size(plan)


def _require_ramp(training: Training) -> None:
    ramp, last = known(training.rampup_batch_size), known(training.global_batch_size)
    fixes = [("training.rampup_batch_size=null", "global_batch_size from the first step")]
    if len(ramp) != 3:
        why = "It is [first size, increment, samples]."
    elif min(ramp) < 1 or ramp[0] >= last:
        why = "All three are at least 1, and the first size is below global_batch_size."
    elif (last - ramp[0]) % ramp[1]:
        why = f"From {ramp[0]} to {last} is not a whole number of increments of {ramp[1]}."
        # The increment that fits and is nearest to the one asked for.
        fitting = [n for n in range(1, last - ramp[0] + 1) if (last - ramp[0]) % n == 0]
        near = min(fitting, key=lambda n: abs(n - ramp[1]))
        fixes.insert(0, (f"training.rampup_batch_size=[{ramp[0]},{near},{ramp[2]}]", "increments that end there"))
    else:
        return
    raise LaunchError(
        "The ramp does not reach the global batch size in equal increments",
        where=[_said(training), f"training.global_batch_size={last}"],
        why=why,
        fixes=fixes,
        source=SOURCE,
    )


def _require_rules_at_every_size(plan: Plan) -> None:
    """Judge the plan again at every size: microbatches must come out even, and fill an interleaved schedule's groups."""
    training = plan.request.training
    for size in sizes(training):
        smaller = plan.with_values({"training.global_batch_size": size, "training.rampup_batch_size": None})
        try:
            answer = resolve(smaller.resolution.request)
        except GatingError as refusal:
            first = refusal.findings[0]
            raise LaunchError(
                f"{first.rule} refuses the plan at batch size {size}, which the ramp goes through: {first.title}",
                where=[_said(training), f"training.micro_batch_size={training.micro_batch_size}"],
                why=first.why,
                fixes=[*_even(plan), ("training.rampup_batch_size=null", "global_batch_size from the first step")],
                source=first.source,
            ) from None
        other = [
            f"{name}={yaml_value(answer.settings[node][name])}, at the full batch {yaml_value(value)}"
            for node, values in plan.resolution.settings.items()
            for name, value in values.items()
            if answer.settings[node][name] != value
        ]
        if other:
            raise LaunchError(
                f"At batch size {size}, which the ramp goes through, the plan is another one",
                where=[_said(training), *other],
                why="One model is built for all sizes.",
                fixes=[("training.rampup_batch_size=null", "global_batch_size from the first step")],
            )


def _even(plan: Plan) -> list[tuple[str, str]]:
    """A ramp whose sizes are multiples of what the full batch is a multiple of, if there is one."""
    request = plan.request
    training, layout = request.training, request.parallelism
    start, increment, samples = known(training.rampup_batch_size)
    model_ranks = layout.tensor_model_parallel_size * layout.pipeline_model_parallel_size
    unit = training.micro_batch_size * (world_size(plan) // (model_ranks * layout.context_parallel_size))
    if (layout.virtual_pipeline_model_parallel_size or 1) > 1:
        unit *= layout.microbatch_group_size_per_vp_stage or layout.pipeline_model_parallel_size
    last = known(training.global_batch_size)
    if last % unit or last == unit:
        return []
    start = min(max(unit, start // unit * unit), last - unit)
    increments = [n for n in range(unit, last - start + 1, unit) if (last - start) % n == 0]
    near = min(increments, key=lambda n: abs(n - increment))
    return [(f"training.rampup_batch_size=[{start},{near},{samples}]", "whole microbatches at every size")]


def _said(training: Training) -> str:
    return f"training.rampup_batch_size={yaml_value(training.rampup_batch_size)}"
