"""Where each overlap field goes: which megatron-core object it is set on, under which name."""

from collections.abc import Mapping
from typing import Any

from .fields import FIELDS, complete
from .keys import ALIGN_GATHER, BUCKET, DELAY_WGRAD, GRAD_REDUCE, PARAM_GATHER, STEP_GATHER


def field_name(key: str) -> str:
    """The name that a key of the request has on megatron-core's object: its last part."""
    return key.rpartition(".")[2]


# Field of the object -> the key of the request it comes from.
TRANSFORMER_FIELDS: dict[str, str] = {
    field_name(key): key
    for key in FIELDS
    if key.startswith(("comm_overlap.tp.", "comm_overlap.pp.", "comm_overlap.ep."))
}
OPTIMIZER_FIELDS: dict[str, str] = {field_name(key): key for key in (PARAM_GATHER, STEP_GATHER)}
DDP_FIELDS: dict[str, str] = {
    field_name(key): key for key in (GRAD_REDUCE, PARAM_GATHER, ALIGN_GATHER, BUCKET, DELAY_WGRAD)
}
LEDGER_KEYS = (*TRANSFORMER_FIELDS.values(), GRAD_REDUCE, PARAM_GATHER, ALIGN_GATHER, BUCKET, STEP_GATHER)
"""Every field that a request asks for under comm_overlap, in the order of the ledger."""

UPSTREAM: dict[str, Any] = {
    "comm_overlap.tp.tp_comm_overlap": False, "comm_overlap.tp.tp_comm_bootstrap_backend": "nccl",
    "comm_overlap.tp.tp_comm_overlap_ag": True, "comm_overlap.tp.tp_comm_overlap_rs": True,
    "comm_overlap.tp.tp_comm_overlap_rs_dgrad": False, "comm_overlap.tp.tp_comm_bulk_dgrad": True,
    "comm_overlap.tp.tp_comm_bulk_wgrad": True, "comm_overlap.tp.tp_comm_overlap_disable_qkv": False,
    "comm_overlap.tp.tp_comm_overlap_disable_fc1": False, "comm_overlap.pp.overlap_p2p_comm": False,
    "comm_overlap.pp.batch_p2p_comm": True, "comm_overlap.pp.overlap_p2p_comm_warmup_flush": False,
    "comm_overlap.pp.defer_embedding_wgrad_compute": False, "comm_overlap.pp.wgrad_deferral_limit": 0,
    "comm_overlap.ep.overlap_moe_expert_parallel_comm": False, DELAY_WGRAD: False, GRAD_REDUCE: False, PARAM_GATHER: False,
    ALIGN_GATHER: False, BUCKET: None, STEP_GATHER: False,
}  # fmt: skip
"""What megatron-core 0.16.1 does where nobody sets a field of the ledger: the defaults of its own classes."""


def in_effect(request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The flat request with every overlap field as it will be set.

    request: the nested request of a resolution or plan. answer: Resolution.to_dict(), or the same in a plan.
    """
    flat = complete(request)
    for config, fields in (
        ("transformer_config", TRANSFORMER_FIELDS), ("optimizer_config", OPTIMIZER_FIELDS), ("ddp_config", DDP_FIELDS),
    ):  # fmt: skip
        flat |= {key: answer[config][name] for name, key in fields.items() if name in answer[config]}
    return flat
