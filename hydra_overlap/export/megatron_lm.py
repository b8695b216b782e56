"""A plan as flags of Megatron-LM's pretrain_gpt.py, core_v0.16.1: one a line, in the order of Megatron's own groups.

`arguments(flat)` says what each flag's destination must hold so that Megatron-LM, after its own `validate_args`, runs
what the plan says; `words` spells that as flags. Most fields bear the destination's name and need no line here.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .. import dotted
from ..findings import Finding, Fix, yaml_value
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from ..rules.graphs import WHOLE, implementation, parts
from ..rules.layout import interleaved
from ..schema.fields import DEFAULTS, FIELDS
from ..schema.keys import CP, PIPELINE_LAYOUT, PP, TP, VPP
from ._base import (
    UNSAID,
    ExportError,
    Files,
    common_refusals,
    concerning,
    effective,
    header,
    left_open,
    rehearsed_sizes,
    unsaid,
    unsayable,
)
from .env import NAME as ENV_NAME
from .env import text as environment
from .megatron_lm_parser import VERSION, by_dest, default, rows
from .te import NAME as DICTIONARY_NAME
from .te import dictionary

NAME = "megatron_lm_flags.txt"
TARGET = f"Megatron-LM {VERSION} pretrain_gpt.py"
SOURCE = f"Megatron-LM {VERSION} megatron/training/arguments.py:"

# Fields whose destination has another name.
RENAMED: dict[str, str] = {
    "model.num_moe_experts": "num_experts",
    "model.num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
    "model.num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers",
    VPP: "num_virtual_stages_per_pipeline_rank",
    "comm_overlap.dp.bucket_size": "ddp_bucket_size",
    "ddp.average_in_collective": "ddp_average_in_collective",
    "ddp.pad_buckets_for_high_nccl_busbw": "ddp_pad_buckets_for_high_nccl_busbw",
    "ddp.reduce_scatter_with_fp32_accumulation": "ddp_reduce_scatter_with_fp32_accumulation",
    "ddp.check_for_nan_in_grad": "check_for_nan_in_loss_and_grad",
    "precision.fp4_param_gather": "fp4_param",
}
# Fields that `_translated` turns into other destinations, or that Megatron-LM decides in one way only.
TRANSLATED = (
    "model.activation_func", "model.gated_linear_unit", "model.share_embeddings_and_output_weights",
    "model.num_query_groups", "model.ffn_hidden_size", "model.cuda_graph_scope", "model.cp_comm_type",
    "model.cuda_graph_modules", "model.cuda_graph_impl", "model.enable_cuda_graph", "model.external_cuda_graph",
    "ddp.fsdp_all_gather_in_start_param_sync", "ddp.megatron_fsdp_cuda_graph_mode",
    "model.moe_aux_loss_coeff", "model.moe_router_load_balancing_type", "model.variable_seq_lengths",
    "model.deallocate_pipeline_outputs", "precision.grad_reduce_in_fp32", "comm_overlap.pp.batch_p2p_comm",
    "comm_overlap.tp.tp_comm_overlap_disable_qkv", "comm_overlap.tp.tp_comm_overlap_disable_fc1",
    "parallelism.world_size", "optimizer.use_distributed_optimizer", "optimizer.reuse_grad_buf_for_mxfp8_param_ag",
)  # fmt: skip
BASES = tuple(
    key for key in FIELDS if key.partition(".")[0] in ("ddp", "optimizer") and f"comm_overlap.dp.{key.partition('.')[2]}" in FIELDS
)  # fmt: skip


def destination(key: str, release: str = VERSION) -> str | None:
    """Where the flag of a field puts its value; None if the field has no flag of its own in that release of Megatron-LM."""
    if key in TRANSLATED or key in BASES or key.startswith(UNSAID):
        return None
    name = RENAMED.get(key, key.rpartition(".")[2])
    return name if name in by_dest(release) else None


def irrelevant(key: str, c: Mapping[str, Any]) -> bool:
    """Whether Megatron-LM never reads this field in a plan like `c`."""
    owner, _, name = key.rpartition(".")
    if owner == "comm_overlap.tp":
        return name != "tp_comm_overlap" and not c["comm_overlap.tp.tp_comm_overlap"]
    if owner == "comm_overlap.pp" and c[PP] == 1:
        return True
    if name.startswith("moe_") and c["model.num_moe_experts"] is None:
        return True
    return {
        "overlap_p2p_comm": not interleaved(c),  # validate_args:585 switches it off
        "microbatch_group_size_per_vp_stage": not interleaved(c),
        # validate_args:505-515 takes no more than one of the two flags.
        "virtual_pipeline_model_parallel_size": not interleaved(c) or c[PIPELINE_LAYOUT] is not None,
        "align_param_gather": not (interleaved(c) and c["comm_overlap.dp.overlap_param_gather"]),
        "bucket_size": not c["comm_overlap.dp.overlap_grad_reduce"] or c["ddp.use_megatron_fsdp"],  # training.py:1321
        "wgrad_deferral_limit": not c["comm_overlap.pp.defer_embedding_wgrad_compute"],
        "sequence_parallel": c[TP] == 1,  # validate_args:906-913 switches it off
        "cp_comm_type": c[CP] == 1,
        "add_qkv_bias": c["model.add_bias_linear"],  # the wider flag holds it
        "rotary_base": c["model.position_embedding_type"] != "rope",
        "fp8_recipe": c["precision.fp8"] is None,
        "fp4_recipe": c["precision.fp4"] is None,
        "first_last_layers_bf16": c["precision.fp8"] is None and c["precision.fp4"] is None,
        "num_layers_at_start_in_bf16": not c["precision.first_last_layers_bf16"],
        "num_layers_at_end_in_bf16": not c["precision.first_last_layers_bf16"],
        "data_parallel_sharding_strategy": not c["ddp.use_megatron_fsdp"],
    }.get(name, False)


def arguments(c: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Destination -> value, and what no flag can say. c: flat effective request."""
    values: dict[str, Any] = {}
    problems = common_refusals(c)
    for key in FIELDS:
        name, value = destination(key), c[key]
        if irrelevant(key, c) or value is None:
            continue
        if name is not None:
            values[name] = value
        elif key not in TRANSLATED and key not in BASES and not key.startswith(UNSAID) and value != DEFAULTS[key]:
            why = f"pretrain_gpt.py has no flag for {key.rpartition('.')[2]}."
            problems.append(unsayable(key, value, why, SOURCE + "1536-1622", _back(key)))
    values |= _translated(c)
    return values, [*problems, *_unsayable(c)]


