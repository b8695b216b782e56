"""Learning-rate schedules that megatron-core asserts against while its scheduler is built: refused before that."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import LaunchError

SCHEDULER = "megatron-core core_v0.16.1 megatron/core/optimizer_param_scheduler.py:"


def problems(optimizer: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[LaunchError]:
    """What is wrong with the schedule. optimizer, training: nodes of a request."""
    if optimizer["min_lr"] > optimizer["lr"]:
        yield LaunchError(
            "The learning rate decays",
            where=[f"optimizer.lr={optimizer['lr']}", f"optimizer.min_lr={optimizer['min_lr']}"],
            why="lr is its peak, min_lr its end; megatron-core asserts that the peak is not below the end.",
            fixes=[(f"optimizer.min_lr={optimizer['lr']}", "ends at the peak")],
            source=f"{SCHEDULER}148",
        )
    if optimizer["lr_warmup_iters"] >= training["train_iters"]:
        yield LaunchError(
            "The learning rate finishes warming up before training ends",
            where=[
                f"optimizer.lr_warmup_iters={optimizer['lr_warmup_iters']}",
                f"training.train_iters={training['train_iters']}",
            ],
            why="It decays over the steps that are left; megatron-core asserts that there are some.",
            fixes=[("optimizer.lr_warmup_iters=0", "starts at the peak learning rate")],
            source=f"{SCHEDULER}157",
        )
