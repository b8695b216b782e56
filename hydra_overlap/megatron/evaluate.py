"""Validation loss: the same held-out samples every time, whatever the layout, through the schedule that trains.

Source of the order of calls: Megatron-LM core_v0.16.1 megatron/training/training.py, evaluate and what surrounds it in
train: parameters are gathered first and the forward hooks of overlap_param_gather are off meanwhile. Nothing that training
goes on with is touched: no random number is drawn, since dropout is off, and no gradient exists.
"""

from typing import Any

import torch

from ..launch.plan import Plan
from . import data
from .build import Built, parameters_gathered
from .step import forward_step, mean_loss


def due(plan: Plan, step: int) -> bool:
    """Whether there is a validation loss after `step`: at every interval and at the end."""
    training = plan.request.training
    interval = training.eval_interval
    return interval is not None and (step % interval == 0 or step == training.train_iters)


def validation_loss(plan: Plan, built: Built, samples: Any) -> float:
    """Mean over the tokens of eval_iters global batches, nats per token. Every rank calls it.

    samples: data.held_out. Batches have the full global batch size, during a ramp as well: what is measured stays the same.
    """
    request = plan.request
    training = request.training
    batches = [data.validation_microbatches(plan, samples) for _ in built.model]
    losses: list[torch.Tensor] = []
    for chunk in built.model:
        chunk.eval()
    try:
        with parameters_gathered(built), torch.no_grad():
            for _ in range(training.eval_iters):
                losses += built.forward_backward(
                    forward_step_func=forward_step,
                    data_iterator=batches if len(batches) > 1 else batches[0],
                    model=built.model if len(built.model) > 1 else built.model[0],
                    num_microbatches=built.num_microbatches,
                    seq_length=request.model.seq_length,
                    micro_batch_size=training.micro_batch_size,
                    forward_only=True,
                )
    finally:
        for chunk in built.model:
            chunk.train()
    return mean_loss(losses)
