"""EP: the MoE all-to-alls of one microbatch under the compute of another, and the weight gradients split off for it."""

from ..findings import Fix
from ..versions import at_least
from ._base import GIVES_UP, KEEPS, Config, Derivation, Rule
from .layout import EP, PP, VPP, WORLD

OVERLAP = "comm_overlap.ep.overlap_moe_expert_parallel_comm"
DELAY = "comm_overlap.ep.delay_wgrad_compute"
GRAD_REDUCE = "comm_overlap.dp.overlap_grad_reduce"
TE = "software.transformer_engine"
EXPERTS = "model.num_moe_experts"
DISPATCHER = "model.moe_token_dispatcher_type"
SCOPE = "model.cuda_graph_scope"
GAF = "model.gradient_accumulation_fusion"
SHARED_OVERLAP = "model.moe_shared_expert_overlap"
SHARED = "model.moe_shared_expert_intermediate_size"
MCORE = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_config.py:"
BRIDGE = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:"
OFF = Fix(f"{OVERLAP}=false", GIVES_UP)
LEGAL = (
    f"{OVERLAP}=true", f"{EXPERTS}=4", f"{EP}=2", f"{DISPATCHER}=alltoall", "precision.bf16=true",
    "software.torch=2.11.0",
)  # fmt: skip


def _but(*changes: str, without: str = "") -> tuple[str, ...]:
    """The legal example with some overrides replaced, or one left out."""
    keys = {change.partition("=")[0] for change in (*changes, without)}
    return (*(override for override in LEGAL if override.partition("=")[0] not in keys), *changes)


class EpRule(Rule):
    """Base: applies while expert-parallel overlap is on."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[OVERLAP])


class EP001(EpRule):
    """Expert-parallel overlap needs expert parallelism."""

    reads = (OVERLAP, EP)
    why = "With EP = 1 no token travels to another rank."
    source = MCORE + "1863-1865"
    refused = (f"{OVERLAP}=true",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[EP] > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if (c[EXPERTS] or 1) % 2:
            return (OFF,)
        world = f" {WORLD}={c[WORLD] * 2}"
        return (Fix(f"{EP}=2{world}", KEEPS + " (twice the ranks)"), OFF)


class EP002(EpRule):
    """Expert-parallel overlap needs the alltoall or flex dispatcher."""

    requires = ("EP001", "PAR011")
    reads = (OVERLAP, DISPATCHER)
    why = "The allgather dispatcher has no dispatch and combine steps to schedule apart."
    source = MCORE + "1866-1869"
    refused = _but(without=DISPATCHER)
    fixes = (Fix(f"{DISPATCHER}=alltoall", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[DISPATCHER] in ("alltoall", "flex")


class EP003(EpRule):
    """Expert-parallel overlap needs bf16 or fp16."""

    requires = ("EP001",)
    reads = (OVERLAP, "precision.bf16", "precision.fp16")
    why = "Its schedule is written for 16-bit activations; megatron-core asserts."
    source = MCORE + "1882-1884"
    refused = _but(without="precision.bf16")
    fixes = (Fix("precision.bf16=true", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c["precision.bf16"] or c["precision.fp16"])


class EP004(EpRule):
    """Expert-parallel overlap needs torch 2.6."""

    requires = ("EP001",)
    reads = (OVERLAP, "software.torch")
    why = "It hangs with older versions; megatron-core asserts."
    source = MCORE + "1853-1856"
    refused = _but(without="software.torch")
    fixes = (Fix("software.torch=2.6.0", KEEPS + ", if that version is what the run will find"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c["software.torch"], "2.6.0")


class EP005(EpRule):
    """Expert-parallel overlap under pipeline parallelism needs the interleaved schedule."""

    requires = ("EP001",)
    reads = (OVERLAP, PP, VPP)
    why = "The plain 1F1B schedule has no second microbatch to run under the all-to-all; megatron-core asserts."
    source = MCORE + "1857-1861"
    refused = _but(f"{PP}=2")
    fixes = (Fix(f"{VPP}=2", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[PP] == 1 or c[VPP] is not None


class EP006(EpRule):
    """Expert-parallel overlap excludes full recomputation."""

    requires = ("EP001",)
    reads = (OVERLAP, "model.recompute_granularity", "model.recompute_method", "model.recompute_num_layers")
    why = "Its schedule runs the parts of a layer apart; whole layers cannot be recomputed. megatron-core asserts."
    source = MCORE + "1871-1879"
    refused = _but("model.recompute_granularity=full")
    fixes = (
        Fix("model.recompute_granularity=null model.recompute_method=null model.recompute_num_layers=null", KEEPS),
        OFF,
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        method, layers = c["model.recompute_method"], c["model.recompute_num_layers"]
        return c["model.recompute_granularity"] != "full" and method is None and layers is None


class EP007(EpRule):
    """Expert-parallel overlap excludes recomputing the MoE layer."""

    requires = ("EP001",)
    reads = (OVERLAP, "model.recompute_modules")
    why = "megatron-core 0.16.1 bypasses the recomputation without a word; later versions assert."
    source = BRIDGE + "510-512"
    refused = _but("model.recompute_modules=[moe]")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return "moe" not in (c["model.recompute_modules"] or ())

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        rest = [module for module in c["model.recompute_modules"] or () if module != "moe"]
        value = "[" + ",".join(rest) + "]" if rest else "null"
        return (Fix(f"model.recompute_modules={value}", KEEPS), OFF)


class EP008(EpRule):
    """Expert-parallel overlap excludes shared-expert overlap."""

    requires = ("EP001",)
    reads = (OVERLAP, SHARED_OVERLAP)
    why = "Both want the shared expert's compute; megatron-core asserts."
    source = MCORE + "1886-1888"
    refused = _but(f"{SHARED_OVERLAP}=true")
    fixes = (Fix(f"{SHARED_OVERLAP}=false", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[SHARED_OVERLAP]


class EP009(EpRule):
    """Expert-parallel overlap takes at most one multi-token-prediction layer, under pipeline parallelism."""

    requires = ("EP001",)
    reads = (OVERLAP, "model.mtp_num_layers", PP, "software.megatron_core")
    why = (
        "megatron-core asserts null or 1, 1 only with PP > 1 before 0.18, and 0 only from 0.19; Megatron-Bridge accepts "
        "0 and 1 everywhere."
    )
    source = MCORE + "1889-1896; " + BRIDGE + "516"
    refused = _but("model.mtp_num_layers=2")
    fixes = (Fix("model.mtp_num_layers=null", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        layers, version = c["model.mtp_num_layers"], c["software.megatron_core"]
        if layers == 0:
            return at_least(version, "0.19.0")
        return layers is None or (layers == 1 and (c[PP] > 1 or at_least(version, "0.18.0")))


class DelayRule(Rule):
    """Base: applies while weight gradients are delayed."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DELAY])


