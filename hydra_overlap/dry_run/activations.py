"""How many bytes of activations one rank keeps for backward: an estimate, after Korthikanti et al. (2022).

Source of every term: V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models",
arXiv:2205.05198, sections 4.1 (one layer), 4.2.1 and 4.2.2 (tensor and sequence parallelism), 4.2.3 (pipeline) and 4.3
(embedding, output layer, loss). The paper counts a GPT with multi-head attention, a feed-forward of 4 x hidden, GELU and
dropout: sbh (34 + 5 a s / h) bytes in a layer, 16 bits a value. Here each of its terms has the model's own width, so that
grouped queries, gated MLPs, experts, no dropout and 32 bits are counted in the same way; its own model gives its own sum,
which a test holds. Pure: no torch.

Legend: S tokens of a sequence on one context-parallel rank, B micro_batch_size, H hidden_size, T tensor parallel ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..launch.plan import known
from ..schema.nodes import Request

SOURCE = "Korthikanti et al. 2022, arXiv:2205.05198, sections 4.1 to 4.3"
MASK_BYTES = 1  # a value of a dropout mask
LOGIT_BYTES = 4  # the loss is taken in fp32


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Bytes that one layer keeps of one microbatch on one rank. entry: its input alone, which is what recomputing needs."""

    entry: int
    everything: int


def layer(request: Request) -> Layer:
    """One transformer layer; with experts, one that routes evenly.

    Left out: the router's logits and probabilities, and the statistics of norms and softmax.
    """
    model, ranks = request.model, request.parallelism
    tp, hidden = ranks.tensor_model_parallel_size, known(model.hidden_size)
    value = _value_bytes(request)
    tokens = _tokens(request)
    along = tp if ranks.sequence_parallel else 1  # norms and dropouts are split along the sequence, or not at all
    dropout = MASK_BYTES if model.hidden_dropout > 0 else 0
    # Two norms' inputs, the inputs of QKV and fc1, two dropout masks: 8 SBH + 2 SBH of the paper's 34.
    whole = tokens * hidden * (4 * value + 2 * dropout) // along
    everything = whole + _attention(request) + _mlp(request)
    return Layer(entry=tokens * hidden * value // along, everything=everything)


def _attention(request: Request) -> int:
    """Queries, keys, values and the projection's input, split over T; and the core where it keeps its S x S matrices."""
    model, ranks = request.model, request.parallelism
    tp, heads = ranks.tensor_model_parallel_size, known(model.num_attention_heads)
    width = model.kv_channels or known(model.hidden_size) // heads
    groups = max(tp, model.num_query_groups or heads)  # fewer groups than ranks are repeated
    value, tokens = _value_bytes(request), _tokens(request)
    around = tokens * value * width * (2 * heads + 2 * groups) // tp
    if not keeps_scores(request):
        return around
    dropout = MASK_BYTES + value if model.attention_dropout > 0 else 0
    return (
        around + tokens * known(model.seq_length) * heads * (value + dropout) // tp
    )  # 5 a s^2 b with dropout in 16 bits


def keeps_scores(request: Request) -> bool:
    """Whether attention keeps its S x S matrices: not with flash or fused attention, nor if the core is recomputed.

    Transformer Engine takes flash or fused attention for 16-bit inputs, and neither for 32-bit ones.
    """
    if request.model.recompute_granularity == "selective":
        modules = request.model.recompute_modules
        return modules is not None and "core_attn" not in modules and _value_bytes(request) == 4
    return _value_bytes(request) == 4


def _mlp(request: Request) -> int:
    """Output of fc1 and input of fc2; of experts also the tokens they were sent, top-k copies of each."""
    model, ranks = request.model, request.parallelism
    tp, value, tokens = ranks.tensor_model_parallel_size, _value_bytes(request), _tokens(request)
    dense = model.ffn_hidden_size or 4 * known(model.hidden_size)
    inner = 3 if model.gated_linear_unit else 2  # values kept per unit of width: fc1's output(s), fc2's input
    if model.num_moe_experts is None:
        return tokens * value * inner * dense // tp
    etp = ranks.expert_tensor_parallel_size or tp
    copies = tokens // (tp if ranks.sequence_parallel else 1) * model.moe_router_topk * etp
    routed = copies * value * (known(model.hidden_size) + inner * (model.moe_ffn_hidden_size or dense) // etp)
    shared = tokens * value * inner * (model.moe_shared_expert_intermediate_size or 0) // tp
    return int(routed + shared)


def rank_bytes(request: Request, chunks: Sequence[int], in_flight: Sequence[int], *, first: bool, last: bool) -> int:
    """Bytes on one rank when most microbatches are in flight.

    chunks: layers of each model chunk. in_flight: microbatches of which each chunk keeps activations (see
    holdings.in_flight). first, last: the rank holds the embedding, the output layer.
    """
    one = layer(request)
    total = sum(
        microbatches * _kept(request, layers, one) for layers, microbatches in zip(chunks, in_flight, strict=True)
    )
    if request.model.recompute_granularity == "full":
        total += one.everything * max(1, min(_block(request), max(chunks, default=1)))  # the block that is recomputed
    model, tp = request.model, request.parallelism.tensor_model_parallel_size
    tokens, hidden = _tokens(request), known(request.model.hidden_size)
    along = tp if request.parallelism.sequence_parallel else 1
    if first and model.hidden_dropout > 0:
        total += in_flight[0] * tokens * hidden * MASK_BYTES // along
    if last:  # one microbatch at a time: inputs of the final norm and of the output layer, and the logits
        total += 2 * tokens * hidden * _value_bytes(request) // along
        total += tokens * known(model.vocab_size) * LOGIT_BYTES // tp
    return int(total)


def _kept(request: Request, layers: int, one: Layer) -> int:
    """Bytes a chunk of so many layers keeps of one microbatch, under the plan's recomputation."""
    if request.model.recompute_granularity != "full":
        return layers * one.everything
    if request.model.recompute_method == "block":  # so many layers recomputed, one by one; the rest kept
        recomputed = min(layers, request.model.recompute_num_layers or 1)
        return recomputed * one.entry + (layers - recomputed) * one.everything
    return -(-layers // _block(request)) * one.entry


def _block(request: Request) -> int:
    """Layers that are recomputed together."""
    uniform = request.model.recompute_method != "block"
    return (request.model.recompute_num_layers or 1) if uniform else 1


def _tokens(request: Request) -> int:
    """S x B: tokens of one microbatch on one context-parallel rank."""
    sequence = known(request.model.seq_length) * request.training.micro_batch_size
    return sequence // request.parallelism.context_parallel_size


def _value_bytes(request: Request) -> int:
    return 2 if request.precision.bf16 or request.precision.fp16 else 4
