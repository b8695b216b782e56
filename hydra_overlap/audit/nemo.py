"""A NeMo-Framework-Launcher or MLPerf YAML of a Megatron GPT training -> a request."""

from collections.abc import Mapping
from typing import Any

from ..findings import Finding, Fix, Place
from ..schema.keys import SP, TP, VPP
from . import dictionary, yamls
from .intake import Intake, Unknown, bears
from .megatron_bridge import preset

KIND = "NeMo configuration"
DICTIONARY = "model.ub_tp_comm_overlap_cfg"
DISTRIBUTED = ("mcore_distributed_optim", "distributed_fused_adam")

MODEL: dict[str, str] = {
    **{
        name: f"parallelism.{name}"
        for name in (
            "tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size",
            "context_parallel_size", "expert_model_parallel_size", "sequence_parallel",
        )
    },
    **{
        name: f"model.{name}"
        for name in (
            "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
            "num_moe_experts", "moe_router_topk", "gradient_accumulation_fusion", "attention_dropout", "hidden_dropout",
            "position_embedding_type", "layernorm_epsilon", "share_embeddings_and_output_weights",
            "moe_token_dispatcher_type", "moe_grouped_gemm",
        )
    },
    **{name: f"comm_overlap.pp.{name}" for name in ("overlap_p2p_comm", "batch_p2p_comm", "defer_embedding_wgrad_compute", "wgrad_deferral_limit")},
    **{
        f"tp_comm_{name}": f"comm_overlap.tp.tp_comm_{name}"
        for name in ("overlap_ag", "overlap_rs", "overlap_rs_dgrad", "bulk_dgrad", "bulk_wgrad", "overlap_disable_qkv", "overlap_disable_fc1")
    },
    "ub_tp_comm_overlap": "comm_overlap.tp.tp_comm_overlap",
    "encoder_seq_length": "model.seq_length",
    "micro_batch_size": "training.micro_batch_size",
    "global_batch_size": "training.global_batch_size",
    "bias": "model.add_bias_linear",
    "fp8_params": "precision.fp8_param_gather",
    "activations_checkpoint_granularity": "model.recompute_granularity",
    "activations_checkpoint_method": "model.recompute_method",
    "activations_checkpoint_num_layers": "model.recompute_num_layers",
}  # fmt: skip
OPTIM: dict[str, str] = {
    "overlap_grad_sync": "comm_overlap.dp.overlap_grad_reduce",
    "overlap_param_sync": "comm_overlap.dp.overlap_param_gather",
    "overlap_param_gather_with_optimizer_step": "comm_overlap.dp.overlap_param_gather_with_optimizer_step",
    "align_param_gather": "comm_overlap.dp.align_param_gather",
    "ddp_bucket_size": "comm_overlap.dp.bucket_size",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
}
HANDLED = (
    "precision", "fp8", "fp8_e4m3", "fp8_hybrid", "ub_tp_comm_overlap_cfg", "optim", "megatron_amp_O2", "mcore_gpt",
    "transformer_engine", "normalization", "activation",
)  # fmt: skip


UNREAD = "NeMo reads only the names it knows from its configuration; nothing reads another one."
SOURCE = "NVIDIA NeMo 000316c8c3 nemo/collections/nlp/models/language_modeling/megatron_base_model.py build_transformer_config"
WORDS: dict[str, str] = {
    **{key: f"model.{name}" for name, key in MODEL.items()},
    **{key: f"model.optim.{name}" for name, key in OPTIM.items()},
}
"""Field -> its place in a NeMo YAML."""
WHOLE: dict[str, str] = {
    "ddp.use_distributed_optimizer=true": "model.optim.name=mcore_distributed_optim",
    "optimizer.use_distributed_optimizer=true": "model.optim.name=mcore_distributed_optim",
    "precision.fp8=null": "model.fp8=false",
    "precision.bf16=true": "trainer.precision=bf16",
    "precision.grad_reduce_in_fp32=true": "model.optim.grad_sync_dtype=fp32",
    "precision.grad_reduce_in_fp32=false": "model.optim.grad_sync_dtype=bf16",
}
"""Overrides of fields that a NeMo YAML says in another way."""


RECOMPUTED = ("activations_checkpoint_num_layers",)  # read only where a method says how: 0 is NeMo's way to say none
CHANGES = "NVIDIA NeMo v2.0.0 nemo/collections/nlp/models/language_modeling/megatron_base_model.py _validate_and_override_config"


def looks_like(nested: Mapping[str, Any]) -> bool:
    """Whether this is a NeMo training config: a model with its optimizer inside."""
    model = nested.get("model")
    return isinstance(model, Mapping) and ("optim" in model or any(str(name).startswith("ub_tp") for name in model))


