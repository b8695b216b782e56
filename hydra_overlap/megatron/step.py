"""One training step, as Megatron-LM takes it: forward and backward over all microbatches, then the optimizer.

Source of the order of calls: Megatron-LM core_v0.16.1 megatron/training/training.py train_step, pretrain_gpt.py.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import HydraOverlapError
from ..plan import Plan
from .build import Built


class DivergedError(HydraOverlapError):
    """The loss or the gradient norm is no number any more."""


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
    """Whether the optimizer skipped the update (fp16 overflow)."""


def run_step(plan: Plan, built: Built, batches: list[Iterator[dict[str, Any]]], step: int) -> StepRecord:
    """Take step number `step`. batches: one iterator of microbatches per model chunk. Every rank calls it."""
    request = plan["request"]
    training, seq_length = request["training"], request["model"]["seq_length"]
    began = time.perf_counter()
    for chunk in built.model:
        chunk.zero_grad_buffer()
    built.optimizer.zero_grad()
    losses = built.forward_backward(
        forward_step_func=forward_step,
        data_iterator=batches if len(batches) > 1 else batches[0],
        model=built.model if len(built.model) > 1 else built.model[0],
        num_microbatches=built.num_microbatches,
        seq_length=seq_length,
        micro_batch_size=training["micro_batch_size"],
        forward_only=False,
    )
    learning_rate = built.optimizer.param_groups[0]["lr"]
    updated, grad_norm, _ = built.optimizer.step()
    if updated:
        built.scheduler.step(increment=training["global_batch_size"])
    loss = mean_loss(losses)
    seconds = time.perf_counter() - began
    if not math.isfinite(loss) or (updated and not math.isfinite(grad_norm or 0.0)):
        raise DivergedError(f"Step {step}: loss {loss}, gradient norm {grad_norm}. The run was stopped.")
    return StepRecord(
        step=step,
        loss=loss,
        grad_norm=float("nan") if grad_norm is None else float(grad_norm),
        learning_rate=learning_rate,
        step_ms=seconds * 1e3,
        tokens_per_s=training["global_batch_size"] * seq_length / seconds,
        skipped=not updated,
    )


def forward_step(batches: Iterator[dict[str, Any]], model: Any, return_schedule_plan: bool = False) -> tuple[Any, Any]:
    """What the schedules call per microbatch: -> (output, loss function).

    Output: per-token losses [b, s] on the last stage, activations elsewhere. With return_schedule_plan (the schedule
    of overlap_moe_expert_parallel_comm asks for it) a plan of layer parts that the schedule runs itself.
    """
    from megatron.core.utils import get_batch_on_this_cp_rank

    batch = get_batch_on_this_cp_rank(next(batches))
    inputs = (batch["tokens"], batch["position_ids"], None)
    run = model.build_schedule_plan if return_schedule_plan else model
    output = run(*inputs, labels=batch["labels"], loss_mask=batch["loss_mask"])
    return output, partial(_loss, batch["loss_mask"])


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
