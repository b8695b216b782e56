"""Recording of megatron-core's combined schedule, where a forward and a backward run together, layer by layer.

overlap_moe_expert_parallel_comm has no forward_step and no backward_step: one function runs a pair of works, and its four
callbacks send and receive (combined_1f1b.py). A recording that repeats microbatches runs the two of a pair one after the
other, so that each has calls of its own; the callbacks keep their order.
"""

from collections.abc import Callable
from typing import Any

import torch

from .recorder import Recorder
from .repeated_microbatches import Repeated, Template, single


class Pairs:
    """Stands in for combined_1f1b.combined_forward_backward_step while a step is recorded; same arguments."""

    def __init__(self, recorder: Recorder, original: Callable[..., Any]) -> None:
        self.recorder, self.original = recorder, original

    def __call__(
        self,
        function: Any,
        batches: Any,
        f_model: Any,
        num_microbatches: int,
        given: Any,
        losses: list[Any],
        b_model: Any,
        b_given: Any,
        b_output: Any,
        b_gradient: Any,
        config: Any,
        **options: Any,
    ) -> tuple[Any, Any, Any]:
        """-> (output, number of tokens, gradient of the backward's input)."""
        output = tokens = gradient = None
        if not self.recorder.repeat and f_model is not None and b_model is not None:
            with self.recorder.work("forward", self.recorder.chunk_of(f_model)):
                pass
            with self.recorder.work("backward", self.recorder.chunk_of(b_model)):
                return self.original(  # type: ignore[no-any-return]
                    function, batches, f_model, num_microbatches, given, losses,
                    b_model, b_given, b_output, b_gradient, config, **options,
                )  # fmt: skip
        before, after = options.pop("pre_backward", None), options.pop("post_backward", None)
        if f_model is not None:
            output, tokens = self._forward(function, batches, f_model, num_microbatches, given, losses, config, options)
        if b_model is not None:
            callbacks = {"pre_backward": before, "post_backward": after}
            gradient = self._backward(b_model, num_microbatches, b_given, b_output, b_gradient, config, callbacks)
        return output, tokens, gradient

    def _forward(
        self,
        function: Any,
        batches: Any,
        model: Any,
        num_microbatches: int,
        given: Any,
        losses: list[Any],
        config: Any,
        options: dict[str, Any],
    ) -> tuple[Any, Any]:
        chunk = self.recorder.chunk_of(model)
        microbatch = self.recorder.number("forward", chunk)
        if self.recorder.real(microbatch):
            sent: list[torch.Tensor] = []
            if options.get("post_forward") is not None:
                options = {**options, "post_forward": _seen(options["post_forward"], sent)}
            with self.recorder.work("forward", chunk):
                output, tokens, _ = self.original(
                    function, batches, model, num_microbatches, given, losses, None, None, None, None, config, **options
                )
            if microbatch == self.recorder.real_first - 1:
                one = single(output)
                like = one.new_empty(one.shape)
                self.recorder.templates[chunk] = Template(like, tokens, sent[0] if sent else like)
            return output, tokens
        template = self.recorder.templates[chunk]
        with self.recorder.work("forward", chunk):
            if options.get("pre_forward") is not None:
                options["pre_forward"](chunk)
            source = single(given)
            source = torch.empty(0, device="meta", requires_grad=True) if source is None else source
            output = Repeated.apply(source, template.output)
            if options.get("post_forward") is not None:
                options["post_forward"](template.sent, chunk)
        losses += losses[-1:]  # the last stage's; other stages keep none
        return ([output] if isinstance(given, list) else output), template.loss

    def _backward(
        self,
        model: Any,
        num_microbatches: int,
        given: Any,
        output: Any,
        gradient: Any,
        config: Any,
        callbacks: dict[str, Any],
    ) -> Any:
        chunk = self.recorder.chunk_of(model)
        real = self.recorder.real(self.recorder.number("backward", chunk))
        with self.recorder.work("backward", chunk):
            if real:
                return self.original(
                    None, None, None, num_microbatches, None, [], model, given, output, gradient, config, **callbacks
                )[2]
            if callbacks["pre_backward"] is not None:
                callbacks["pre_backward"](chunk)
            source = single(given)
            passed_on = None if source is None else torch.empty_like(source)
            if callbacks["post_backward"] is not None:
                callbacks["post_backward"](passed_on, chunk)
        return [passed_on] if isinstance(given, list) else passed_on


def _seen(callback: Any, sent: list[torch.Tensor]) -> Any:
    def post_forward(output: Any, chunk: Any) -> Any:
        sent.append(output.new_empty(output.shape))
        return callback(output, chunk)

    return post_forward