def read(content: Mapping[str, Any]) -> Intake:
    """The request in a NeMo or MLPerf YAML. content: of the YAML, nested."""
    intake = Intake(kind=KIND, settle=_settle)
    nested = yamls.resolved(content)
    model: Mapping[str, Any] = nested["model"]
    trainer = nested.get("trainer")
    trainer = trainer if isinstance(trainer, Mapping) else {}
    for name, value in model.items():
        said = f"model.{name}={yamls.shown(value)}"
        if name in MODEL:
            if value is not None and not (name in RECOMPUTED and model.get("activations_checkpoint_method") is None):
                intake.take(MODEL[name], value, said)
        elif name not in HANDLED and not isinstance(value, dict):
            intake.unknown(str(name), _judged(MODEL), said, UNREAD, SOURCE)
    if model.get("fsdp") is True and model.get("ub_tp_comm_overlap") is True:
        intake.findings.append(_lost_to_fsdp())
    _precision(intake, model, trainer.get("precision"))
    _ranks(intake, trainer)
    optim = model.get("optim")
    if isinstance(optim, Mapping):
        _optimizer(intake, optim)
    _norm_and_activation(intake, model)
    _dictionary(intake, model.get("ub_tp_comm_overlap_cfg"))
    return intake


def _lost_to_fsdp() -> Finding:
    return Finding(
        rule="NEMO", severity="error", title="Userbuffers are asked for, and NeMo switches them off with FSDP", source=CHANGES,
        why="One line of the log says so, and the run goes on without TP overlap.",
        where=(Place("comm_overlap.tp.tp_comm_overlap", "true", "model.ub_tp_comm_overlap=true"), Place("model.fsdp", "true", "model.fsdp=true")),
        fixes=(Fix("model.fsdp=false", "keeps the overlap"), Fix("model.ub_tp_comm_overlap=false", "gives the overlap up")),
    )  # fmt: skip


def _settle(intake: Intake) -> None:
    """What NeMo changes first, in _validate_and_override_config."""
    if intake.flat.get(TP, 1) == 1 and SP in intake.said:
        intake.change(SP, False, "NeMo sets sequence_parallel to false where tensor_model_parallel_size is 1")
    if intake.flat.get(VPP) == 1:
        intake.change(VPP, None, "NeMo sets virtual_pipeline_model_parallel_size to null where it is 1")


def _judged(names: Mapping[str, str]) -> list[str]:
    """Those on which a verdict hangs."""
    return [name for name, key in names.items() if bears(key)]


def _precision(intake: Intake, model: Mapping[str, Any], of_trainer: Any) -> None:
    precision = str(model.get("precision") or of_trainer or "")
    said = f"precision={precision}"
    if precision.startswith("bf16"):
        intake.take("precision.bf16", True, said)
    elif precision.startswith("16"):
        intake.take("precision.fp16", True, said)
    fp8 = model.get("fp8")
    if isinstance(fp8, str):
        intake.leave(
            "precision.fp8", f"model.fp8={yamls.shown(fp8)}", "" if isinstance(fp8, Unknown) else "true or false"
        )
    elif fp8:
        intake.take("precision.fp8", "e4m3" if model.get("fp8_e4m3") else "hybrid", "model.fp8=true")
        intake.take("precision.fp8_recipe", "delayed", "model.fp8=true")


def _ranks(intake: Intake, trainer: Mapping[str, Any]) -> None:
    devices, nodes = (trainer.get(name) for name in ("devices", "num_nodes"))
    if isinstance(devices, int) and isinstance(nodes, int) and devices * nodes > 0:
        intake.take("parallelism.world_size", devices * nodes, f"trainer: {devices} devices x {nodes} nodes")


def _optimizer(intake: Intake, optim: Mapping[str, Any]) -> None:
    kind = optim.get("name")
    for owner in ("ddp", "optimizer"):
        intake.take(f"{owner}.use_distributed_optimizer", kind in DISTRIBUTED, f"model.optim.name={kind}")
    for name, value in optim.items():
        said = f"model.optim.{name}={yamls.shown(value)}"
        if name in OPTIM:
            if value is not None:
                intake.take(OPTIM[name], value, said)
        elif name == "grad_sync_dtype":
            intake.take("precision.grad_reduce_in_fp32", value in ("fp32", "float32"), said)
        elif name != "name" and not isinstance(value, (dict, list)):
            intake.unknown(str(name), _judged(OPTIM), said, UNREAD, SOURCE)


def _norm_and_activation(intake: Intake, model: Mapping[str, Any]) -> None:
    norm = str(model.get("normalization") or "").lower()
    if norm:
        intake.take("model.normalization", "RMSNorm" if "rms" in norm else "LayerNorm", f"model.normalization={norm}")
    activation = str(model.get("activation") or "")
    if activation:
        gated = "glu" in activation and activation != "gelu"
        said = f"model.activation={activation}"
        intake.take("model.activation_func", "silu" if "swiglu" in activation else "gelu", said)
        intake.take("model.gated_linear_unit", gated, said)


def _dictionary(intake: Intake, value: Any) -> None:
    if isinstance(value, Mapping):
        dictionary.take(intake, value, DICTIONARY)
    elif isinstance(value, str):
        intake.notes.append(f"ub_tp_comm_overlap_cfg={preset(value)} is another file, so the dictionary is not judged.")


def say(override: str) -> str:
    """An override of ours in NeMo's words; unchanged where it has none."""
    about_dictionary = dictionary.say(override, f"{DICTIONARY}.", f"{DICTIONARY}=null")
    if about_dictionary is not None:
        return about_dictionary
    key, equals, value = override.partition("=")
    if key == "parallelism.world_size":
        return "any legal number of ranks" if value == "null" else f"{value} ranks"
    if key.startswith("env."):
        return override.removeprefix("env.")
    return WHOLE.get(override) or (f"{WORDS[key]}{equals}{value}" if key in WORDS else override)
