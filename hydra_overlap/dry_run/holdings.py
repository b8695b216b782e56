"""What one built rank holds: parameters, buckets, bytes of weights, gradients and optimizer, activations at the peak.

Counted on megatron-core's own objects, which lie on the meta device; activations, which exist only while a step runs, are
estimated in activations.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import HydraOverlapError
from ..launch.plan import Plan
from ..megatron import configs
from ..presets import catalogue
from . import activations

MAIN_BYTES = 4  # of one main parameter, or one value of an optimizer's state: fp32
STATES = {"adam": 2, "sgd": 1}  # values an optimizer keeps per parameter: two moments; one momentum
MIB = 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One model chunk of one rank."""

    layers: tuple[int, ...]
    """Numbers of its transformer layers, from 1."""
    embedding: bool
    """Whether it holds the input embedding."""
    output: bool
    """Whether it holds the output layer."""
    parameters: int
    """Of this rank: its share of every split tensor."""
    buckets: tuple[int, ...]
    """Parameters of each DDP bucket, padding included, dense buffers first, in the order of backward."""
    bucket_bytes: tuple[int, ...]
    """Bytes of each bucket's gradients."""


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """What one rank holds. Bytes throughout; all of it computed."""

    rank: int
    stage: int
    """Pipeline stage."""
    chunks: tuple[Chunk, ...]
    data_parallel_size: int
    """Replicas of the model; a dense bucket is shared by this times context_parallel_size ranks."""
    num_microbatches: int
    in_flight: tuple[int, ...]
    """Per chunk: microbatches of which it keeps activations at the peak."""
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """fp32 main parameters and the optimizer's state: this rank's shard, with the distributed optimizer."""
    userbuffers_bytes: int
    activations_bytes: int
    """Estimate, see activations.py."""

    @property
    def parameters(self) -> int:
        """Of all chunks."""
        return sum(chunk.parameters for chunk in self.chunks)

    @property
    def total_bytes(self) -> int:
        """What is counted here; a GPU holds more (report.py says what)."""
        states = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return states + self.userbuffers_bytes + self.activations_bytes


def held_by(plan: Plan, built: Any, rank: int) -> RankFigures:
    """Of the rank that this process is. built: a build.Built. Needs parallel state."""
    from megatron.core import parallel_state

    chunks = tuple(_chunk(ddp) for ddp in built.model)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    held = in_flight(built.config, built.num_microbatches, [len(chunk.layers) for chunk in chunks])
    return RankFigures(
        rank=rank,
        stage=stage,
        chunks=chunks,
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        num_microbatches=built.num_microbatches,
        in_flight=held,
        weights_bytes=sum(_weights_bytes(ddp) for ddp in built.model),
        gradients_bytes=sum(sum(chunk.bucket_bytes) for chunk in chunks),
        optimizer_bytes=_optimizer_bytes(built.optimizer, plan.request.optimizer.optimizer),
        userbuffers_bytes=_userbuffers_bytes(plan),
        activations_bytes=activations.rank_bytes(
            plan.with_values({"model.vocab_size": configs.padded_vocab_size(plan)}).request,
            [len(chunk.layers) for chunk in chunks],
            held,
            first=any(chunk.embedding for chunk in chunks),
            last=any(chunk.output for chunk in chunks),
        ),
    )


def _chunk(ddp: Any) -> Chunk:
    from megatron.core.utils import get_attr_wrapped_model

    if not all(parameter.is_meta for parameter in ddp.parameters()):
        raise HydraOverlapError("A dry run allocated a parameter; please report this plan.")
    model = get_attr_wrapped_model(ddp, "decoder", return_model_obj=True)
    buckets = [bucket for buffer in _buffers(ddp) for bucket in buffer.buckets]
    return Chunk(
        layers=tuple(layer.layer_number for layer in model.decoder.layers),
        embedding=bool(model.pre_process),
        output=bool(model.post_process),
        parameters=sum(parameter.numel() for parameter in ddp.parameters()),
        buckets=tuple(bucket.grad_data.numel() for bucket in buckets),
        bucket_bytes=tuple(bucket.grad_data.numel() * bucket.grad_data.element_size() for bucket in buckets),
    )


def _buffers(ddp: Any) -> list[Any]:
    """megatron-core's _ParamAndGradBuffers of one chunk: dense, then experts."""
    return [*ddp.buffers, *ddp.expert_parallel_buffers]


def _weights_bytes(ddp: Any) -> int:
    """Parameters as they lie in memory: with the distributed optimizer in DDP's padded buffer."""
    buffers = _buffers(ddp)
    if all(buffer.param_data is not None for buffer in buffers):
        return sum(buffer.param_data.numel() * buffer.param_data.element_size() for buffer in buffers)
    return sum(parameter.numel() * parameter.element_size() for parameter in ddp.parameters())


def _optimizer_bytes(optimizer: Any, kind: str) -> int:
    """fp32 copies of 16-bit parameters, and the states of every parameter that this rank's optimizers step.

    States are allocated at the first step, in fp32, beside the main parameter.
    """
    total = 0
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        stepped = sum(parameter.numel() for group in one.param_groups for parameter in group["params"])
        groups = getattr(one, "shard_fp32_from_float16_groups", None) or getattr(one, "fp32_from_float16_groups", [])
        main = sum(parameter.numel() for group in groups for parameter in group if parameter is not None)
        total += MAIN_BYTES * (main + STATES[kind] * stepped)
    return total


def _userbuffers_bytes(plan: Plan) -> int:
    """Transformer Engine's userbuffers on each rank, if the plan has them (see presets.gemms.memory_mib)."""
    if not plan.resolution.transformer_config.get("tp_comm_overlap"):
        return 0
    memory = catalogue.memory_of(plan.resolution.request, plan.resolution.userbuffers or {})
    return int((memory or 0) * MIB)


def in_flight(config: Any, num_microbatches: int, layers: Sequence[int]) -> tuple[int, ...]:
    """Microbatches of which each chunk of this rank keeps activations, at the point of a step where most layers do.

    config: the TransformerConfig. layers: of each chunk. Walks through a step in the order of megatron-core's schedules,
    one forward and one backward in turn after warm-up; needs parallel state.
    Source: megatron-core core_v0.16.1 megatron/core/pipeline_parallel/schedules.py:738-830 (warm-up, order), 1079-1084
    (backward goes through the chunks from the last).
    """
    from megatron.core.pipeline_parallel import schedules

    chunks, group = len(layers), config.microbatch_group_size_per_vp_stage
    total, _, warm_up, _ = schedules.get_pp_rank_microbatches(
        num_microbatches, chunks, group, overlap_moe_expert_parallel_comm=config.overlap_moe_expert_parallel_comm
    )
    if chunks == 1:
        return (min(total, warm_up + 1),)
    order = [chunk for _, chunk in schedules.get_schedule_table(num_microbatches, chunks, group)]
    held, most = [0] * chunks, [0] * chunks
    for number, chunk in enumerate(order):
        held[chunk] += 1
        if _layers_kept(held, layers) > _layers_kept(most, layers):
            most = list(held)
        if number >= warm_up:
            held[chunks - 1 - order[number - warm_up]] -= 1
    return tuple(most)


def _layers_kept(held: Sequence[int], layers: Sequence[int]) -> int:
    return sum(microbatches * number for microbatches, number in zip(held, layers, strict=True))
