"""Which field a word means that is no key: a leaf name, an abbreviation, a misspelling.

`keys_meant` never proposes a field of another meaning, and `override` writes a value only where the field can hold it.
"""

from collections.abc import Iterable
from functools import lru_cache

from ..findings import typable, yaml_value
from ..suggest import folded, nearest
from . import keys
from .fields import FIELDS

SHORT = {
    "tp": keys.TP, "tp_size": keys.TP, "tensor_parallel": keys.TP, "tensor_parallel_size": keys.TP,
    "pp": keys.PP, "pp_size": keys.PP, "pipeline_parallel": keys.PP, "pipeline_parallel_size": keys.PP,
    "vpp": keys.VPP, "vp": keys.VPP, "vp_size": keys.VPP, "virtual_pipeline_parallel_size": keys.VPP,
    "cp": keys.CP, "cp_size": keys.CP, "context_parallel": keys.CP,
    "ep": keys.EP, "ep_size": keys.EP, "expert_parallel_size": keys.EP,
    "etp": keys.ETP, "sp": keys.SP,
    "gpus": keys.WORLD, "num_gpus": keys.WORLD, "n_gpus": keys.WORLD, "ngpus": keys.WORLD, "ranks": keys.WORLD,
    "num_ranks": keys.WORLD,
    "mbs": keys.MBS, "gbs": keys.GBS, "steps": keys.ITERS, "max_steps": keys.ITERS, "iters": keys.ITERS,
    "learning_rate": keys.LR, "warmup_steps": keys.WARMUP,
    "seq_len": keys.SEQ_LENGTH, "seqlen": keys.SEQ_LENGTH, "sequence_length": keys.SEQ_LENGTH,
    "layers": keys.NUM_LAYERS, "n_layers": keys.NUM_LAYERS, "hidden": keys.HIDDEN, "heads": keys.HEADS,
    "num_heads": keys.HEADS, "num_experts": keys.EXPERTS, "gpu": keys.GPU,
    "ub_cfgs": keys.UB_LAYERS, "tp_comm_overlap_cfg": keys.UB_LAYERS,
}  # fmt: skip
"""What people write for a field, in lower case."""

DERIVED = {
    "dp": "data_parallel_size", "dp_size": "data_parallel_size", "data_parallel_size": "data_parallel_size",
    "num_microbatches": "num_microbatches", "gradient_accumulation_steps": "num_microbatches", "num_buckets": "num_buckets",
}  # fmt: skip
FORMULAS = {
    "data_parallel_size": "It follows: parallelism.world_size / (TP x PP x CP).",
    "num_microbatches": "It follows: training.global_batch_size / (training.micro_batch_size x data-parallel size).",
    "num_buckets": "It follows: the parameters of a rank / comm_overlap.dp.bucket_size, which counts parameters.",
}
"""Numbers that are never an input, and what they follow from."""

BOTH = {
    "use_distributed_optimizer": (keys.DDP_DISTRIBUTED, keys.OPTIMIZER_DISTRIBUTED),
    "reuse_grad_buf_for_mxfp8_param_ag": (keys.DDP_REUSE, keys.OPTIMIZER_REUSE),
}
"""Settings that two fields hold, which may not differ."""


@lru_cache(maxsize=1)
def leaves() -> dict[str, tuple[str, ...]]:
    """Last part of a key -> the keys that end in it; of an overlap field the one in comm_overlap, which its bases follow."""
    found: dict[str, list[str]] = {}
    for key in FIELDS:
        found.setdefault(key.rpartition(".")[2], []).append(key)
    return {name: tuple(_asked(many)) for name, many in found.items()}


def _asked(many: list[str]) -> list[str]:
    overlap = [key for key in many if key.startswith("comm_overlap.")]
    inputs = [key for key in many if not key.startswith("userbuffers.")]
    return overlap or inputs or many


def keys_meant(word: str) -> tuple[str, ...]:
    """Keys that `word`, which is none, may mean; empty if no field is called like it.

    Two keys of `BOTH` are one setting. Below a node that exists, its own fields come first: `model.hidden` is not
    another node's.
    """
    if word in FIELDS:
        return (word,)
    parent, _, name = word.rpartition(".")
    name = folded(name)
    whole = nearest(word, FIELDS) if parent else None
    if whole is not None:
        return (whole,)
    node = nearest(parent, _nodes()) if parent else None
    if name in SHORT and (node is None or SHORT[name].startswith(f"{node}.")):
        return (SHORT[name],)
    if node is not None:
        found = _alike(name, [key.rpartition(".")[2] for key in FIELDS if key.rpartition(".")[0] == node])
        if found:
            return tuple(f"{node}.{one}" for one in found)
    if name in leaves():
        return leaves()[name]
    if node is not None:  # a word that is no field there; another node has no say in what it was meant to be
        return ()
    return tuple(key for one in _alike(name, leaves()) for key in leaves()[one])


def _alike(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The name that `name` misspells, else those that it begins. A part from the middle, such as `size`, says too little."""
    known = tuple(known)
    near = nearest(name, known)
    return (near,) if near else tuple(one for one in known if len(name) > 3 and one.startswith(name))


@lru_cache(maxsize=1)
def _nodes() -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in FIELDS if "." in key))


def settings(word: str, value: object) -> str | None:
    """The overrides that set what `word` means to `value`; None if it is not one thing, or cannot hold the value."""
    meant = keys_meant(word)
    if len(meant) != 1 and meant not in BOTH.values():
        return None
    if not typable(value) or any(not FIELDS[key].allows(value) for key in meant):
        return None
    return " ".join(f"{key}={yaml_value(value)}" for key in meant)


def derived(word: str) -> str:
    """A sentence, after a blank, on a number that nobody sets; empty for any other word."""
    number = DERIVED.get(folded(word.rpartition(".")[2]))
    return f" {FORMULAS[number]}" if number else ""
