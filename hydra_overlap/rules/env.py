"""ENV: the environment that a rank starts with; CUDA, NCCL and Transformer Engine read it before any config object exists.

Formulas: Megatron-Bridge v0.4.2 src/megatron/bridge/recipes/run_plugins.py (PerfEnvPlugin; v0.6.0 removed it and writes
the values into each recipe by hand). Bridge's benchmark scripts have another one (scripts/performance/perf_plugins.py:
221-251: always 32 from Blackwell on); we keep the plugin's, which says 32 only where streams would meet.

There is one number of hardware queues for everything. Before Blackwell, TP and CP want a single queue: kernels then start in
the order in which they are launched, communication ahead of the GEMM that hides it. Expert-parallel overlap and FSDP want
several queues: with one, their all-to-alls and gathers wait for compute. What was asked for wins. What loses is named in the
reason and in ENV202, and in ENV003 if the loser was asked for as well.
"""

from dataclasses import dataclass, replace

from ..findings import Finding, Fix
from ..schema.keys import (
    CP,
    DISPATCHER,
    EP,
    EP_OVERLAP,
    EXPERTS,
    FLEX_BACKEND,
    FSDP,
    GPU,
    LAYERNORM_MARGIN,
    MEMORY,
    NCCL_UB,
    NUM_SMS,
    NVLINK_DOMAIN,
    P2P_CHUNKSIZE,
    PP,
    SM,
    TP,
    TP_OVERLAP,
)
from ._base import BLACKWELL, HOPPER, Config, Rule
from .cfg import CfgRule
from .layout import data_parallel_size, divisor_below

PLUGIN = "Megatron-Bridge v0.4.2 src/megatron/bridge/recipes/run_plugins.py:"
SCRIPTS = "Megatron-Bridge v0.4.2 scripts/performance/perf_plugins.py:"
RUN_SCRIPT = "Megatron-Bridge v0.4.2 scripts/performance/run_script.py:"
USERBUFFERS = "Transformer Engine v2.12 transformer_engine/pytorch/module/base.py:"
CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
ARGUMENTS = "megatron-core core_v0.16.1 megatron/training/arguments.py:"
NODE = 8  # GPUs of an NVLink domain that is one node


@dataclass(frozen=True)
class EnvValue:
    """One variable of the launch environment, with the rule that derives it."""

    name: str
    value: str
    rule: str
    reason: str
    source: str