def _translated(c: Mapping[str, Any]) -> dict[str, Any]:
    """Destinations that one field alone does not decide."""
    bf16, moe = c["precision.bf16"], c["model.num_moe_experts"] is not None
    heads, groups = c["model.num_attention_heads"], c["model.num_query_groups"]
    graphs, whole = implementation(c), implementation(c) == WHOLE
    grouped = groups is not None and groups != heads
    hidden, ffn = c["model.hidden_size"], c["model.ffn_hidden_size"]
    values = {
        "swiglu": c["model.activation_func"] == "silu" and c["model.gated_linear_unit"],
        "untie_embeddings_and_output_weights": not c["model.share_embeddings_and_output_weights"],
        "group_query_attention": grouped,
        "num_query_groups": groups if grouped else None,
        # Megatron-LM's own default of a gated MLP is another one: 8/3 of hidden_size, validate_args.
        "ffn_hidden_size": 4 * hidden if ffn is None and hidden is not None else ffn,
        "max_position_embeddings": c["model.seq_length"],
        "grad_reduce_in_bf16": bf16 and not c["precision.grad_reduce_in_fp32"],  # in fp32 by default: validate_args:715-722
        "accumulate_allreduce_grads_in_fp32": not bf16 and c["precision.grad_reduce_in_fp32"],
        "cuda_graph_scope": [WHOLE] if whole else list(parts(c)) or None,
        "cuda_graph_impl": None if graphs == "none" else "local" if whole else graphs,
        "cp_comm_type": [c["model.cp_comm_type"]] if c["model.cp_comm_type"] and c[CP] > 1 else None,
        "transformer_impl": "local" if c["software.transformer_engine"] is None else "transformer_engine",
        "moe_aux_loss_coeff": [c["model.moe_aux_loss_coeff"]] if moe else None,
        "moe_router_load_balancing_type": [c["model.moe_router_load_balancing_type"]] if moe else None,
        "tp_comm_overlap_cfg": DICTIONARY_NAME if c["userbuffers.layers"] else None,
    }  # fmt: skip
    if c["ddp.use_megatron_fsdp"]:
        values["ckpt_format"] = "fsdp_dtensor"  # validate_args:689
    elif c["comm_overlap.dp.overlap_param_gather_with_optimizer_step"]:
        values["ckpt_format"] = "torch"  # validate_args:642 refuses it with distributed checkpoints, the default
    return {name: value for name, value in values.items() if value is not None}


