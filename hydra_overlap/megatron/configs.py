"""A plan as megatron-core's configuration objects: TransformerConfig, DistributedDataParallelConfig, OptimizerConfig.

The request names architecture, layout, precision and base values; the resolution's three dicts are laid over them, so
that every overlap field has one origin. Fields keep megatron-core's names; the few translations are the constants below.
"""

import dataclasses
from typing import Any

from ..errors import HydraOverlapError
from ..findings import yaml_value
from ..launch.plan import Plan, known
from ..schema.fields import DEFAULTS

_LAYOUT = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "microbatch_group_size_per_vp_stage",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "sequence_parallel",
)
_PRECISION = (
    "bf16",
    "fp16",
    "fp8",
    "fp8_recipe",
    "fp4",
    "fp4_recipe",
    "first_last_layers_bf16",
    "num_layers_at_start_in_bf16",
    "num_layers_at_end_in_bf16",
)
# Fields of a node that train.py reads itself; every other one must be a field of megatron-core's object.
_READ_HERE = {
    "model": (
        "name",
        "seq_length",
        "vocab_size",
        "position_embedding_type",
        "rotary_base",
        "share_embeddings_and_output_weights",
    ),
    "ddp": (),
    "optimizer": ("lr_warmup_iters", "lr_decay_style"),
}
VOCAB_MULTIPLE = 128  # tokens per TP rank; Megatron-LM's make_vocab_size_divisible_by


def padded_vocab_size(plan: Plan) -> int:
    """Vocabulary in tokens, rounded up so that every TP rank holds a multiple of 128.

    Source: Megatron-LM core_v0.16.1 megatron/training/tokenizer/tokenizer.py, _vocab_size_with_padding.
    """
    multiple = VOCAB_MULTIPLE * plan.request.parallelism.tensor_model_parallel_size
    return -(-known(plan.request.model.vocab_size) // multiple) * multiple


def params_dtype(plan: Plan) -> Any:
    """Dtype of parameters and activations."""
    import torch

    precision = plan.request.precision
    return torch.bfloat16 if precision.bf16 else torch.float16 if precision.fp16 else torch.float32


def transformer_config(plan: Plan, on_gpu: bool) -> Any:
    """TransformerConfig of a plan. on_gpu: use megatron-core's fused kernels, as Megatron-LM does by default."""
    import torch.nn.functional as F
    from megatron.core.transformer.transformer_config import TransformerConfig

    request, dtype = plan.request, params_dtype(plan)
    model, layout, precision = request.model, request.parallelism, request.precision
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    _require_fields("model", vars(model), names)
    values = {name: value for name, value in vars(model).items() if name in names and value is not None}
    values |= {name: value for name, value in vars(layout).items() if name in _LAYOUT and value is not None}
    values |= {name: value for name, value in vars(precision).items() if name in _PRECISION and value is not None}
    values |= {
        "activation_func": {"silu": F.silu, "gelu": F.gelu}[model.activation_func],
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "fp8_param": precision.fp8_param_gather,
        "fp4_param": precision.fp4_param_gather,
        "bias_activation_fusion": on_gpu and _fuses_activation(model),
        "bias_dropout_fusion": on_gpu,
        "masked_softmax_fusion": on_gpu,
        # The kernel is Transformer Engine's; multi-latent attention has one for YaRN alone (transformer_config.py:1531-1553, 2069).
        "apply_rope_fusion": on_gpu
        and model.position_embedding_type == "rope"
        and request.software.transformer_engine is not None
        and not model.multi_latent_attention,
    }
    for name in ("cuda_graph_scope", "cuda_graph_modules"):
        values.pop(name, None)  # empty: require_built has refused any other
    if model.num_moe_experts is None:
        values = {name: value for name, value in values.items() if not name.startswith("moe_")}
        if model.variable_seq_lengths:  # megatron-core refuses its default even where nothing is dispatched
            values["moe_token_dispatcher_type"] = "alltoall"
    elif model.moe_ffn_hidden_size is None:
        values["moe_ffn_hidden_size"] = model.ffn_hidden_size or 4 * known(model.hidden_size)
    values |= _known(plan.resolution.transformer_config, names)
    return TransformerConfig(**values)


def _fuses_activation(model: Any) -> bool:
    """Whether megatron-core has a fused kernel for this MLP: gated ones, and GELU with a bias.

    Source: megatron-core core_v0.16.1 transformer_config.py:1485-1500, transformer/mlp.py forward.
    """
    return bool(model.gated_linear_unit or (model.activation_func == "gelu" and model.add_bias_linear))


def ddp_config(plan: Plan) -> Any:
    """DistributedDataParallelConfig of a plan."""
    from megatron.core.distributed import DistributedDataParallelConfig

    request = plan.request
    names = {field.name for field in dataclasses.fields(DistributedDataParallelConfig)}
    _require_fields("ddp", vars(request.ddp), names)
    values = _known({name: value for name, value in vars(request.ddp).items() if value is not None}, names)
    values["grad_reduce_in_fp32"] = request.precision.grad_reduce_in_fp32
    values["fp8_param_gather"] = request.precision.fp8_param_gather
    if "fp4_param_gather" in names:
        values["fp4_param_gather"] = request.precision.fp4_param_gather
    values |= _known(plan.resolution.ddp_config, names)
    return DistributedDataParallelConfig(**values)


def optimizer_config(plan: Plan) -> Any:
    """AdamOptimizerConfig or SGDOptimizerConfig of a plan."""
    from megatron.core.optimizer.optimizer_config import AdamOptimizerConfig, SGDOptimizerConfig

    request = plan.request
    kind = {"adam": AdamOptimizerConfig, "sgd": SGDOptimizerConfig}[request.optimizer.optimizer]
    names = {field.name for field in dataclasses.fields(kind)}
    _require_fields("optimizer", vars(request.optimizer), names)
    values = _known({name: value for name, value in vars(request.optimizer).items() if value is not None}, names)
    values |= {name: getattr(request.precision, name) for name in ("bf16", "fp16", "fp8_recipe")}
    values["params_dtype"] = params_dtype(plan)
    values |= _known(plan.resolution.optimizer_config, names)
    return kind(**values)


def _require_fields(node: str, values: dict[str, Any], names: set[str]) -> None:
    """Raise if the installed megatron-core has no field for something that was asked for."""
    lost = [
        f"{node}.{name}={yaml_value(value)}"
        for name, value in values.items()
        if name not in names and name not in _READ_HERE[node] and value != DEFAULTS[f"{node}.{name}"]
    ]
    if lost:
        raise HydraOverlapError(f"The installed megatron-core has no field for {', '.join(lost)}; no step was taken.")


def _known(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The fields the target has. `tp_comm_overlap_cfg` is Bridge's own; the userbuffers dict says the same."""
    return {name: value for name, value in values.items() if name in names}
