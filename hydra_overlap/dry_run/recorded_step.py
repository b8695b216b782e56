"""One training step of one rank that exists alone, recorded: every work of its schedule, every call to a process group.

megatron-core's own schedule runs all microbatches, with its own sends and receives, DDP with its own bucket groups, its own
optimizer, through train.py's own step. Microbatches in the middle repeat the calls of the second (recorder.py); tests run
all of them for real and get the same list.

The step that is recorded is the second one: in its first, megatron-core learns in which order gradients get ready and
does not start reducing them in backward yet (param_and_grad_buffer.py:176, 185, 373).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.pipeline_parallel import combined_1f1b, schedules
from megatron.core.utils import get_attr_wrapped_model

from ..launch.plan import Plan, known
from ..megatron import step
from ..megatron.build import Built
from . import fake_world
from .collectives import Event
from .combined_1f1b import Pairs
from .recorder import Recorder
from .repeated_microbatches import single
from .shapes_once import SHAPES


def record(plan: Plan, built: Built, *, repeat: bool = True) -> tuple[Event, ...]:
    """Take two steps without values; -> what the rank did in the second. Needs a fake world and CUDA's names on meta.

    repeat: whether microbatches in the middle repeat the second's calls.
    """
    shortest = built.config.microbatch_group_size_per_vp_stage if len(built.model) > 1 else 1
    short = dataclasses.replace(built, num_microbatches=min(shortest, built.num_microbatches))
    _step(plan, short, Recorder(short, repeat, real_first=1))  # gradients get ready in its last microbatch
    return _step(plan, built, Recorder(built, repeat))


def _step(plan: Plan, built: Built, recorder: Recorder) -> tuple[Event, ...]:
    combined = bool(built.config.overlap_moe_expert_parallel_comm)
    training = plan.request.training
    shape = (training.micro_batch_size, known(plan.request.model.seq_length))

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
        stack.enter_context(SHAPES)
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
    combined_1f1b.combined_forward_backward_step = Pairs(recorder, combined)
    try:
        yield
    finally:
        schedules.forward_step, schedules.backward_step = forward, backward
        combined_1f1b.combined_forward_backward_step = combined


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


@contextlib.contextmanager
def _prepared(built: Built, recorder: Recorder) -> Iterator[None]:
    """Experts balanced, positions of one slice of the sequence, and the bounds of the layers marked."""
    handles = []
    for ddp in built.model:
        model = get_attr_wrapped_model(ddp, "decoder", return_model_obj=True)
        if hasattr(model, "rotary_pos_emb"):
            model.rotary_pos_emb.cp_group = None  # layers see one slice as the whole (build.py says why)
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
