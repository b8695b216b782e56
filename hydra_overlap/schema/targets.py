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