def _unsayable(c: Mapping[str, Any]) -> Iterator[Finding]:
    """Values that flags exist near, but not for."""
    on = c["comm_overlap.tp.tp_comm_overlap"]
    for name in ("tp_comm_overlap_disable_qkv", "tp_comm_overlap_disable_fc1"):
        key = f"comm_overlap.tp.{name}"
        if on and c[key]:
            yield unsayable(key, True, f"pretrain_gpt.py has no flag for {name}.", SOURCE + "1567-1568", _back(key))
    p2p, batched = c["comm_overlap.pp.overlap_p2p_comm"], c["comm_overlap.pp.batch_p2p_comm"]
    twice = interleaved(c) and c[PP] == 2 and not p2p  # the finding below has the way out of both
    if c[PP] > 1 and batched is not None and bool(batched) == bool(p2p) and not twice:
        why = "Megatron-LM batches sends and receives exactly when it does not overlap them."
        fix = Fix(f"comm_overlap.pp.batch_p2p_comm={yaml_value(not p2p)}", "what Megatron-LM does")
        yield unsayable("comm_overlap.pp.batch_p2p_comm", batched, why, SOURCE + "1326", fix)
    if twice:
        why = "Megatron-LM asserts more than two stages if the interleaved schedule does not overlap p2p."
        fix = Fix("comm_overlap.pp.overlap_p2p_comm=true comm_overlap.pp.batch_p2p_comm=false", "asks for the overlap")
        yield unsayable("comm_overlap.pp.overlap_p2p_comm", False, why, SOURCE + "579-583", fix)
    gather = "ddp.fsdp_all_gather_in_start_param_sync"
    if c[gather] is False and implementation(c) != WHOLE:
        why = "Megatron-LM switches this gather off only beside a graph of the whole iteration."
        yield unsayable(
            gather, False, why, "Megatron-LM core_v0.18.2 megatron/training/training.py:1924-1933", _back(gather)
        )
    if c["model.variable_seq_lengths"]:
        why = "Megatron-LM always sets variable_seq_lengths to false."
        yield unsayable("model.variable_seq_lengths", True, why, SOURCE + "754", _back("model.variable_seq_lengths"))
    if (c["model.activation_func"], c["model.gated_linear_unit"]) not in (("silu", True), ("gelu", False)):
        why = "pretrain_gpt.py supports gelu without a gate, and silu with one (--swiglu)."
        fix = Fix("model.activation_func=silu model.gated_linear_unit=true", "SwiGLU")
        yield unsayable("model.gated_linear_unit", c["model.gated_linear_unit"], why, SOURCE + "1332-1336", fix)
    if c["model.cp_comm_type"] == "a2a+p2p" and c[CP] > 1:
        why = "It needs --hierarchical-context-parallel-sizes, which the plan does not have."
        fix = Fix("model.cp_comm_type=p2p", "Megatron-LM's default")
        yield unsayable("model.cp_comm_type", "a2a+p2p", why, SOURCE + "406-408", fix)
    if c["model.recompute_modules"] == [] and c["model.recompute_granularity"] == "selective":
        why = "--recompute-modules takes at least one name."
        fix = Fix("model.recompute_granularity=null", "recomputes nothing, like the empty list")
        yield unsayable("model.recompute_modules", [], why, SOURCE + "1621", fix)
    if c["training.rampup_batch_size"] is not None:
        key, why = (
            "training.rampup_batch_size",
            "pretrain_gpt.py ramps only runs with --train-samples; this one has --train-iters.",
        )
        yield unsayable(key, c[key], why, SOURCE + "validate_args, iteration-based training", _back(key))
    if c["ddp.use_distributed_optimizer"] != c["optimizer.use_distributed_optimizer"]:
        why = "One flag, --use-distributed-optimizer, sets both."
        yield unsayable(
            "optimizer.use_distributed_optimizer", c["optimizer.use_distributed_optimizer"], why, SOURCE + "2283"
        )


