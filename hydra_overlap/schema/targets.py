"""Where each overlap field goes: which megatron-core object it is set on, under which name."""

from collections.abc import Mapping
from typing import Any

from .fields import complete

# Field of the object -> the key of the request it comes from.
TRANSFORMER_FIELDS: dict[str, str] = {
    **{
        name: f"comm_overlap.tp.{name}"
        for name in (
            "tp_comm_overlap", "tp_comm_bootstrap_backend", "tp_comm_overlap_ag", "tp_comm_overlap_rs",
            "tp_comm_overlap_rs_dgrad", "tp_comm_bulk_dgrad", "tp_comm_bulk_wgrad", "tp_comm_overlap_disable_qkv",
            "tp_comm_overlap_disable_fc1",
        )
    },
    **{
        name: f"comm_overlap.pp.{name}"
        for name in (
            "overlap_p2p_comm", "batch_p2p_comm", "overlap_p2p_comm_warmup_flush", "defer_embedding_wgrad_compute",
            "wgrad_deferral_limit",
        )
    },
    "overlap_moe_expert_parallel_comm": "comm_overlap.ep.overlap_moe_expert_parallel_comm",
    "delay_wgrad_compute": "comm_overlap.ep.delay_wgrad_compute",
}  # fmt: skip
OPTIMIZER_FIELDS: dict[str, str] = {
    "overlap_param_gather": "comm_overlap.dp.overlap_param_gather",
    "overlap_param_gather_with_optimizer_step": "comm_overlap.dp.overlap_param_gather_with_optimizer_step",
}
DDP_FIELDS: dict[str, str] = {
    "overlap_grad_reduce": "comm_overlap.dp.overlap_grad_reduce",
    "overlap_param_gather": "comm_overlap.dp.overlap_param_gather",
    "align_param_gather": "comm_overlap.dp.align_param_gather",
    "bucket_size": "comm_overlap.dp.bucket_size",
    "delay_wgrad_compute": "comm_overlap.ep.delay_wgrad_compute",
}
LEDGER_KEYS = (
    *TRANSFORMER_FIELDS.values(),
    *(k for k in DDP_FIELDS.values() if ".dp." in k),
    OPTIMIZER_FIELDS["overlap_param_gather_with_optimizer_step"],
)


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
