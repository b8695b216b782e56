"""The collectives of one training step of one rank: what was called, how often, how many bytes, in which group. Pure.

Calls are recorded from megatron-core's own code (recorded_step.py). Two things are not called there and are modelled here
from Transformer Engine's source: the ring of context parallelism, and which calls userbuffers make instead of NCCL.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..launch.plan import Plan, known

DIMENSIONS = ("TP", "CP", "EP", "PP", "DP", "all")
"""In which tables list them; `all` is what crosses dimensions: gradient norms, losses."""

# megatron-core's names of groups (parallel_state.py, group_desc) without `_GROUP`, by dimension.
_DIMENSION_OF = {
    "TENSOR_MODEL_PARALLEL": "TP",
    "EXPERT_TENSOR_PARALLEL": "TP",
    "CONTEXT_PARALLEL": "CP",
    "HIERARCHICAL_CONTEXT_PARALLEL": "CP",
    "EXPERT_MODEL_PARALLEL": "EP",
    "EXPERT_TENSOR_AND_MODEL_PARALLEL": "EP",
    "PIPELINE_MODEL_PARALLEL": "PP",
    "EMBEDDING": "PP",
    "POSITION_EMBEDDING": "PP",
    "DATA_PARALLEL": "DP",
    "DATA_PARALLEL_WITH_CP": "DP",
    "INTRA_PARTIAL_DATA_PARALLEL_WITH_CP": "DP",
    "INTER_PARTIAL_DATA_PARALLEL_WITH_CP": "DP",
    "EXPERT_DATA_PARALLEL": "DP",
    "INTRA_EXPERT_DATA_PARALLEL": "DP",
    "INTER_EXPERT_DATA_PARALLEL": "DP",
    "INTER_PARTIAL_EXPERT_DATA_PARALLEL": "DP",
    "INTRA_PARTIAL_EXPERT_DATA_PARALLEL": "DP",
}
POINT_TO_POINT = ("send", "receive")


@dataclass(frozen=True)
class Call:
    """One collective, or one message, as a rank hands it to its process group."""

    operation: str
    """all-gather, reduce-scatter, all-reduce, all-to-all, broadcast, send, receive."""
    group: str
    """megatron-core's name of the group, in lower case."""
    ranks: int
    """Of the group."""
    bytes: int
    """As nccl-tests counts them: the whole tensor that is gathered, scattered, reduced or sent on this rank."""
    asynchronous: bool = False
    """Whether the caller asked not to wait."""
    peer: int | None = None
    """Global rank at the other end of a message."""
    layer: bool = False
    """Whether a transformer layer called, not embedding, output layer, loss or step."""

    @property
    def dimension(self) -> str:
        """One of DIMENSIONS. Messages belong to the pipeline, also through the group of all ranks."""
        if self.operation in POINT_TO_POINT and not self.group.startswith("context"):
            return "PP"
        return _DIMENSION_OF.get(self.group.upper().replace(" ", "_"), "all")


@dataclass(frozen=True, kw_only=True)
class Work:
    """One forward or backward of one microbatch through one model chunk of a rank."""

    kind: str
    """forward or backward."""
    chunk: int
    microbatch: int
    """From 0."""
    calls: tuple[Call, ...]
    """In the order they were made; shared by works that made the same."""


Event = Work | Call
"""What a rank does in a step: works, and calls between them."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """Equal calls of a step, counted."""

    dimension: str
    operation: str
    group: str
    ranks: int
    bytes: int
    """Per call."""
    times: int
    """Per step."""
    userbuffers: int = 0
    """How many of `times` Transformer Engine's userbuffers make instead of NCCL."""
    origin: str = "recorded"
    """recorded (from megatron-core's code) or modelled."""

    @property
    def bytes_per_step(self) -> int:
        """All of them."""
        return self.bytes * self.times


