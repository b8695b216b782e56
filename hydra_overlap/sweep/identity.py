"""Which points of a sweep are the same run under different names: a hash of what a run would really do.

Hashed is what is in effect, not what was asked. In place of `comm_overlap`, `userbuffers` and the overlap fields of `ddp`
and `optimizer` stand the settings the rules answered and the launch environment; of our other nodes the complete request,
defaults, facts and the number of ranks filled in. Nodes of an app's own count as they are.

Left out is what changes no number of a run:

- labels: model.name, software.origin; of `userbuffers` its name, source and what it was tuned for
- `gating`: the mode says how a request is judged, and what came of it is hashed
- where things are kept: checkpoint.save, .save_interval, .keep, .async_save, .on_damage; data.cache_dir; training.log_interval, launch.loggers
- how the machine is filled, and by whom: launch.max_ranks, .distributed_timeout_minutes, .slurm, .trainer
- Hydra's own node, and with it the number and the folder of a job

An interpolation counts by its value; one that leads to Hydra's node, to `${hydra:...}` or to the clock by its text, so that
`${hydra:job.num}` in a path does not tell equal points apart, and a sweep resumed tomorrow knows today's points again.
A resolver of an app's own that is not a function of its arguments makes every point another one.
"""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..compose.enforce import Answer
from ..compose.interpolations import of_the_job, stands_alone
from ..resolver.from_config import FOR_TRAIN_PY, ours
from ..schema.fields import OUTPUT
from ..schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS

# Nodes and fields of our request that the answer replaces, or that change no number of a run; see above.
REPLACED = ("comm_overlap", "userbuffers", "gating")
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "ddp": tuple(DDP_FIELDS),
    "optimizer": tuple(OPTIMIZER_FIELDS),
    "model": ("name",),
    "software": ("origin",),
    "training": ("log_interval",),
    "checkpoint": ("save", "save_interval", "keep", "async_save", "on_damage"),
    "data": ("cache_dir",),
    "launch": (
        *("trainer", "max_ranks", "distributed_timeout_minutes", "loggers", "slurm"),
        *("layernorm_sm_margin", "nccl_pp_comm_chunksize"),  # these stand in the environment, where they have an effect
    ),
}


def identity(config: DictConfig, answer: Answer | None) -> str:
    """Hash of what a point's run would do: 16 hexadecimal digits.

    config: composed, its `hydra` node included. answer: of the rules; None where none of our nodes is in the config.
    """
    text = json.dumps(effective(config, answer), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def effective(config: DictConfig, answer: Answer | None) -> dict[str, Any]:
    """What decides a run, as plain data: what `identity` hashes."""
    if answer is None:
        return {str(name): _value(config, name) for name in config if name != "hydra"}
    resolution = answer.resolution
    found: dict[str, Any] = {
        "": {
            "transformer_config": resolution.transformer_config,
            "optimizer_config": resolution.optimizer_config,
            "ddp_config": resolution.ddp_config,
            "userbuffers": resolution.userbuffers,
            "env": resolution.env,
        }
    }
    for name in map(str, config):
        if name in ("hydra", OUTPUT, *REPLACED):
            continue
        typed = name in resolution.request and ours(config, name)
        # The request has nothing of a node that is open until the job runs.
        said = typed and name != FOR_TRAIN_PY
        node = resolution.request[name] if said else _value(config, name)
        left_out = LEFT_OUT.get(name, ()) if typed else ()
        found[name] = {key: value for key, value in node.items() if key not in left_out} if left_out else node
    return found


def _value(parent: Any, name: Any) -> Any:
    """A node as plain data; interpolations as said at the top of this module."""
    node = parent._get_node(name)
    if stands_alone(node):
        return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        return {str(key): _value(node, key) for key in node._content}
    if isinstance(node, ListConfig) and isinstance(node._content, list):
        return [_value(node, index) for index in range(len(node._content))]
    text = node._value()
    if text == "???" or of_the_job(node):
        return text
    try:
        value = parent[name]
    except OmegaConfBaseException:
        return text
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
