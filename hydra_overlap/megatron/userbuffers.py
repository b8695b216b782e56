"""Transformer Engine's userbuffers: megatron-core alone never creates them, so a run has to.

Not run by us on a GPU yet. Signatures: Transformer Engine 2.8 to 2.20 take (shape, tp_size, use_fp8,
quantization_modes, dtype, ub_cfgs, bootstrap_backend); use_fp8 is deprecated in favour of quantization_modes.
"""

from typing import Any

from ..errors import HydraOverlapError
from ..plan import Plan


class UserbuffersError(HydraOverlapError):
    """TP overlap was promised and userbuffers cannot be created here."""


def initialize(plan: Plan) -> None:
    """Create userbuffers if the plan promises TP overlap and this is no rehearsal. Every rank calls it, once.

    Needs initialize_parallel_state and comes before the model is built. Raises UserbuffersError, never goes on without.
    """
    if plan["rehearsal"] or not plan["resolution"]["transformer_config"]["tp_comm_overlap"]:
        return
    try:
        from transformer_engine.pytorch.module.base import UserBufferQuantizationMode, initialize_ub
    except Exception as error:  # a half-installed Transformer Engine raises anything
        raise UserbuffersError(
            f"TP overlap was promised, and Transformer Engine >= 2.8 does not work here: {type(error).__name__}: {error}"
        ) from error
    initialize_ub(**arguments(plan, UserBufferQuantizationMode))


def arguments(plan: Plan, modes: Any) -> dict[str, Any]:
    """Keyword arguments of initialize_ub. modes: Transformer Engine's UserBufferQuantizationMode.

    shape: [tokens of a micro-batch on one context-parallel rank, hidden_size]; Transformer Engine compares it with each
    input at run time. Two modes under FP8 with some layers in bf16. Source: Megatron-LM core_v0.16.1
    megatron/training/initialize.py _initialize_tp_communicators.
    """
    request, precision = plan["request"], plan["request"]["precision"]
    model, layout, training = request["model"], request["parallelism"], request["training"]
    tokens = model["seq_length"] * training["micro_batch_size"]
    if tokens % layout["context_parallel_size"]:
        raise UserbuffersError(f"{tokens} tokens of a micro-batch are not divisible by context_parallel_size")
    quantization = [modes.FP8 if precision["fp8"] else modes.NONE]
    in_bf16 = precision["num_layers_at_start_in_bf16"] + precision["num_layers_at_end_in_bf16"]
    if precision["fp8"] and precision["first_last_layers_bf16"] and in_bf16 > 0:
        quantization.append(modes.NONE)
    return {
        "shape": [tokens // layout["context_parallel_size"], model["hidden_size"]],
        "tp_size": layout["tensor_model_parallel_size"],
        "quantization_modes": quantization,
        "ub_cfgs": plan["resolution"]["userbuffers"],
        "bootstrap_backend": plan["resolution"]["transformer_config"]["tp_comm_bootstrap_backend"],
    }
