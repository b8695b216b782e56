"""ENV: the environment a rank starts with. Read by CUDA, NCCL and Transformer Engine before any config object exists.

Formulas: Megatron-Bridge v0.4.2 src/megatron/bridge/recipes/run_plugins.py (PerfEnvPlugin; v0.6.0 removed it and writes
the values into each recipe by hand).
"""

from dataclasses import dataclass

from ..findings import Finding, Fix
from ._base import Config, Rule
from .cfg import CfgRule
from .layout import CP, PP, TP, data_parallel_size

PLUGIN = "Megatron-Bridge v0.4.2 src/megatron/bridge/recipes/run_plugins.py:"
CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
CHUNK = "launch.nccl_pp_comm_chunksize"
MARGIN = "launch.layernorm_sm_margin"
BLACKWELL = 100  # compute capability x 10


@dataclass(frozen=True)
class EnvValue:
    """One variable of the launch environment, with the rule that derives it."""

    name: str
    value: str
    rule: str
    reason: str
    source: str


class ENV001(Rule):
    """NCCL_P2P_NET_CHUNKSIZE is more than one byte."""

    reads = (CHUNK,)
    why = "Megatron-Bridge asserts it."
    source = PLUGIN + "682"
    refused = (f"{CHUNK}=1",)
    fixes = (
        Fix(f"{CHUNK}=2097152", "2 MiB, what Megatron-Bridge's recipes use"),
        Fix(f"{CHUNK}=null", "NCCL's default"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[CHUNK] is None or c[CHUNK] > 1


class ENV002(CfgRule):
    """hydra.job.env_set does not contradict the launch environment."""

    why = "The plan needs another value; two places would say different things."
    source = PLUGIN + "639-664"

    @classmethod
    def contradiction(cls, name: str, found: str, needed: str) -> Finding:
        """hydra.job.env_set.NAME is `found`, the plan needs `needed`."""
        key = f"hydra.job.env_set.{name}"
        return cls.refuse(key, found, "", f"The plan needs {name}={needed}.", Fix(f"~{key}", "the plan sets it"))


class ENV201(Rule):
    """A p2p chunk size has no effect without pipeline parallelism."""

    severity = "note"
    reads = (CHUNK, PP)
    why = "NCCL_P2P_NET_CHUNKSIZE is set only with PP > 1."
    source = PLUGIN + "680-683"
    refused = (f"{CHUNK}=2097152",)
    fixes = (Fix(f"{CHUNK}=null", "says what happens"),)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[CHUNK] is None or c[PP] > 1


RULES: tuple[type[Rule], ...] = (ENV001, ENV002, ENV201)


def max_connections(c: Config) -> tuple[int, str]:
    """CUDA_DEVICE_MAX_CONNECTIONS (hardware queues from host to GPU), and why."""
    split = c[TP] > 1 or c[CP] > 1
    if (c["platform.sm"] or 0) >= BLACKWELL:
        if split and (data_parallel_size(c) > 1 or c[PP] > 1):
            return 32, "TP or CP beside DP or PP on Blackwell: streams must not share queues"
    elif split and not c["comm_overlap.ep.overlap_moe_expert_parallel_comm"]:
        return 1, "TP or CP before Blackwell: one queue keeps communication kernels ahead of the GEMM they overlap"
    if c["model.moe_flex_dispatcher_backend"] in ("deepep", "hybridep"):
        return 32, f"the {c['model.moe_flex_dispatcher_backend']} dispatcher runs on streams of its own"
    return 8, "CUDA's default"


def launch_environment(c: Config) -> tuple[EnvValue, ...]:
    """The variables every rank must start with. Empty where there is no GPU."""
    if c["platform.name"] == "cpu":
        return ()
    connections, reason = max_connections(c)
    values = [EnvValue(CONNECTIONS, str(connections), "ENV101", reason, PLUGIN + "639-664")]
    margin = c[MARGIN]
    if margin is not None:
        why = f"launch.layernorm_sm_margin={margin}: leaves SMs to communication"
        for name in ("NVTE_FWD_LAYERNORM_SM_MARGIN", "NVTE_BWD_LAYERNORM_SM_MARGIN"):
            values.append(EnvValue(name, str(margin), "ENV102", why, PLUGIN + "675-678"))
    if c[PP] > 1 and c[CHUNK] is not None:
        why = f"launch.nccl_pp_comm_chunksize={c[CHUNK]} bytes, with PP > 1"
        values.append(EnvValue("NCCL_P2P_NET_CHUNKSIZE", str(c[CHUNK]), "ENV103", why, PLUGIN + "680-683"))
    return tuple(values)
