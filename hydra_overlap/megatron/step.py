"""One training step, as Megatron-LM takes it: forward and backward over all microbatches, then the optimizer.

Source of the order of calls: Megatron-LM core_v0.16.1 megatron/training/training.py train_step, pretrain_gpt.py.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from ..launch.plan import Plan, known
from . import nonfinite
from .batches import Batch
from .build import Built, num_microbatches


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step did."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean over the tokens of the global batch, nats per token, before the update."""
    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float
    step_ms: float
    """Wall time of this rank, ms."""
    tokens_per_s: float
    """Tokens of the global batch by this rank's wall time."""
    skipped: bool
    """Whether no parameter was updated: fp16 overflow, or a bad step."""
    samples: int
    """Size of the global batch."""
    bad: dict[str, Any] | None = None
    """Why the loss or the gradients are no numbers, and where in the batch (nonfinite.py)."""


def run_step(
    plan: Plan, built: Built, batches: list[Iterator[dict[str, Any]]], step: int, batch: Batch | None = None
) -> StepRecord:
    """Take step number `step`. batches: one iterator of microbatches per model chunk. Every rank calls it.

    batch: the samples it takes, of a ramp perhaps fewer; None = a full global batch.
    """
    request = plan.request
    training, seq_length = request.training, known(request.model.seq_length)
    ramped = batch is not None and training.rampup_batch_size is not None
    full = known(training.global_batch_size)
    batch = batch or Batch((step - 1) * full, full)
    count = num_microbatches(batch) if ramped else built.num_microbatches
    began = time.perf_counter()
    for chunk in built.model:
        chunk.zero_grad_buffer()
    built.optimizer.zero_grad()
    losses = built.forward_backward(
        forward_step_func=forward_step,
        data_iterator=batches if len(batches) > 1 else batches[0],
        model=built.model if len(built.model) > 1 else built.model[0],
        num_microbatches=count,
        seq_length=seq_length,
        micro_batch_size=training.micro_batch_size,
        forward_only=False,
    )
    learning_rate = built.optimizer.param_groups[0]["lr"]
    loss = mean_loss(losses)
    guard, updated = nonfinite.Guard(plan, loss), False
    if not guard.why:
        with guard.on(built.optimizer):
            updated, _, _ = built.optimizer.step()
    if updated:
        built.scheduler.step(increment=batch.size)
    seconds = time.perf_counter() - began
    return StepRecord(
        step=step,
        loss=loss,
        grad_norm=float("nan") if guard.grad_norm is None else float(guard.grad_norm),
        learning_rate=learning_rate,
        step_ms=seconds * 1e3,
        tokens_per_s=batch.size * seq_length / seconds,
        skipped=not updated,
        samples=batch.size,
        bad=nonfinite.describe(plan, built, guard, batch, losses) if guard.why else None,
    )


def forward_step(batches: Iterator[dict[str, Any]], model: Any, return_schedule_plan: bool = False) -> tuple[Any, Any]:
    """What the schedules call per microbatch: -> (output, loss function).

    Output: per-token losses [b, s] on the last stage, activations elsewhere. With return_schedule_plan (the schedule
    of overlap_moe_expert_parallel_comm asks for it) a plan of layer parts that the schedule runs itself.
    """
    batch = _of_this_cp_rank(next(batches))
    inputs = (batch["tokens"], batch["position_ids"], None)
    run = model.build_schedule_plan if return_schedule_plan else model
    output = run(*inputs, labels=batch["labels"], loss_mask=batch["loss_mask"])
    return output, partial(_loss, batch["loss_mask"])


def _of_this_cp_rank(batch: dict[str, Any]) -> dict[str, Any]:
    """This rank's share of the sequence. From 0.18 on megatron-core asks how packed sequences are to be split; none are."""
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank as split

    if not _asks_how(split):
        return dict(split(batch))
    group = parallel_state.get_context_parallel_group()
    return dict(split({**batch, "cu_seqlens": None}, is_hybrid_cp=False, cp_group=group))


@cache  # every microbatch splits
def _asks_how(split: Callable[..., Any]) -> bool:
    return "is_hybrid_cp" in inspect.signature(split).parameters


def _loss(mask: torch.Tensor, per_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of the losses and number of tokens, which the schedule divides; and both, to report."""
    flat = mask.view(-1).float()
    total, tokens = torch.sum(per_token.view(-1).float() * flat), flat.sum()
    return total, tokens.int(), torch.stack([total.detach(), tokens])


def mean_loss(losses: list[torch.Tensor]) -> float:
    """Mean over all tokens of the step. losses: (sum, tokens) per microbatch; empty except on last stages."""
    device = losses[0].device if losses else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    total = torch.stack(losses).sum(0) if losses else torch.zeros(2, device=device)
    torch.distributed.all_reduce(total)  # last stages only contribute; TP ranks alike, which cancels out
    return float(total[0] / total[1])
