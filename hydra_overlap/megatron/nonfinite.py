"""Steps whose loss or gradients are no numbers: found before the optimizer moves a parameter, on all ranks alike.

What megatron-core does itself: with fp16 it skips a step whose scaled gradients overflow and halves the scale; with bf16
and fp32 it clips by a norm that is no number and writes that into every parameter. The decision here stands between its
clipping and its update. A step that is skipped is so wholly: parameters, moments and learning rate stay; its samples count
as taken.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..errors import HydraOverlapError
from ..launch.plan import Plan
from .batches import BAD_STEPS, Batch
from .build import Built

MOST_NAMES = 5  # parameters named of each rank


class DivergedError(HydraOverlapError):
    """The loss or the gradient norm is no number any more, or exploded."""


class Guard:
    """Decides about one step. loss: of the global batch, the same on every rank."""

    def __init__(self, plan: Plan, loss: float) -> None:
        training = plan.request.training
        limit = training.spike_grad_norm
        self._limit = math.inf if limit is None else limit
        self.why = "" if math.isfinite(loss) else f"the loss is {loss}"
        self.grad_norm: float | None = None

    @contextmanager
    def on(self, optimizer: Any) -> Iterator[None]:
        """Within, `optimizer.step()` updates nothing if the gradient norm is bad on any rank."""
        measure, update = optimizer.get_grad_norm, optimizer.step_with_ready_grads

        def get_grad_norm(*args: Any, **kwargs: Any) -> Any:
            self.grad_norm = measure(*args, **kwargs)
            return self.grad_norm

        def step_with_ready_grads() -> bool:
            if self.grad_norm is None:  # an optimizer that does not clip does not measure either
                get_grad_norm()
            return False if self._refuses() else update()

        optimizer.get_grad_norm, optimizer.step_with_ready_grads = get_grad_norm, step_with_ready_grads
        try:
            yield
        finally:
            del optimizer.get_grad_norm, optimizer.step_with_ready_grads

    def _refuses(self) -> bool:
        """One answer for all: norms of dense and expert parameters are summed in another order on each rank."""
        norm = float(self.grad_norm or 0.0)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        bad = torch.tensor([float(not norm <= self._limit or not math.isfinite(norm))], device=device)
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        if bad.item():
            above = math.isfinite(norm) and f"above training.spike_grad_norm={self._limit:g}"
            self.why = f"the gradient norm is {norm:g}" + (f", {above}" if above else "")
        return bool(self.why)


def describe(plan: Plan, built: Built, guard: Guard, batch: Batch, losses: list[torch.Tensor]) -> dict[str, Any]:
    """What rank 0 keeps of a bad step: why, and where in the batch as far as it shows. Every rank calls it.

    losses: (sum, tokens) of each microbatch, on last stages. Rebuild a sample with `data.dataset(plan, num_samples)[n]`,
    the plan being plan.json of the run.
    """
    from megatron.core import parallel_state

    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    size = plan.request.training.micro_batch_size
    found = {
        "microbatches": [
            [first, first + size]
            for number, loss in enumerate(losses)
            for first in [batch.first + (number * ranks + rank) * size]
            if not bool(torch.isfinite(loss).all())
        ],
        "parameters": _bad_parameters(built),
    }
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    parameters = {name for one in everywhere for name in one["parameters"]}
    return {
        "why": guard.why,
        "samples": [batch.first, batch.first + batch.size],
        "bad_samples": sorted({tuple(samples) for one in everywhere for samples in one["microbatches"]}),
        "parameters": sorted(parameters)[:MOST_NAMES],
    }


def _bad_parameters(built: Built) -> list[str]:
    """Some parameters of this rank whose gradient is not finite. Reduced gradients lie in one rank's shard each."""
    names: list[str] = []
    for chunk in built.model:
        for name, parameter in chunk.module.named_parameters():
            gradient = getattr(parameter, "main_grad", None)
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                names.append(name)
                if len(names) == MOST_NAMES:
                    return names
    return names


class Tolerance:
    """How many bad steps a run takes: none, or so many in a row. Every rank has one and all count alike."""

    def __init__(self, plan: Plan) -> None:
        training = plan.request.training
        self._skips = training.on_nonfinite == "skip"
        self._most = training.max_skipped_steps if self._skips else 1
        self._where = Path(plan.output_dir, BAD_STEPS)
        self._in_row = 0

    def after(self, step: int, bad: dict[str, Any] | None) -> DivergedError | None:
        """The error that ends the run after `step`; None if it goes on."""
        self._in_row = self._in_row + 1 if bad else 0
        if bad is None or self._in_row < self._most:
            return None
        many = (
            f" It is the consecutive bad step number {self._in_row}, the limit of training.max_skipped_steps."
            if self._skips
            else ""
        )
        hint = "" if self._skips else "\nWith training.on_nonfinite=skip a run skips such steps and continues."
        return DivergedError(
            f"Step {step}: {bad['why']}. No parameter was changed.{many}\n"
            f"Its batch, samples {bad['samples'][0]} to {bad['samples'][1] - 1} of the data: {self._where}{hint}"
        )