class ENV001(Rule):
    """NCCL_P2P_NET_CHUNKSIZE is not more than one byte."""

    reads = (P2P_CHUNKSIZE,)
    why = "Megatron-Bridge asserts that it is larger."
    source = PLUGIN + "682"
    refused = (f"{P2P_CHUNKSIZE}=1",)
    fixes = (
        Fix(f"{P2P_CHUNKSIZE}=2097152", "2 MiB, what Megatron-Bridge's recipes use"),
        Fix(f"{P2P_CHUNKSIZE}=null", "NCCL's default"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[P2P_CHUNKSIZE] is None or c[P2P_CHUNKSIZE] > 1


class ENV002(CfgRule):
    """hydra.job.env_set contradicts the plan.

    When it applies: to variables that the plan sets itself, and to variables that undo what it asks for
    (`hydra_overlap/rules/env_conflicts.py`): CUDA_LAUNCH_BLOCKING, NVTE_BACKWARD_OVERRIDE, expandable segments with NCCL user
    buffers and others. If the latter are in the environment that ranks inherit, `hydra-overlap doctor` reports them and
    train.py refuses them before it starts ranks on GPUs.
    """

    why = "The plan needs another value, or the variable undoes what the plan asks for."
    source = PLUGIN + "639-664; hydra_overlap/rules/env_conflicts.py"
    records = ("dp-nccl-ub-expandable-segments", "launch-expandable-segments-new-name")

    @classmethod
    def contradiction(cls, name: str, found: str, needed: str) -> Finding:
        """hydra.job.env_set.NAME is `found`, the plan needs `needed`."""
        key = f"hydra.job.env_set.{name}"
        return cls.refuse(key, found, "", f"The plan needs {name}={needed}.", Fix(f"~{key}", "the plan sets it"))

    @classmethod
    def undoing(cls, name: str, found: str, undoes: str, source: str) -> Finding:
        """hydra.job.env_set.NAME undoes something that the plan asks for."""
        key = f"hydra.job.env_set.{name}"
        refusal = cls.refuse(key, found, "", f"It undoes {undoes}.", Fix(f"~{key}", "keeps what was asked for"))
        return replace(refusal, source=source)


def wants_queues(c: Config) -> str:
    """What asks for more than one hardware queue on any GPU: its name, "" if nothing does."""
    return "expert-parallel overlap" if c[EP_OVERLAP] else "Megatron FSDP" if c[FSDP] else ""


class ENV003(Rule):
    """TP overlap before Hopper together with expert-parallel overlap or FSDP."""

    records = ("launch-cdmc-te-hopper-event",)
    reads = (TP_OVERLAP, EP_OVERLAP, FSDP, SM)
    why = (
        "Before Hopper, TP overlap needs CUDA_DEVICE_MAX_CONNECTIONS=1 and the others need more. From Hopper on, "
        "Transformer Engine puts its communication ahead of the GEMM with an event, whatever the number of queues."
    )
    source = (
        "Transformer Engine v2.12 transformer_engine/common/comm_gemm_overlap/comm_gemm_overlap.cpp:118-133; "
        + ARGUMENTS + "623, 940-948"
    )  # fmt: skip
    requires = ("TP001", "TP002", "TP003", "EP001")
    refused = (
        f"{TP_OVERLAP}=true", f"{TP}=2", "parallelism.sequence_parallel=true", "software.transformer_engine=2.11.0",
        f"{EP_OVERLAP}=true", "model.num_moe_experts=4", f"{EP}=2", f"{DISPATCHER}=alltoall", "precision.bf16=true",
        "software.torch=2.11.0", "platform.sm=80",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP]) and c[SM] is not None and c[SM] < HOPPER

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not wants_queues(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        others = [f"{key}=false" for key in (EP_OVERLAP, FSDP) if c[key]]
        return (
            Fix("platform=h100", "keeps both (plans for that GPU)"),
            Fix(" ".join(others), "keeps TP overlap"),
            Fix(f"{TP_OVERLAP}=false", f"keeps {wants_queues(c)}"),
        )


class ENV004(Rule):
    """HybridEP has more ranks than one NVLink domain."""

    requires = ("PAR011",)
    records = ("ep-hybridep-domain",)
    reads = (FLEX_BACKEND, DISPATCHER, EP, NVLINK_DOMAIN)
    why = "Its kernels address the domain's memory directly (USE_MNNVL=1); Megatron-Bridge asserts EP <= 72."
    source = SCRIPTS + "379-389"
    refused = (
        f"{FLEX_BACKEND}=hybridep", f"{DISPATCHER}=flex", f"{EP}=144", "model.num_moe_experts=144", f"{NVLINK_DOMAIN}=72",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FLEX_BACKEND] == "hybridep" and c[DISPATCHER] == "flex" and (c[NVLINK_DOMAIN] or 0) > NODE

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[EP] <= c[NVLINK_DOMAIN])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        ranks = divisor_below(c[EXPERTS] or 1, c[NVLINK_DOMAIN])
        return (Fix(f"{EP}={ranks}", "within one domain"), Fix(f"{FLEX_BACKEND}=deepep", "another backend"))


class ENV201(Rule):
    """A p2p chunk size is set without pipeline parallelism."""

    severity = "note"
    records = ("launch-nccl-p2p-chunksize-without-pp",)
    reads = (P2P_CHUNKSIZE, PP)
    why = "NCCL_P2P_NET_CHUNKSIZE is set only with PP > 1."
    source = PLUGIN + "680-683"
    refused = (f"{P2P_CHUNKSIZE}=2097152",)
    fixes = (Fix(f"{P2P_CHUNKSIZE}=null", "changes nothing else"),)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[P2P_CHUNKSIZE] is None or c[PP] > 1


class ENV202(Rule):
    """TP or CP communication may start too late beside expert-parallel overlap or FSDP."""

    severity = "warning"
    requires = ("ENV003", "EP001")
    reads = (TP, CP, EP_OVERLAP, FSDP, SM)
    why = (
        "Expert-parallel overlap and FSDP need several hardware queues, and before Blackwell TP or CP collectives may "
        "then start behind the GEMM that they should run under. Userbuffers on Hopper are not affected. Megatron-LM "
        "warns, and leaves the choice between 1 and 32."
    )
    source = ARGUMENTS + "928-948; Megatron-LM core_v0.16.1 megatron/core/transformer/moe/README.md:437"
    refused = (
        f"{EP_OVERLAP}=true", "model.num_moe_experts=4", f"{EP}=2", f"{DISPATCHER}=alltoall", "precision.bf16=true",
        "software.torch=2.11.0", f"{CP}=2", "platform.sm=90",
    )  # fmt: skip

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        others = [f"{key}=false" for key in (EP_OVERLAP, FSDP) if c[key]]
        return (Fix(" ".join(others), "gives the single queue back to TP and CP"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return (c[TP] > 1 or c[CP] > 1) and c[SM] is not None and c[SM] < BLACKWELL

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not wants_queues(c)


class ENV203(Rule):
    """The p2p chunk size is so small that it was probably not meant in bytes."""

    severity = "warning"
    requires = ("ENV001",)
    reads = (P2P_CHUNKSIZE, PP)
    shows = (P2P_CHUNKSIZE,)
    why = "NCCL handles every chunk of a message by itself; its own default is 128 KiB, Megatron-Bridge's recipes use 2 MiB."
    source = PLUGIN + "680-683; NCCL documentation, NCCL_P2P_NET_CHUNKSIZE"
    refused = (f"{P2P_CHUNKSIZE}=2048", f"{PP}=2")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[P2P_CHUNKSIZE] is not None and c[PP] > 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[P2P_CHUNKSIZE] >= SMALL_CHUNK)

    @classmethod
    def why_for(cls, c: Config) -> str:
        size = c[P2P_CHUNKSIZE]
        return (
            f"{size:,} bytes are {size / 2**20:.2g} MiB: a message of 2 MiB takes {2**21 // size:,} chunks. {cls.why}"
        )

    fixes = (
        Fix(f"{P2P_CHUNKSIZE}=2097152", "2 MiB, what Megatron-Bridge's recipes use"),
        Fix(f"{P2P_CHUNKSIZE}=null", "NCCL's default"),
    )


class ENV204(Rule):
    """The SM margin takes most of the GPU from the LayerNorm kernels."""

    severity = "warning"
    reads = (LAYERNORM_MARGIN, NUM_SMS)
    why = "It counts SMs, not a share of them. Megatron-Bridge's recipes leave 16 to 20 to communication."
    source = PLUGIN + "695-705"
    refused = (f"{LAYERNORM_MARGIN}=100", f"{NUM_SMS}=132")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[LAYERNORM_MARGIN] is not None and c[NUM_SMS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[LAYERNORM_MARGIN] <= c[NUM_SMS] // 2)

    @classmethod
    def why_for(cls, c: Config) -> str:
        left = max(0, c[NUM_SMS] - c[LAYERNORM_MARGIN])
        return f"A margin of {c[LAYERNORM_MARGIN]} SMs leaves {left} of {c[NUM_SMS]} to LayerNorm. {cls.why}"

    fixes = (
        Fix(f"{LAYERNORM_MARGIN}=20", "what Megatron-Bridge's recipes use"),
        Fix(f"{LAYERNORM_MARGIN}=null", "no margin"),
    )


class ENV205(Rule):
    """The memory of the GPU is so large that it was probably not meant in GiB."""

    severity = "warning"
    reads = (MEMORY,)
    why = "A dry run compares what a rank holds with this number, and would say that anything fits."
    source = "nvidia-smi shows MiB; the largest GPU sold has 288 GB"
    refused = (f"{MEMORY}=81920",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[MEMORY] is None or c[MEMORY] <= LARGEST_MEMORY

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"{c[MEMORY]:,.0f} GiB are {c[MEMORY] / 1024:,.0f} TiB; {c[MEMORY]:,.0f} MiB are {c[MEMORY] / 1024:.4g} GiB. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{MEMORY}={c[MEMORY] / 1024:.4g}", "the same number as MiB"),)


SMALL_CHUNK = 65_536  # bytes; half of NCCL's default
LARGEST_MEMORY = 1024  # GiB

RULES: tuple[type[Rule], ...] = (ENV001, ENV002, ENV003, ENV004, ENV201, ENV202, ENV203, ENV204, ENV205)
RECORDS: dict[str, tuple[str, ...]] = {
    "ENV101": (
        "launch-cdmc-tp-cp-hopper", "launch-cdmc-fsdp", "launch-cdmc-bridge-run-plugin", "launch-cdmc-bridge-scripts",
        "ep-overlap-launch-connections", "cp-launch-connections",
    ),
    "ENV102": ("launch-layernorm-sm-margin", "launch-layernorm-sm-margin-non-integer"),
    "ENV103": ("launch-nccl-p2p-net-chunksize",),
    "ENV104": ("launch-hybridep-env",),
    "ENV105": ("launch-nvls-vs-nccl-ub", "launch-cta-policy-without-nccl-ub"),
    "ENV106": ("ub-skipmc",),
}  # fmt: skip
"""Derivation of the environment -> records of tests/reference/rules_catalogue.json that it covers."""


def max_connections(c: Config) -> tuple[int, str]:
    """CUDA_DEVICE_MAX_CONNECTIONS (hardware queues from host to GPU), why, and who loses."""
    split = c[TP] > 1 or c[CP] > 1
    backend, asked = c[FLEX_BACKEND] if c[FLEX_BACKEND] in ("deepep", "hybridep") else "", wants_queues(c)
    if (c[SM] or 0) >= BLACKWELL:
        if split and (data_parallel_size(c) > 1 or c[PP] > 1):
            return 32, "TP or CP beside DP or PP on Blackwell: streams must not share queues"
        loser = ""
    elif split and not asked:
        others = [f"the {backend} dispatcher"] if backend else []
        others += ["data-parallel collectives"] if data_parallel_size(c) > 1 else []
        loses = f"; {' and '.join(others)} share it" if others else ""
        return 1, (
            "TP or CP before Blackwell: one queue keeps communication kernels ahead of the GEMM they overlap" + loses
        )
    else:
        loser = "; TP and CP collectives lose the single queue they want before Blackwell (ENV202)" if split else ""
    if backend:
        return 32, f"the {backend} dispatcher runs on streams of its own{loser}"
    return 8, (f"CUDA's default: {asked} needs more than one queue{loser}" if asked else "CUDA's default")


def hybridep(c: Config) -> tuple[EnvValue, ...]:
    """How HybridEP's ranks lie in NVLink domains."""
    domain = c[NVLINK_DOMAIN]
    if c[FLEX_BACKEND] != "hybridep" or c[DISPATCHER] != "flex" or c[EP] == 1 or domain is None:
        return ()
    ranks = min(c[EP], domain)
    why = f"HybridEP: EP = {c[EP]} on NVLink domains of {domain} GPUs"
    values = (
        ("NVLINK_DOMAIN_SIZE", domain), ("USE_MNNVL", int(domain > NODE)),
        ("NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN", ranks),
    )  # fmt: skip
    return tuple(EnvValue(name, str(value), "ENV104", why, SCRIPTS + "368-391") for name, value in values)


def launch_environment(c: Config) -> tuple[EnvValue, ...]:
    """The variables every rank must start with. Empty where there is no GPU."""
    if c[GPU] == "cpu":
        return ()
    connections, reason = max_connections(c)
    values = [EnvValue(CONNECTIONS, str(connections), "ENV101", reason, PLUGIN + "639-664")]
    margin = c[LAYERNORM_MARGIN]
    if margin is not None:
        why = f"launch.layernorm_sm_margin={margin}: leaves SMs to communication"
        for name in ("NVTE_FWD_LAYERNORM_SM_MARGIN", "NVTE_BWD_LAYERNORM_SM_MARGIN"):
            values.append(EnvValue(name, str(margin), "ENV102", why, PLUGIN + "675-678"))
    if c[PP] > 1 and c[P2P_CHUNKSIZE] is not None:
        why = f"launch.nccl_pp_comm_chunksize={c[P2P_CHUNKSIZE]} bytes, with PP > 1"
        values.append(EnvValue("NCCL_P2P_NET_CHUNKSIZE", str(c[P2P_CHUNKSIZE]), "ENV103", why, PLUGIN + "680-683"))
    if c[TP_OVERLAP] and (c[SM] or HOPPER) < HOPPER:
        why = "TP overlap before Hopper: no NVLink multicast, so userbuffers share memory by CUDA IPC, for at most 8 ranks"
        values.append(EnvValue("UB_SKIPMC", "1", "ENV106", why, USERBUFFERS + "158-162"))
    values += hybridep(c)
    if c[NCCL_UB]:
        why = "ddp.nccl_ub: registered buffers; megatron-core sets NVLS itself, but after groups may exist"
        for name in ("NCCL_NVLS_ENABLE", "NCCL_CTA_POLICY"):
            values.append(EnvValue(name, "1", "ENV105", why, RUN_SCRIPT + "102-105"))
    return tuple(values)