def _freed_outputs(c: Mapping[str, Any]) -> Iterator[str]:
    """Notes on what is known of a plan whose outputs are freed once they are sent, as Megatron-LM does, asked or not."""
    key = "model.deallocate_pipeline_outputs"
    if c[PP] == 1 or c[key]:
        return
    here = {finding.rule for finding in resolve(dotted.nested(c)).findings}
    for finding in resolve(dotted.nested({**c, key: True})).findings:
        if finding.rule not in here:
            yield f"{finding.severity} {finding.rule}, as Megatron-LM always sets {key}: {finding.title}. {finding.why}"


def _back(key: str) -> Fix:
    return Fix(f"{key}={yaml_value(DEFAULTS[key])}", "the default")


def words(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(group, flag with its value) in Megatron's order; flags that say what holds without them are left out."""
    for row in rows():
        if row["dest"] not in values or by_dest()[row["dest"]] is not row:
            continue
        spelled = spell(row, values[row["dest"]])
        if spelled:
            yield row["group"], spelled


def spell(row: Mapping[str, Any], value: Any) -> str:
    """One flag of the table with a value, as it is typed; empty if the default says it."""
    if row["action"] != "store":
        if bool(value) == default(dict(row)):
            return ""
        negated = row["action"] == "optional_bool" and not value
        return next(flag for flag in row["flags"] if flag.startswith("--no-") or not negated)
    if value == []:  # a flag of names takes at least one; an empty list is what holds without it
        return ""
    parts = value if isinstance(value, list) else [value]
    return " ".join([row["flags"][0], *(str(part) for part in parts)])


def flags(resolution: Resolution, left: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """(group, flag) of a plan. left: fields that get no flag. Raises ExportError."""
    values, found = arguments(effective(resolution))
    if problems := concerning(found, left):
        raise ExportError("megatron-lm", problems)
    names = {destination(key) for key in left}
    return tuple(words({name: value for name, value in values.items() if name not in names}))


def _flag_names(left: Collection[str]) -> dict[str, str]:
    """Key -> its flag, one that a comment names."""
    return {key: by_dest()[name]["flags"][0] for key in left if (name := destination(key)) is not None}


def export(resolution: Resolution, command: str = "", *, asked: Collection[str] | None = None) -> Files:
    """The flags, the file for --tp-comm-overlap-cfg where the plan has a dictionary, the environment."""
    c = effective(resolution)
    left = unsaid(c, asked)
    lines: list[str] = []
    group = ""
    for owner, flag in flags(resolution, left):
        if owner != group:
            lines += [f"# {owner}"]
            group = owner
        lines.append(flag)
    notes = [
        f"Use: torchrun ... pretrain_gpt.py $(grep -v '^#' {NAME}), after `source {ENV_NAME}`.",
        f"Ranks: {c['parallelism.world_size']}. Data, tokenizer and checkpoints are yours to add.",
    ]
    notes += rehearsed_sizes(c, asked)
    lines += left_open(left, _flag_names(left))
    core = c["software.megatron_core"]
    if core is not None and not core.startswith("0.16."):
        notes.append(f"The plan is for megatron-core {core}; these are the flags of {VERSION}.")
    notes += _freed_outputs(c)
    files = {NAME: header(TARGET, command, c, *notes) + "\n".join(lines) + "\n"}
    if resolution.userbuffers is not None:
        files[DICTIONARY_NAME] = header(f"{TARGET} --tp-comm-overlap-cfg", command, c) + dictionary(
            resolution.userbuffers
        )
    files[ENV_NAME] = environment(resolution, command)
    return files
