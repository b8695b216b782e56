"""What each release of megatron-core has: the fields of its configuration classes, their defaults and their choices.

`core_releases.json` is read from the released wheels (`python -m tools.core_releases WHEEL...`); nothing here is written by hand
but which field of which class a key of the request becomes.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from packaging.version import Version

TABLE = Path(__file__).with_name("core_releases.json")
TRANSFORMER, DDP, OPTIMIZER = "TransformerConfig", "DistributedDataParallelConfig", "OptimizerConfig"
NODES = {
    "model": TRANSFORMER, "parallelism": TRANSFORMER, "precision": TRANSFORMER, "comm_overlap.tp": TRANSFORMER,
    "comm_overlap.pp": TRANSFORMER, "comm_overlap.ep": TRANSFORMER, "comm_overlap.dp": DDP, "ddp": DDP, "optimizer": OPTIMIZER,
}  # fmt: skip
"""Node of the request -> the class that most of its fields belong to."""
ELSEWHERE = {
    "comm_overlap.dp.overlap_param_gather_with_optimizer_step": OPTIMIZER, "precision.grad_reduce_in_fp32": DDP,
    "precision.fp8_param_gather": DDP, "precision.fp4_param_gather": DDP,
}  # fmt: skip
"""Keys of another class than their node's."""
OURS = frozenset({"model.name", "model.seq_length", "model.vocab_size", "model.position_embedding_type",
                  "model.rotary_base", "model.share_embeddings_and_output_weights", "parallelism.world_size",
                  "optimizer.lr_warmup_iters", "optimizer.lr_decay_style"})  # fmt: skip
"""Keys that are no field of any of these classes."""

BY_PARSER: dict[str, dict[str, str]] = {
    "optimizer.optimizer": {
        "muon": "0.16.0", "dist_muon": "0.16.0", "lion": "0.17.0", "soap": "0.18.0", "adaptive_muon": "0.18.0",
    },
}  # fmt: skip
"""Key -> choice -> the first release that has it, where no annotation names the choices but Megatron-LM's parser does
(--optimizer of its tags, export/megatron_lm_flags.json)."""

Entry = dict[str, Any]  # type, default and, where the release names them all, choices


@lru_cache(maxsize=1)
def _table() -> Any:
    return json.loads(TABLE.read_text())


def versions() -> tuple[str, ...]:
    """The releases that the table was read from, oldest first."""
    return tuple(_table()["versions"])


def place(key: str) -> tuple[str, str] | None:
    """The class and the field that a key of the request becomes; None where it becomes none of megatron-core's."""
    node, _, name = key.rpartition(".")
    if key in OURS or node not in NODES:
        return None
    return ELSEWHERE.get(key, NODES[node]), name


def _changes(key: str) -> dict[str, Entry | None]:
    where = place(key)
    return {} if where is None else _table()["fields"][where[0]].get(where[1], {})


def entry(key: str, core: str) -> Entry | None:
    """What a release has at a key: the newest change that is not newer; None where it has no such field.

    A release older than the table is read as the oldest one in it, and a newer one as the newest.
    """
    found: Entry | None = None
    for position, (version, told) in enumerate(_changes(key).items()):
        if Version(version) <= Version(core) or (position == 0 and version == versions()[0]):
            found = told
    return found


def since(key: str, *, listed: bool) -> str:
    """The first release that has the field, as a list where ours is one; empty where all have it, or it is not theirs."""
    for version, told in _changes(key).items():
        if told is not None and (not listed or "list" in told["type"].lower()):
            return "" if version == versions()[0] else version
    return ""


def choices(key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(release, what may be chosen from it on), oldest first; empty where no release names them all."""
    found = [(version, tuple(told["choices"])) for version, told in _changes(key).items() if told and "choices" in told]
    return tuple(found)
