"""TP: tensor-parallel overlap, Transformer Engine's userbuffers."""

from ..findings import Fix
from ._base import GIVES_UP, KEEPS, Config, Derivation, Rule
from .layout import SP, TP, WORLD, divisor_below

ON = "comm_overlap.tp.tp_comm_overlap"
TE = "software.transformer_engine"
TUNED_TP = "userbuffers.tuned_for.tp"
PARTS = (
    "tp_comm_overlap_ag",
    "tp_comm_overlap_rs",
    "tp_comm_overlap_rs_dgrad",
    "tp_comm_bulk_dgrad",
    "tp_comm_bulk_wgrad",
)
PART_KEYS = tuple(f"comm_overlap.tp.{name}" for name in PARTS)
BULK_WGRAD = "comm_overlap.tp.tp_comm_bulk_wgrad"
OFF = Fix(f"{ON}=false", GIVES_UP)
CONFIG = "megatron-core core_v0.16.1 megatron/core/model_parallel_config.py:"


class TpRule(Rule):
    """Base: applies while TP overlap is on."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[ON])


class TP001(TpRule):
    """TP overlap needs at least two tensor-parallel ranks."""

    reads = (ON, TP)
    why = "With TP = 1 there is no tensor-parallel communication to overlap; Megatron-Bridge switches it off with a log line."
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:444"
    refused = (f"{ON}=true",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TP] >= 2

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        ranks = max(2, c[TUNED_TP] or 2)
        keeps = Fix(f"{TP}={ranks} {SP}=true {WORLD}={c[WORLD] * ranks}", f"{KEEPS} ({ranks} times the ranks)")
        return (keeps, OFF)


class TP002(TpRule):
    """TP overlap needs sequence parallelism."""

    requires = ("TP001",)
    reads = (ON, SP)
    why = (
        "Userbuffers overlap the all-gathers and reduce-scatters that sequence parallelism creates; without it there "
        "are none. Megatron-Bridge switches the overlap off, Megatron-LM asserts."
    )
    source = "megatron-core core_v0.16.1 megatron/training/arguments.py:915-916"
    refused = (f"{ON}=true", f"{TP}=2", f"{TE}=2.11.0")
    fixes = (Fix(f"{SP}=true", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[SP])


class TP003(TpRule):
    """TP overlap needs Transformer Engine."""

    requires = ("TP001",)
    reads = (ON, TE)
    why = (
        "Userbuffers are Transformer Engine's. Without it Megatron-Bridge switches the overlap off with a log line, and "
        "megatron-core's local layers never read the flag."
    )
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:450"
    refused = (f"{ON}=true", f"{TP}=2", f"{SP}=true")
    fixes = (Fix(f"{TE}=2.11.0", KEEPS + ", if that version is what the run will find"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class TP004(TpRule):
    """TP overlap needs a GPU platform."""

    reads = (ON, "platform.name")
    why = "Userbuffers are CUDA kernels and NVLink peer buffers. A plan for a GPU can be rehearsed on this machine."
    source = "Transformer Engine v2.11 transformer_engine/pytorch/module/base.py initialize_ub"
    refused = (f"{ON}=true", f"{TP}=2", f"{SP}=true", f"{TE}=2.11.0", "platform.name=cpu")
    fixes = (Fix("platform=h100", KEEPS + " (plans for that GPU)"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c["platform.name"] != "cpu"


class TP005(Rule):
    """A part of TP overlap needs TP overlap."""

    reads = (ON, *PART_KEYS)
    why = "These flags choose how userbuffers overlap each GEMM; megatron-core reads none of them with tp_comm_overlap=false."
    source = CONFIG + "186-215"
    refused = ("comm_overlap.tp.tp_comm_overlap_ag=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return not c[ON]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(c[key] for key in PART_KEYS)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        asked = " ".join(f"{key}=null" for key in PART_KEYS if c[key])
        return (Fix(asked, GIVES_UP), Fix(f"{ON}=true", KEEPS))


class TP006(TpRule):
    """Bulk wgrad overlap excludes delayed weight gradients."""

    reads = (ON, BULK_WGRAD, "comm_overlap.ep.delay_wgrad_compute")
    why = (
        "The bulk reduce-scatter hides under the wgrad GEMM that delay_wgrad_compute takes out of backward; "
        "Transformer Engine fails while the model is built."
    )
    source = "Transformer Engine v2.11 transformer_engine/pytorch/module/layernorm_linear.py; reproduced on 2.12"
    refused = (
        f"{ON}=true", f"{TP}=2", f"{SP}=true", f"{TE}=2.11.0", f"{BULK_WGRAD}=true", "comm_overlap.ep.delay_wgrad_compute=true", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true", "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall", "precision.bf16=true", "software.torch=2.11.0",
    )  # fmt: skip
    fixes = (
        Fix(f"{BULK_WGRAD}=false", "keeps both other overlaps"),
        Fix("comm_overlap.ep.delay_wgrad_compute=false", "keeps the bulk overlap"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[ON] and c["comm_overlap.ep.delay_wgrad_compute"])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[BULK_WGRAD]


class TP007(TpRule):
    """TP overlap stays inside one NVLink domain."""

    requires = ("TP001", "TP004")
    reads = (ON, TP, "platform.nvlink_domain_size")
    why = "Userbuffers write into their peers' memory over NVLink; ranks beyond the domain cannot be reached so."
    source = "Transformer Engine v2.11 transformer_engine/common/comm_gemm_overlap/userbuffers/userbuffers-host.cpp"
    refused = (f"{ON}=true", f"{TP}=16", f"{SP}=true", f"{TE}=2.11.0", "platform.nvlink_domain_size=8")  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        domain = c["platform.nvlink_domain_size"]
        return domain is None or c[TP] <= domain

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{TP}={divisor_below(c[TP], c['platform.nvlink_domain_size'])}", KEEPS + " (fewer TP ranks)"), OFF)


RULES: tuple[type[Rule], ...] = (TP001, TP002, TP003, TP004, TP005, TP006, TP007)


def _default(name: str, value: bool, number: str, line: int) -> Derivation:
    return Derivation(
        id=number, key=f"comm_overlap.tp.{name}", value=lambda c: value and bool(c[ON]),
        reason=lambda c: "megatron-core's default" if c[ON] else "tp_comm_overlap is off", source=f"{CONFIG}{line}",
    )  # fmt: skip


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="TP101",
        key=ON,
        value=lambda c: False,
        reason="userbuffers are opt-in upstream: nothing turns them on by itself",
        source=CONFIG + "186",
    ),
    Derivation(
        id="TP102",
        key="comm_overlap.tp.tp_comm_bootstrap_backend",
        value=lambda c: "nccl",
        reason="megatron-core's default",
        source=CONFIG + "261",
    ),
    _default("tp_comm_overlap_ag", True, "TP103", 202),
    _default("tp_comm_overlap_rs", True, "TP104", 207),
    _default("tp_comm_overlap_rs_dgrad", False, "TP105", 212),
    _default("tp_comm_bulk_dgrad", True, "TP106", 197),
    Derivation(
        id="TP107",
        key=BULK_WGRAD,
        value=lambda c: bool(c[ON]) and not c["comm_overlap.ep.delay_wgrad_compute"],
        reason=lambda c: (
            "tp_comm_overlap is off"
            if not c[ON]
            else "delay_wgrad_compute takes the wgrad GEMM out of backward (TP006)"
            if c["comm_overlap.ep.delay_wgrad_compute"]
            else "megatron-core's default"
        ),
        source=CONFIG + "192",
    ),
    _default("tp_comm_overlap_disable_qkv", False, "TP108", 251),
    _default("tp_comm_overlap_disable_fc1", False, "TP109", 256),
)
