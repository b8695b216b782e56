"""Megatron-LM's flags in our words: which overrides say what `--tp-comm-overlap` says."""

from functools import lru_cache
from typing import Any

from ..export.megatron_lm import destination
from ..export.megatron_lm_parser import TYPES, rows
from ..findings import yaml_value
from ..schema.fields import FIELDS
from ..schema.nicknames import BOTH, keys_meant, leaves

SAID_OTHERWISE = {
    "swiglu": "model.activation_func=silu model.gated_linear_unit=true",
    "untie_embeddings_and_output_weights": "model.share_embeddings_and_output_weights=false",
    "grad_reduce_in_bf16": "precision.grad_reduce_in_fp32=false",
    "accumulate_allreduce_grads_in_fp32": "precision.grad_reduce_in_fp32=true",
}
"""Destinations of flags that no single field bears, and the overrides that say the same."""


@lru_cache(maxsize=1)
def _fields() -> dict[str, str]:
    """Destination -> the field whose flag it is; of an overlap field the one in comm_overlap, where it is asked."""
    return {name: key for key in reversed(FIELDS) if (name := destination(key)) is not None}


def row(flag: str) -> dict[str, Any] | None:
    """Megatron-LM's declaration of a flag; None if it has no such flag."""
    name = flag.partition("=")[0].replace("_", "-")
    return next((one for one in rows() if name in (spelt.replace("_", "-") for spelt in one["flags"])), None)


def keys_of(flag: str) -> tuple[str, ...]:
    """The fields that a flag of Megatron-LM decides; empty if it decides none of ours."""
    declared = row(flag)
    if declared is None:
        return ()
    name = declared["dest"]
    if name in SAID_OTHERWISE:
        return tuple(token.partition("=")[0] for token in SAID_OTHERWISE[name].split())
    if name in BOTH:
        return BOTH[name]
    if name in _fields():
        return (_fields()[name],)
    return keys_meant(name) if name in leaves() else ()


def overrides(flag: str, value: str = "") -> str | None:
    """What to type in place of a flag and its value; None where no field of ours says it, or not with that value."""
    declared = row(flag)
    keys = keys_of(flag)
    if declared is None or not keys:
        return None
    if SAID_OTHERWISE.get(declared["dest"]):
        return SAID_OTHERWISE[declared["dest"]]
    said = _said(declared, flag, flag.partition("=")[2] or value)
    if said is None or any(not FIELDS[key].allows(said) for key in keys):
        return None
    return " ".join(f"{key}={yaml_value(said)}" for key in keys)


def _said(declared: dict[str, Any], flag: str, value: str) -> Any:
    """The value that a flag gives to its destination; None if it is no value of the flag's type."""
    if declared["action"] == "store_true":
        return True
    if declared["action"] == "store_false":
        return False
    if declared["action"] == "optional_bool":
        return not flag.startswith("--no-")
    try:
        return TYPES[declared["type"]](value) if value else None
    except ValueError:
        return None
