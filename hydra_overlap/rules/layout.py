"""Arithmetic of the parallel layout that several rule families share. Every function takes the flat request."""

from math import lcm
from typing import Any

from ..schema.keys import (
    COUNT_EMBEDDING,
    COUNT_LOSS,
    CP,
    EP,
    ETP,
    EXPERT_FFN_HIDDEN,
    EXPERTS,
    FFN_HIDDEN,
    FIRST_STAGE,
    GATED,
    GBS,
    HEADS,
    HIDDEN,
    KV_CHANNELS,
    LAST_STAGE,
    MBS,
    NUM_LAYERS,
    PIPELINE_LAYOUT,
    PP,
    QUERY_GROUPS,
    SHARED_EXPERT,
    TIED_EMBEDDINGS,
    TP,
    VOCAB,
    VPP,
    WORLD,
)
from . import pipeline_layout
from ._base import Config

UNEVEN = (FIRST_STAGE, LAST_STAGE, COUNT_EMBEDDING, COUNT_LOSS)
SPLIT = (*UNEVEN, PIPELINE_LAYOUT)
"""Every way to split layers other than evenly."""


def expert_tensor_parallel_size(c: Config) -> int:
    """ETP; megatron-core takes TP when it is null (model_parallel_config.py:413)."""
    return c[TP] if c[ETP] is None else c[ETP]


def model_ranks(c: Config) -> int:
    """Ranks that hold one copy of the dense model: TP x PP x CP."""
    return c[TP] * c[PP] * c[CP]


def expert_ranks(c: Config) -> int:
    """Ranks that hold one copy of the experts: ETP x EP x PP."""
    return expert_tensor_parallel_size(c) * c[EP] * c[PP]


def smallest_world(c: Config) -> int:
    """The smallest legal world_size of this layout."""
    return lcm(model_ranks(c), expert_ranks(c))


def data_parallel_size(c: Config) -> int:
    """Replicas of the model, context parallelism excluded."""
    return c[WORLD] // model_ranks(c)


def dp_cp_size(c: Config) -> int:
    """Ranks that reduce gradients together: data x context parallel (megatron-core's dp_cp group)."""
    return c[WORLD] // (c[TP] * c[PP])


def interleaved(c: Config) -> bool:
    """Whether megatron-core picks the interleaved 1F1B schedule."""
    return c[PP] > 1 and (c[VPP] or 1) > 1


def interleave(c: Config) -> str:
    """The overrides that turn the interleaved schedule on, with the fewest model chunks per rank that divide the layers."""
    stages = c[PP] if c[PP] > 1 else 2
    even = (n for n in range(2, (c[NUM_LAYERS] or 0) // stages + 1) if c[NUM_LAYERS] % (stages * n) == 0)
    chunks = f"{VPP}={next(even, 2)}"
    return chunks if c[PP] > 1 else f"{PP}=2 {chunks} {WORLD}={c[WORLD] * 2}"


def num_microbatches(c: Config) -> int | None:
    """Microbatches per step and pipeline; None while the global batch is not said."""
    return None if c[GBS] is None else c[GBS] // (c[MBS] * data_parallel_size(c))


def neighbours(value: int, multiple: int) -> tuple[int, ...]:
    """Positive multiples of `multiple` next to `value`, the nearer first."""
    below, above = value // multiple * multiple, (value // multiple + 1) * multiple
    near = sorted({below, above}, key=lambda n: (abs(n - value), n))
    return tuple(n for n in near if n > 0)


def divisor_below(value: int, limit: int) -> int:
    """The largest divisor of `value` that is `limit` or less; searched among the 4,096 numbers below, else 1."""
    return next((n for n in range(limit, max(0, limit - 4096), -1) if value % n == 0), 1)


def first_chunk_layers(c: Config) -> int:
    """Transformer layers in the first model chunk of the first pipeline stage; of a layout, in the largest chunk."""
    written = pipeline_layout.readable(c)
    if written is not None:
        return max(stage.count(pipeline_layout.LAYER) for stage in written)
    layers, stages, chunks = c[NUM_LAYERS], c[PP], c[VPP] or 1
    if c[FIRST_STAGE] is not None:
        return int(c[FIRST_STAGE] // chunks)
    if c[LAST_STAGE] is not None and stages > 1:
        layers, stages = layers - c[LAST_STAGE], stages - 1
    counted = bool(c[COUNT_EMBEDDING])  # the embedding takes the place of one layer
    return int(max(0, (layers + counted + bool(c[COUNT_LOSS])) // (stages * chunks) - counted))


def bucketed_parameters(c: Config) -> tuple[int, ...] | None:
    """Parameters of every buffer that DDP cuts into buckets in the first model chunk, without the embedding, by size.

    The embedding's gradient is the last of all, so a bucket that holds more than this is reduced after backward. With
    expert parallelism the experts have a buffer of their own (distributed_data_parallel.py:290-303). A buffer of which
    no other rank has a copy is left out: it is not reduced. None while the model's dimensions are not said.
    """
    layer = _layer_parameters(c)
    if layer is None:
        return None
    dense, experts = (first_chunk_layers(c) * parameters for parameters in layer)
    if c[PP] == 1 and not c[TIED_EMBEDDINGS]:
        dense += _embedding_parameters(c)  # the output layer, whose gradient is the first
    if c[EP] == 1:
        return (dense + experts,)
    copies = ((dense, dp_cp_size(c)), (experts, c[WORLD] // expert_ranks(c)))
    return tuple(sorted(size for size, ranks in copies if size and ranks > 1))


def _embedding_parameters(c: Config) -> int:
    return int((c[VOCAB] or 0) * c[HIDDEN] // c[TP])


def _layer_parameters(c: Config) -> tuple[int, int] | None:
    """Dense and expert parameters of one layer on one rank."""
    hidden, heads = c[HIDDEN], c[HEADS]
    if None in (c[NUM_LAYERS], hidden, heads):
        return None
    head = c[KV_CHANNELS] or hidden // heads
    groups = c[QUERY_GROUPS] or heads
    ffn = c[FFN_HIDDEN] or 4 * hidden
    gates = 3 if c[GATED] else 2
    attention = hidden * head * (2 * heads + 2 * groups) // c[TP]
    experts: Any = c[EXPERTS]
    if not experts:
        return attention + gates * hidden * ffn // c[TP], 0
    expert_ffn = c[EXPERT_FFN_HIDDEN] or ffn
    shared = gates * hidden * (c[SHARED_EXPERT] or 0) // c[TP]
    routed = gates * hidden * expert_ffn * experts // (c[EP] * expert_tensor_parallel_size(c))
    return attention + shared + hidden * experts, routed
