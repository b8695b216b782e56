"""One training step of one rank that exists alone, recorded: every work of its schedule, every call to a process group.

megatron-core's own schedule runs all microbatches, with its own sends and receives, DDP with its own bucket groups, its own
optimizer, through train.py's own step. Only the insides of a model chunk are not run for every microbatch: what differs
between microbatches differs at the first (parameter gathers) and at the last (gradient reduces), so these and the second
run for real, and the others repeat the second's calls. Tests run all of them for real and get the same list.

The step that is recorded is the second one: in its first, megatron-core learns in which order gradients get ready and
does not start reducing them in backward yet (param_and_grad_buffer.py:176, 185, 373).
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.pipeline_parallel import combined_1f1b, schedules
from megatron.core.utils import get_attr_wrapped_model

from ..launch.plan import Plan
from ..megatron import step
from ..megatron.build import Built
from . import combined_1f1b as pairs
from . import fake_world
from .collectives import POINT_TO_POINT, Call, Event, Work

REAL_FIRST = 2  # microbatches that run for real before any is repeated; the last does as well


@dataclasses.dataclass
class Template:
    """What a microbatch in the middle of a step looks like, for one model chunk."""

    output: torch.Tensor
    loss: Any = None
    """Loss function of the microbatch, or (combined schedule) its number of tokens."""
    sent: torch.Tensor | None = None
    """What the combined schedule hands to the next stage."""


class Recorder:
    """Collects events while a step runs; knows which microbatches run for real."""

    def __init__(self, built: Built, repeat: bool) -> None:
        self.events: list[Event] = []
        self.models = built.model
        self.num_microbatches = built.num_microbatches
        self.repeat = repeat
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
        return not self.repeat or microbatch < REAL_FIRST or microbatch == self.num_microbatches - 1

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
        elif microbatch == REAL_FIRST - 1:
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
        if microbatch == REAL_FIRST - 1 and isinstance(output, torch.Tensor):
            self.templates[chunk] = Template(output.new_empty(output.shape), loss)
        return output, loss


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


class _Boundary(torch.autograd.Function):  # type: ignore[misc]
    """The identity; backward through it says whether the layers begin or end there."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, recorder: Recorder, inside: bool) -> torch.Tensor:
        ctx.recorder, ctx.inside = recorder, inside
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ctx.recorder.in_layers = ctx.inside
        return gradient, None, None


def record(plan: Plan, built: Built, *, repeat: bool = True) -> tuple[Event, ...]:
    """Take two steps without values; -> what the rank did in the second. Needs a fake world and CUDA's names on meta.

    repeat: whether microbatches in the middle repeat the second's calls.
    """
    shortest = built.config.microbatch_group_size_per_vp_stage if len(built.model) > 1 else 1
    _step(plan, dataclasses.replace(built, num_microbatches=min(shortest, built.num_microbatches)), repeat)
    return _step(plan, built, repeat)


def _step(plan: Plan, built: Built, repeat: bool) -> tuple[Event, ...]:
    combined = bool(built.config.overlap_moe_expert_parallel_comm)
    recorder = Recorder(built, repeat)
    training = plan["request"]["training"]
    shape = (training["micro_batch_size"], plan["request"]["model"]["seq_length"])

    def forward_backward(**kwargs: Any) -> Any:
        original = kwargs.pop("forward_step_func")

        def forward_step(batches: Any, model: Any, *args: Any, **named: Any) -> tuple[Any, Any]:
            return recorder.forward(original, batches, model, **named)

        # The combined schedule passes the bare GPTModel, and gets a plan of its parts.
        return built.forward_backward(forward_step_func=original if combined else forward_step, **kwargs)

    told = dataclasses.replace(built, forward_backward=forward_backward)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_marked(recorder))
        stack.enter_context(_prepared(built, recorder))
        stack.enter_context(fake_world.valueless())
        stack.callback(fake_world.listen, None)
        fake_world.listen(recorder.hear)
        step.run_step(plan, told, [fake_world.batches(shape) for _ in built.model], 1)
    return tuple(recorder.events)


@contextlib.contextmanager
def _marked(recorder: Recorder) -> Iterator[None]:
    """Works begin and end where megatron-core's schedules call these functions, by name, in their own module."""
    forward, backward = schedules.forward_step, schedules.backward_step
    combined = combined_1f1b.combined_forward_backward_step

    def forward_step(function: Any, batches: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        chunk = recorder.chunk_of(model)
        with recorder.work("forward", chunk):
            output, tokens = forward(function, batches, model, *args, **kwargs)
        single(output).overlap_chunk = chunk
        return output, tokens

    def backward_step(given: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        with recorder.work("backward", single(output).overlap_chunk):
            return backward(given, output, *args, **kwargs)

    schedules.forward_step, schedules.backward_step = forward_step, backward_step
    combined_1f1b.combined_forward_backward_step = pairs.Pairs(recorder, combined)
    try:
        yield
    finally:
        schedules.forward_step, schedules.backward_step = forward, backward
        combined_1f1b.combined_forward_backward_step = combined


def single(tensors: Any) -> Any:
    """The one tensor of a list of one, which schedules may use instead of it."""
    return tensors[0] if isinstance(tensors, list) else tensors


@contextlib.contextmanager
def _prepared(built: Built, recorder: Recorder) -> Iterator[None]:
    """Experts balanced, positions of one slice of the sequence, and the bounds of the layers marked."""
    handles = []
    for ddp in built.model:
        model = get_attr_wrapped_model(ddp, "decoder", return_model_obj=True)
        if hasattr(model, "rotary_pos_emb"):
            model.rotary_pos_emb.cp_group = None  # layers see one slice as the whole (dry_run.py says why)
        handles += [fake_world.balance(one) for one in model.modules() if type(one).__name__ == "TopKRouter"]
        handles.append(model.decoder.register_forward_pre_hook(_entering(recorder), with_kwargs=True))
        handles.append(model.decoder.register_forward_hook(_leaving(recorder)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(recorder: Recorder) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        recorder.in_layers = True
        if kwargs.get("hidden_states") is not None:
            kwargs["hidden_states"] = _Boundary.apply(kwargs["hidden_states"], recorder, False)
        return args, kwargs

    return hook


def _leaving(recorder: Recorder) -> Any:
    def hook(_: Any, args: Any, output: Any) -> Any:
        recorder.in_layers = False
        return _Boundary.apply(output, recorder, True) if isinstance(output, torch.Tensor) else output

    return hook
