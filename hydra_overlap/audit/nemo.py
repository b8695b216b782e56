"""A NeMo-Framework-Launcher or MLPerf YAML of a Megatron GPT training -> a request.

`${oc.env:NAME,default}` becomes its default: the file is judged, not this shell. Other interpolations are followed
inside the file where they name a node; what they cannot name stays unread.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ._base import Intake
from .megatron_bridge import _entry, preset

KIND = "NeMo configuration"
ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*\w+\s*(?:,([^{}]*))?\}")
DECODED = re.compile(r"\$\{oc\.decode:([^{}]*)\}")
NODE = re.compile(r"\$\{(\.*[\w.]+)\}")
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


def looks_like(nested: Mapping[str, Any]) -> bool:
    """Whether this is a NeMo training config: a model with its optimizer inside."""
    model = nested.get("model")
    return isinstance(model, Mapping) and ("optim" in model or any(str(name).startswith("ub_tp") for name in model))


def read(nested: Mapping[str, Any]) -> Intake:
    """nested: the YAML's content."""
    intake = Intake(kind=KIND)
    model: Mapping[str, Any] = nested["model"]
    trainer = nested.get("trainer") or {}
    values = {str(name): _value(value, nested, model) for name, value in model.items()}
    for name, value in values.items():
        said = f"model.{name}={value}"
        if name in MODEL:
            if value is not None:
                intake.take(MODEL[name], value, said)
        elif name not in HANDLED and not isinstance(value, dict):
            intake.overlook(said)
    _precision(intake, values, _value(trainer.get("precision"), nested, trainer))
    _ranks(intake, trainer, nested)
    optim = values.get("optim")
    if isinstance(optim, Mapping):
        _optimizer(intake, optim, nested)
    _norm_and_activation(intake, values)
    _dictionary(intake, values.get("ub_tp_comm_overlap_cfg"))
    return intake


def _value(value: Any, root: Mapping[str, Any], parent: Mapping[str, Any]) -> Any:
    """A value with its interpolations replaced; None where that is not possible."""
    for _ in range(8):
        if not isinstance(value, str) or "${" not in value:
            return value
        text = ENVIRONMENT.sub(lambda match: (match[1] or "null").strip(), value)
        text = DECODED.sub(lambda match: match[1], text)
        whole = NODE.fullmatch(text)
        if whole:
            value = _named(whole[1], root, parent)
        elif text == value:
            return None
        else:
            value = text if "${" in text else yaml.safe_load(text)
    return None


def _named(name: str, root: Mapping[str, Any], parent: Mapping[str, Any]) -> Any:
    node: Any = parent if name.startswith(".") else root
    for part in name.lstrip(".").split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _precision(intake: Intake, model: Mapping[str, Any], of_trainer: Any) -> None:
    precision = str(model.get("precision") or of_trainer or "")
    said = f"precision={precision}"
    if precision.startswith("bf16"):
        intake.take("precision.bf16", True, said)
    elif precision.startswith("16"):
        intake.take("precision.fp16", True, said)
    if model.get("fp8"):
        intake.take("precision.fp8", "e4m3" if model.get("fp8_e4m3") else "hybrid", "model.fp8=true")
        intake.take("precision.fp8_recipe", "delayed", "model.fp8=true")


def _ranks(intake: Intake, trainer: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    devices, nodes = (_value(trainer.get(name), root, trainer) for name in ("devices", "num_nodes"))
    if isinstance(devices, int) and isinstance(nodes, int) and devices * nodes > 0:
        intake.take("parallelism.world_size", devices * nodes, f"trainer: {devices} devices x {nodes} nodes")


def _optimizer(intake: Intake, optim: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    kind = _value(optim.get("name"), root, optim)
    for owner in ("ddp", "optimizer"):
        intake.take(f"{owner}.use_distributed_optimizer", kind in DISTRIBUTED, f"model.optim.name={kind}")
    for name, raw in optim.items():
        value = _value(raw, root, optim)
        said = f"model.optim.{name}={value}"
        if name in OPTIM:
            if value is not None:
                intake.take(OPTIM[name], value, said)
        elif name == "grad_sync_dtype":
            intake.take("precision.grad_reduce_in_fp32", value in ("fp32", "float32"), said)
        elif name != "name" and not isinstance(value, (dict, list)):
            intake.overlook(said)


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
        layers = {str(gemm): _entry(entry) for gemm, entry in value.items() if isinstance(entry, Mapping)}
        intake.take("userbuffers.layers", layers, "model.ub_tp_comm_overlap_cfg")
        intake.flat["userbuffers.name"] = "of the configuration"
    elif isinstance(value, str):
        intake.notes.append(f"ub_tp_comm_overlap_cfg={preset(value)} is another file: the dictionary is not judged.")
