"""Stand-ins for what a model chunk makes of a microbatch, where a recorded step does not run its insides once more."""

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass
class Template:
    """What a microbatch in the middle of a step looks like, for one model chunk."""

    output: torch.Tensor
    loss: Any = None
    """Loss function of the microbatch, or (combined schedule) its number of tokens."""
    sent: torch.Tensor | None = None
    """What the combined schedule hands to the next stage."""


class Repeated(torch.autograd.Function):  # type: ignore[misc]
    """A chunk's output for its input, both without values."""

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The shape of `like`, whatever the input's."""
        ctx.shape, ctx.dtype = source.shape, source.dtype
        return torch.empty_like(like)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The shape of the input."""
        return torch.empty(ctx.shape, dtype=ctx.dtype, device="meta"), None


def single(tensors: Any) -> Any:
    """The one tensor of a list of one, which schedules may use instead of it."""
    return tensors[0] if isinstance(tensors, list) else tensors
