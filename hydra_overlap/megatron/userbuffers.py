"""Transformer Engine's userbuffers: megatron-core alone never creates them, so a run has to, and looks which layers use them.

The call has not run on a GPU yet. Transformer Engine 2.8 to 2.16 take (shape, tp_size, use_fp8, quantization_modes, dtype,
ub_cfgs, bootstrap_backend); 2.17 to 2.20 take with_cublasmp as well. use_fp8 is deprecated in favour of quantization_modes;
before 2.8 there is no quantization_modes. tests/te reads the signatures out of every version's wheel.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import HydraOverlapError
from ..launch.plan import Plan, known

_FLAGS = ("ag_fprop", "rs_fprop", "ag_dgrad", "rs_dgrad")  # Transformer Engine's ub_overlap_*
_BULK = ("bulk_dgrad", "bulk_wgrad")  # its ub_bulk_*
_COLUMN, _ROW = ("qkv", "fc1"), ("proj", "fc2")


class UserbuffersError(HydraOverlapError):
    """TP overlap was promised and userbuffers cannot be created here."""


def initialize(plan: Plan) -> None:
    """Create userbuffers if the plan promises TP overlap and this is no rehearsal. Every rank calls it, once.

    Needs initialize_parallel_state and comes before the model is built. Raises UserbuffersError, never goes on without.
    """
    if plan.rehearsal or not plan.resolution.transformer_config["tp_comm_overlap"]:
        return
    try:
        from transformer_engine.pytorch.module.base import UserBufferQuantizationMode, initialize_ub
    except Exception as error:  # a half-installed Transformer Engine raises anything
        raise UserbuffersError(
            f"TP overlap was promised, but Transformer Engine >= 2.8 does not work here: {type(error).__name__}: {error}"
        ) from error
    given = arguments(plan, UserBufferQuantizationMode)
    require_accepted(initialize_ub, given)
    initialize_ub(**given)


def arguments(plan: Plan, modes: Any) -> dict[str, Any]:
    """Keyword arguments of initialize_ub. modes: Transformer Engine's UserBufferQuantizationMode.

    shape: [tokens of a micro-batch on one context-parallel rank, hidden_size]; Transformer Engine compares it with each
    input at run time, so it must divide without a rest. Two modes under FP8 with some layers in bf16. Source: Megatron-LM
    core_v0.16.1 megatron/training/initialize.py _initialize_tp_communicators, which drops a rest.
    """
    request, precision = plan.request, plan.request.precision
    model, layout, training = request.model, request.parallelism, request.training
    tokens, cp, tp = (
        known(model.seq_length) * training.micro_batch_size,
        layout.context_parallel_size,
        layout.tensor_model_parallel_size,
    )
    if tokens % (cp * tp):
        raise UserbuffersError(
            f"{tokens} tokens of a micro-batch (model.seq_length x training.micro_batch_size) are not divisible by "
            f"context_parallel_size x tensor_model_parallel_size = {cp} x {tp}: userbuffers hold whole parts"
        )
    quantization = [modes.FP8 if precision.fp8 else modes.NONE]
    in_bf16 = precision.num_layers_at_start_in_bf16 + precision.num_layers_at_end_in_bf16
    if precision.fp8 and precision.first_last_layers_bf16 and in_bf16 > 0:
        quantization.append(modes.NONE)
    return {
        "shape": [tokens // cp, model.hidden_size],
        "tp_size": tp,
        "quantization_modes": quantization,
        "ub_cfgs": plan.resolution.userbuffers,
        "bootstrap_backend": plan.resolution.transformer_config["tp_comm_bootstrap_backend"],
    }


def require_accepted(initialize_ub: Callable[..., None], given: dict[str, Any]) -> None:
    """Raise UserbuffersError if this Transformer Engine has no parameter for something it would be given."""
    lacking = [name for name in given if name not in inspect.signature(initialize_ub).parameters]
    if lacking:
        raise UserbuffersError(
            f"This Transformer Engine's initialize_ub has no {', '.join(lacking)}; versions 2.8 to 2.20 have it. "
            "TP overlap was promised, so no step was taken"
        )


def layers(chunk: Any) -> Iterator[Any]:
    """The modules of a model chunk that have a userbuffer's name: qkv, proj, fc1 and fc2; those of routed experts have none.

    megatron-core names experts' linears too and switches their overlap off (transformer_engine.py:557-560).
    """
    for path, module in chunk.named_modules():
        if getattr(module, "ub_name", None) in (*_COLUMN, *_ROW) and "experts" not in path.split("."):
            yield module


def flags(layer: Any) -> dict[str, bool]:
    """Which GEMMs of a layer overlap: `ag_fprop` (all-gather under the forward GEMM) ... `bulk_wgrad`, as the layer holds."""
    held = {name: bool(getattr(layer, f"ub_overlap_{name}")) for name in _FLAGS}
    return held | {name: bool(getattr(layer, f"ub_{name}")) for name in _BULK}


def promised_flags(settings: dict[str, Any], name: str, *, after_norm: bool = True) -> dict[str, bool]:
    """What the layer of a buffer's name must hold. settings: the resolution's transformer_config; it has tp_comm_overlap.

    after_norm: the norm is part of the layer. A column-parallel layer without one (fc1 of a shared expert) is handed the
    all-gather alone. Source: megatron-core core_v0.16.1 megatron/core/extensions/transformer_engine.py:543-576, 782-812, and
    Transformer Engine 2.11 module/linear.py:1138-1170: rs_dgrad takes the place of both bulk overlaps.
    """
    on = {name: bool(settings[f"tp_comm_{name}"]) for name in ("overlap_ag", "overlap_rs", "overlap_rs_dgrad", *_BULK)}
    none = dict.fromkeys((*_FLAGS, *_BULK), False)
    if name in _ROW:
        return none | {"rs_fprop": on["overlap_rs"], "ag_dgrad": on["overlap_ag"]}
    if not after_norm:
        return none | {"ag_fprop": on["overlap_ag"]}
    enabled = not settings[f"tp_comm_overlap_disable_{name}"]
    scatters = enabled and on["overlap_rs_dgrad"]
    return none | {
        "ag_fprop": enabled and on["overlap_ag"],
        "rs_dgrad": scatters,
        **{bulk: on[bulk] and not scatters for bulk in _BULK},
    }


def layer_fields(plan: Plan, chunk: Any) -> Iterator[tuple[str, bool, bool]]:
    """(where, promised, found) of every layer's overlap flags, for read-back; nothing where userbuffers are not promised.

    Decoder layers whose attention has no buffers break the promise: megatron-core's own have none, and Transformer
    Engine's lose theirs where megatron-core clears tp_comm_overlap while it builds (transformer_engine.py:531-541).
    """
    settings = plan.resolution.transformer_config
    if plan.rehearsal or not settings["tp_comm_overlap"]:
        return
    from megatron.core.transformer.transformer_layer import TransformerLayer

    found = list(layers(chunk))
    if any(isinstance(module, TransformerLayer) for module in chunk.modules()):
        names = {layer.ub_name for layer in found}
        for name in ("qkv", "proj"):
            yield f"userbuffers of a layer's {name}", True, name in names
    for number, layer in enumerate(found):
        held = flags(layer)
        promised = promised_flags(settings, layer.ub_name, after_norm=hasattr(layer, "layer_norm_weight"))
        for name, value in promised.items():
            yield f"{layer.ub_name}.{name} of linear layer {number}", value, held[name]
