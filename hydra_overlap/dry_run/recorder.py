"""What a recorded step has done so far: its works, their calls, and which of its microbatches run for real.

Only the insides of a model chunk are not run for every microbatch: what differs between microbatches differs at the first
(parameter gathers) and at the last (gradient reduces), so these and the second run for real, and the others repeat the
second's calls.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.utils import get_attr_wrapped_model

from ..megatron.build import Built
from .collectives import POINT_TO_POINT, Call, Event, Work
from .repeated_microbatches import Repeated, Template

REAL_FIRST = 2  # microbatches that run for real before any is repeated; the last does as well


class Recorder:
    """Collects events while a step runs; knows which microbatches run for real."""

    def __init__(self, built: Built, repeat: bool, real_first: int = REAL_FIRST) -> None:
        self.events: list[Event] = []
        self.models = built.model
        self.num_microbatches = built.num_microbatches
        self.repeat = repeat
        self.real_first = real_first
        self.in_layers = False
        self._open: list[Call] | None = None
        self.templates: dict[int, Template] = {}
        self._calls: dict[tuple[str, int], tuple[Call, ...]] = {}
        self._done: dict[tuple[str, int], int] = defaultdict(int)

    def hear(self, call: Call) -> None:
        """Note a call: in the work that is open, or between works."""
        if self.in_layers:
            call = dataclasses.replace(call, layer=True)
        if self._open is None:
            self.events.append(call)
        else:
            self._open.append(call)

    def number(self, kind: str, chunk: int) -> int:
        """Microbatch that this chunk does next; each goes through them in order, forward and backward."""
        return self._done[kind, chunk]

    def real(self, microbatch: int) -> bool:
        """Whether this microbatch goes through the model."""
        return not self.repeat or microbatch < self.real_first or microbatch == self.num_microbatches - 1

    @contextlib.contextmanager
    def work(self, kind: str, chunk: int) -> Iterator[None]:
        """All calls from here to the end belong to one work; messages follow it."""
        microbatch = self.number(kind, chunk)
        self._open = []
        try:
            yield
        finally:
            calls, self._open, self.in_layers = tuple(self._open), None, False
        self._done[kind, chunk] += 1
        messages = [call for call in calls if call.operation in POINT_TO_POINT]  # the combined schedule's, from within
        inside = tuple(call for call in calls if call.operation not in POINT_TO_POINT)
        if not self.real(microbatch):
            inside = self._calls[kind, chunk]  # one tuple for all of them
        elif microbatch == self.real_first - 1:
            self._calls[kind, chunk] = inside
        self.events.append(Work(kind=kind, chunk=chunk, microbatch=microbatch, calls=inside))
        self.events += messages

    def chunk_of(self, model: Any) -> int:
        """Number of a model chunk of this rank."""
        return next(number for number, one in enumerate(self.models) if one is model)

    def forward(self, original: Any, batches: Any, model: Any, **kwargs: Any) -> tuple[Any, Any]:
        """forward_step_func of the schedule: the model's output for one microbatch, or a stand-in of the same shape."""
        chunk = self.chunk_of(model)
        microbatch = self.number("forward", chunk)
        if not self.real(microbatch):
            template = self.templates[chunk]
            given = get_attr_wrapped_model(model, "decoder").input_tensor
            source = given if given is not None else torch.empty(0, device="meta", requires_grad=True)
            return Repeated.apply(source, template.output), template.loss
        output, loss = original(batches, model, **kwargs)
        if microbatch == self.real_first - 1 and isinstance(output, torch.Tensor):
            self.templates[chunk] = Template(output.new_empty(output.shape), loss)
        return output, loss
