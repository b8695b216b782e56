"""A rehearsal: the same plan, layout and schedule on CPU with gloo, at shrunk dimensions.

What keeps its value: every rank, stage, chunk and layer, the microbatch count, every overlap flag that megatron-core
itself acts on. What shrinks is the size of tensors: hidden, feed-forward, heads, vocabulary, sequence, experts, and the
bucket size with them, so that a chunk is cut into as many buckets as planned. What only CUDA has is replaced or left out,
and said. Pure: no torch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .. import dotted
from ..launch.plan import Change, Plan, Rehearsal, known
from ..rules.layout import bucketed_parameters
from ..schema.fields import complete
from ..schema.nodes import Model, Precision

HIDDEN = 256  # width of the residual stream above which a model is shrunk
HEAD = 32  # width of one attention head
HEADS_PER_RANK = 2
FFN = 512
EXPERT_FFN = 128
VOCABULARY = 512  # tokens; more than the 257 of the byte tokenizer
SEQUENCE = 256  # tokens
EXPERTS_PER_RANK = 2
EXPERTS = 4  # fewer are not worth shrinking, and of fewer a router chooses all


# Settings that need CUDA or Transformer Engine: what the rehearsal uses, and what it therefore does not exercise.
_REPLACED: tuple[tuple[str, Any, str], ...] = (
    ("precision.fp8", None, "FP8 GEMMs: trained in 16 bits"),
    ("precision.fp8_recipe", None, ""),
    ("precision.fp8_param_gather", False, "parameter gather in FP8: gathered in 16 bits"),
    ("precision.fp4", None, "FP4 GEMMs: trained in 16 bits"),
    ("precision.fp4_recipe", None, ""),
    ("precision.fp4_param_gather", False, "parameter gather in FP4: gathered in 16 bits"),
    ("precision.first_last_layers_bf16", False, ""),
    ("model.gradient_accumulation_fusion", False, "fused gradient accumulation: a CUDA kernel"),
    ("model.moe_grouped_gemm", False, "grouped GEMM over experts: experts run one by one"),
    ("model.cuda_graph_scope", [], "CUDA graphs"),
    ("model.cuda_graph_modules", [], "CUDA graphs"),
    ("model.cuda_graph_impl", None, "CUDA graphs"),
    ("model.enable_cuda_graph", False, "CUDA graphs"),
    ("model.external_cuda_graph", False, "CUDA graphs"),
    ("ddp.reuse_grad_buf_for_mxfp8_param_ag", False, ""),
    ("optimizer.reuse_grad_buf_for_mxfp8_param_ag", False, ""),
    ("ddp.nccl_ub", False, "NCCL user buffers: a CUDA allocator"),
    ("comm_overlap.ep.delay_wgrad_compute", False, "delayed weight gradients: Transformer Engine's layers"),
    ("comm_overlap.pp.defer_embedding_wgrad_compute", False, "deferred output-layer weight gradient: a CUDA kernel"),
)


def rehearse(plan: Plan, other_versions: Sequence[str] = ()) -> Plan:
    """The plan as this machine without a GPU can run it; `plan.rehearsal` says what differs.

    other_versions: software the plan was judged for and that is not what runs here.
    """
    rehearsed, replaced, left_out = replace_cuda_only(plan)
    rehearsed, change = _with_experts_gathered_after_their_step(rehearsed)
    if change:
        replaced.append(change)
        left_out.append(change.reason)
    rehearsed, shrunk = _shrunk(rehearsed)
    rehearsed, buckets = _with_buckets_in_proportion(rehearsed, plan)
    resolution = plan.resolution
    if resolution.transformer_config.get("tp_comm_overlap"):
        left_out.insert(0, "userbuffers (TP overlap): CUDA kernels; the layers run without them")
    if resolution.env:
        left_out.append(f"{', '.join(resolution.env)}: set in every rank, but no GPU reads them")
    left_out += [f"the versions it was judged for: {text}" for text in other_versions]
    left_out.append("NCCL: collectives run on gloo; times say nothing about a GPU")
    made = Rehearsal(
        shrunk=(*shrunk, *buckets),
        replaced=tuple(replaced),
        not_exercised=tuple(left_out),
        arithmetic=_arithmetic(rehearsed.request.precision),
    )
    return dataclasses.replace(rehearsed, rehearsal=made)


def _arithmetic(precision: Precision) -> tuple[str, ...]:
    """What is computed otherwise than the number format says (megatron/matmul.py)."""
    formats = [name for name in ("bf16", "fp16") if getattr(precision, name)]
    return tuple(f"{name} matrices are multiplied in fp32 and rounded to {name} once, on every CPU" for name in formats)


def _with_experts_gathered_after_their_step(plan: Plan) -> tuple[Plan, Change | None]:
    """Without this a rehearsal trains wrong at random: gloo copies experts onto themselves while they step (DP029)."""
    if plan.request.parallelism.expert_model_parallel_size == 1:
        return plan, None
    text = "parameter gather with the optimizer step: gloo would gather experts in the middle of their step"
    return _with_value(plan, "comm_overlap.dp.overlap_param_gather_with_optimizer_step", False, text)


def replace_cuda_only(plan: Plan) -> tuple[Plan, list[Change], list[str]]:
    """The plan with settings that need CUDA replaced, in its request and in its three dicts of settings.

    -> (the changed plan, changes, what is therefore left out). Dry runs call it as well.
    """
    changes, left_out = [], []
    for key, value, text in _REPLACED:
        plan, change = _with_value(plan, key, value, text)
        changes += [change] if change else []
        left_out += [text] if change and text else []
    model = plan.request.model
    if model.num_moe_experts is not None and model.moe_token_dispatcher_type == "flex":
        text = f"the {model.moe_flex_dispatcher_backend} dispatcher: tokens are sent by all-to-all"
        key = "model.moe_token_dispatcher_type"
        plan = plan.with_values({key: "alltoall", "model.moe_flex_dispatcher_backend": None})
        changes.append(Change(key=key, planned="flex", rehearsed="alltoall", reason=text))
        left_out.append(text)
    return plan, changes, list(dict.fromkeys(left_out))


def _with_value(plan: Plan, key: str, value: Any, text: str) -> tuple[Plan, Change | None]:
    """The plan with `value` in its request and in its three dicts of settings, and the change; None where it planned that."""
    name = key.rpartition(".")[2]
    holding = {node: values for node, values in plan.resolution.settings.items() if name in values}
    planned = [values[name] for values in holding.values()] or [dotted.get(plan.resolution.request, key)]
    if all(item in (value, None) for item in planned):
        return plan, None
    changed = plan.with_values({key: value}).with_settings({node: {name: value} for node in holding})
    return changed, Change(key=key, planned=planned[0], rehearsed=value, reason=text)


def _shrunk(plan: Plan) -> tuple[Plan, list[Change]]:
    """Tensor dimensions brought down to a laptop's size. Nothing grows; the layout keeps dividing them."""
    before, layout = plan.request.model, plan.request.parallelism
    model = dataclasses.replace(before)
    tp, cp, ep = layout.tensor_model_parallel_size, layout.context_parallel_size, layout.expert_model_parallel_size
    if model.hidden_size is not None and model.hidden_size > HIDDEN:
        if model.num_attention_heads is not None:
            _shrink_heads(model, tp)
        model.hidden_size = HIDDEN
    split = (tp if layout.sequence_parallel else 1) * (2 * cp if cp > 1 else 1)
    for name, limit, multiple in (
        ("ffn_hidden_size", FFN, tp),
        ("moe_ffn_hidden_size", EXPERT_FFN, tp),
        ("moe_shared_expert_intermediate_size", EXPERT_FFN, tp),
        ("vocab_size", VOCABULARY, 1),
        ("seq_length", SEQUENCE, split),
        ("num_moe_experts", max(EXPERTS, EXPERTS_PER_RANK * ep), ep),
    ):
        size = getattr(model, name)
        if size is not None and size > limit:
            setattr(model, name, max(multiple, limit // multiple * multiple))
    if model.num_moe_experts is not None:
        model.moe_router_topk = min(model.moe_router_topk, model.num_moe_experts)
    smaller = {name: value for name, value in vars(model).items() if value != getattr(before, name)}
    changes = [
        Change(key=f"model.{name}", planned=getattr(before, name), rehearsed=value, reason="tensor dimension")
        for name, value in smaller.items()
    ]
    return plan.with_values({change.key: change.rehearsed for change in changes}), changes


def _shrink_heads(model: Model, tp: int) -> None:
    """Fewer, narrower heads: every TP rank keeps whole ones, and grouped-query attention stays grouped."""
    heads = known(model.num_attention_heads)
    model.kv_channels = min(model.kv_channels or known(model.hidden_size) // heads, HEAD)
    model.num_attention_heads = min(heads, HEADS_PER_RANK * tp)
    if model.num_query_groups is not None:
        model.num_query_groups = min(model.num_query_groups or heads, tp)


def _with_buckets_in_proportion(rehearsed: Plan, plan: Plan) -> tuple[Plan, list[Change]]:
    """bucket_size in the proportion its parameters shrank in: they are cut into as many buckets as planned."""
    size = rehearsed.resolution.ddp_config.get("bucket_size")
    planned, here = (bucketed_parameters(complete(p.resolution.request)) for p in (plan, rehearsed))
    if size is None or not planned or not here or here[0] >= planned[0]:
        return rehearsed, []
    smaller = max(1, size * here[0] // planned[0])
    reason = f"like the model it cuts: {planned[0]:,} to {here[0]:,} parameters"
    change = Change(key="comm_overlap.dp.bucket_size", planned=size, rehearsed=smaller, reason=reason)
    return rehearsed.with_settings({"ddp_config": {"bucket_size": smaller}}), [change]