def summary(events: Sequence[Event], *, tp_comm_overlap: bool = False) -> tuple[Collective, ...]:
    """Equal calls counted, by dimension, largest first. Works that share their calls are counted once and multiplied.

    tp_comm_overlap: whether userbuffers move what transformer layers exchange over tensor parallel ranks.
    """
    shared = Counter(id(one.calls) for one in events if isinstance(one, Work))
    works = {id(one.calls): one.calls for one in events if isinstance(one, Work)}
    counted: Counter[tuple[str, str, str, int, int]] = Counter()
    moved: Counter[tuple[str, str, str, int, int]] = Counter()
    single = ((call, 1) for call in events if isinstance(call, Call))
    inside = ((call, shared[which]) for which, calls in works.items() for call in calls)
    for call, times in itertools.chain(single, inside):
        key = (call.dimension, call.operation, call.group, call.ranks, call.bytes)
        counted[key] += times
        if tp_comm_overlap and by_userbuffers(call):
            moved[key] += times
    rows = [
        Collective(
            dimension=key[0],
            operation=key[1],
            group=key[2],
            ranks=key[3],
            bytes=key[4],
            times=times,
            userbuffers=moved[key],
        )
        for key, times in counted.items()
    ]
    return tuple(sorted(rows, key=_order))


def _order(row: Collective) -> tuple[Any, ...]:
    return (DIMENSIONS.index(row.dimension), -row.bytes_per_step, row.operation, row.group, row.bytes)


def by_userbuffers(call: Call) -> bool:
    """Whether userbuffers make this call where tp_comm_overlap is in effect: a layer's gather or scatter over TP."""
    return call.layer and call.group == "tensor model parallel" and call.operation in ("all-gather", "reduce-scatter")


def of_step(plan: Plan, events: Sequence[Event], layers: Sequence[int]) -> tuple[Collective, ...]:
    """What was recorded, and what Transformer Engine would add in a run of the plan. layers: of each chunk."""
    overlapped = bool(plan.resolution.transformer_config.get("tp_comm_overlap"))
    rows = summary(events, tp_comm_overlap=overlapped) + context_parallel(plan, events, layers)
    return tuple(sorted(rows, key=_order))


MODELLED_KINDS = (None, "p2p", "all_gather", "a2a")
"""Values of model.cp_comm_type whose calls are modelled; null is Transformer Engine's default, p2p."""


def context_parallel(plan: Plan, events: Sequence[Event], layers: Sequence[int]) -> tuple[Collective, ...]:
    """Calls of Transformer Engine's attention over context parallel ranks: modelled, as it needs a GPU.

    Source: TransformerEngine v2.9 pytorch/attention/dot_product_attention/context_parallel.py, one class per kind:
    AttnFuncWithCPAndKVP2P (forward sends keys and values cp - 1 times; backward sends them, then them with their
    gradients, then gradients alone: cp messages), AttnFuncWithCPAndKVAllGather, AttnFuncWithCPAndQKVOA2A. In 16 bits; FP8
    attention is not asked for.
    """
    request = plan.request
    model, layout = request.model, request.parallelism
    ranks, kind = layout.context_parallel_size, model.cp_comm_type
    if ranks == 1 or kind not in MODELLED_KINDS:
        return ()
    heads, tp = known(model.num_attention_heads), layout.tensor_model_parallel_size
    width = model.kv_channels or known(model.hidden_size) // heads
    value = 2 if request.precision.bf16 or request.precision.fp16 else 4
    head = request.training.micro_batch_size * known(model.seq_length) // ranks * width * value
    queries, keys = head * heads // tp, head * max(tp, model.num_query_groups or heads) // tp
    if kind == "all_gather":
        forward = [("all-gather", ranks * keys)] * 2
        backward = forward + [("reduce-scatter", ranks * keys)] * 2
    elif kind == "a2a":
        forward = [("all-to-all", size) for size in (queries, keys, keys, queries)]
        backward = list(forward)
    else:
        forward = _both_ways([2 * keys] * (ranks - 1))
        backward = _both_ways([2 * keys, *[4 * keys] * (ranks - 2), 2 * keys])
    modules = model.recompute_modules or ["core_attn"]
    again = model.recompute_granularity == "full" or (
        model.recompute_granularity == "selective" and "core_attn" in modules
    )
    times = Counter(forward * (2 if again else 1) + backward)
    attentions = sum(layers[one.chunk] for one in events if isinstance(one, Work) and one.kind == "forward")
    return tuple(
        Collective(
            dimension="CP",
            operation=operation,
            group="context parallel",
            ranks=ranks,
            bytes=size,
            times=count * attentions,
            origin="modelled",
        )
        for (operation, size), count in times.items()
    )


def _both_ways(sizes: Sequence[int]) -> list[tuple[str, int]]:
    return [(operation, size) for size in sizes for operation in POINT_TO_POINT]