class EP010(DelayRule):
    """Delayed weight gradients need expert-parallel overlap."""

    reads = (DELAY, OVERLAP)
    why = "Only its schedule runs the weight gradients that were split off; megatron-core asserts."
    source = MCORE + "1910-1912"
    refused = (f"{DELAY}=true",)
    fixes = (Fix(f"{OVERLAP}=true", KEEPS), Fix(f"{DELAY}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[OVERLAP])


class EP011(DelayRule):
    """Delayed weight gradients need Transformer Engine 2.7, and 2.8 with gradient-reduce overlap."""

    requires = ("EP010",)
    reads = (DELAY, TE, GRAD_REDUCE)
    why = (
        "Its layers split backward in two. Upstreams differ: with gradient-reduce overlap Megatron-Bridge asks for 2.7 and "
        "Megatron-LM for 2.8; without it either asks for 2.7, one with and one without gradient_accumulation_fusion. "
        "We take the stricter."
    )
    source = BRIDGE + "521-530; megatron-core core_v0.16.1 megatron/training/arguments.py:1212-1220"
    refused = (*LEGAL, f"{DELAY}=true")
    fixes = (Fix(f"{TE}=2.8.0", KEEPS + ", if that version is what the run will find"), Fix(f"{DELAY}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TE], "2.8.0" if c[GRAD_REDUCE] else "2.7.0")


class EP012(DelayRule):
    """Delayed weight gradients inside a CUDA graph need Transformer Engine 2.12, fused accumulation and no attention bias."""

    requires = ("EP011",)
    reads = (DELAY, SCOPE, SHARED, SHARED_OVERLAP, TE, GAF, "model.add_bias_linear", "model.add_qkv_bias")
    why = "The graph needs static gradient addresses, which only fused accumulation has; biases are not supported."
    source = BRIDGE + "538-557"
    refused = (*LEGAL, f"{DELAY}=true", f"{TE}=2.11.0", f"{SCOPE}=[attn]")

    @classmethod
    def graphed(cls, c: Config) -> bool:
        """Whether weight gradients run inside a captured graph."""
        router = "moe_router" in c[SCOPE] and c[SHARED] is not None and not c[SHARED_OVERLAP]
        return "attn" in c[SCOPE] or router

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DELAY]) and cls.graphed(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        biased = "attn" in c[SCOPE] and (c["model.add_bias_linear"] or c["model.add_qkv_bias"])
        return at_least(c[TE], "2.12.0") and bool(c[GAF]) and not biased

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = [scope for scope in c[SCOPE] if scope not in ("attn", "moe_router")]
        return (Fix(f"{SCOPE}=[{','.join(kept)}]", KEEPS + ", outside the graph"), Fix(f"{DELAY}=false", GIVES_UP))


class EP013(EpRule):
    """Expert-parallel overlap keeps MoE layers and MLPs out of CUDA graphs."""

    requires = ("EP001",)
    reads = (OVERLAP, SCOPE)
    why = "Its schedule runs them apart, a captured graph cannot be taken apart; megatron-core asserts."
    source = MCORE + "1898-1906"
    refused = _but(f"{SCOPE}=[moe]")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return "moe" not in c[SCOPE] and "mlp" not in c[SCOPE]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = [scope for scope in c[SCOPE] if scope not in ("moe", "mlp")]
        return (Fix(f"{SCOPE}=[{','.join(kept)}]", KEEPS + ", outside the graph"), OFF)


class EP014(Rule):
    """Shared-expert overlap needs a shared expert and the alltoall dispatcher."""

    reads = (SHARED_OVERLAP, SHARED, DISPATCHER, EXPERTS)
    why = "Without a shared expert nothing runs under the dispatch; with another dispatcher megatron-core raises."
    source = MCORE + "1083-1095"
    refused = (f"{SHARED_OVERLAP}=true",)
    fixes = (Fix(f"{DISPATCHER}=alltoall", KEEPS), Fix(f"{SHARED_OVERLAP}=false", GIVES_UP))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[SHARED_OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and c[SHARED] is not None and c[DISPATCHER] == "alltoall"


RULES: tuple[type[Rule], ...] = (
    EP001, EP002, EP003, EP004, EP005, EP006, EP007, EP008, EP009, EP010, EP011, EP012, EP013, EP014,
)  # fmt: skip

DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="EP101",
        key=OVERLAP,
        value=lambda c: False,
        reason="opt-in upstream",
        source=BRIDGE + "438",
    ),
    Derivation(
        id="EP102",
        key=DELAY,
        value=lambda c: False,
        reason="opt-in upstream",
        source=BRIDGE + "439",
    ),
)
