"""EP: the MoE all-to-alls of one microbatch under the compute of another, and the weight gradients delayed for it."""

from ..findings import Fix
from ..schema.keys import (
    BF16,
    BIAS,
    CAPACITY_FACTOR,
    CORE,
    CP,
    CUDA_GRAPH_SCOPE,
    DEEPEP_SMS,
    DELAY_WGRAD,
    DISPATCH_WGRAD,
    DISPATCHER,
    EARLY_RELEASE,
    EP,
    EP_OVERLAP,
    ETP,
    EXPERTS,
    FLEX_BACKEND,
    FP16,
    FSDP,
    FSDP_SHARDING,
    GAF,
    GBS,
    GPU,
    GRAD_REDUCE,
    GRAPH_IMPL,
    GROUPED_GEMM,
    HYBRIDEP_SMS,
    MBS,
    MTP,
    NVLINK_DOMAIN,
    PAD_TO_CAPACITY,
    PP,
    QKV_BIAS,
    RECOMPUTE,
    RECOMPUTE_LAYERS,
    RECOMPUTE_METHOD,
    RECOMPUTE_MODULES,
    SHARED_EXPERT,
    SHARED_EXPERT_OVERLAP,
    SM,
    TE,
    TORCH,
    TP,
    VPP,
    WORLD,
)
from ..schema.versions import at_least
from ._base import GIVES_UP, KEEPS, Config, Derivation, Rule
from .graphs import GRAPHS, implementation, off, only, parts, said
from .layout import data_parallel_size, expert_tensor_parallel_size, num_microbatches

MCORE = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_config.py:"
BRIDGE = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:"
OFF = Fix(f"{EP_OVERLAP}=false", GIVES_UP)
LEGAL = (
    f"{EP_OVERLAP}=true", f"{EXPERTS}=4", f"{EP}=2", f"{DISPATCHER}=alltoall", "precision.bf16=true",
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
        return bool(c[EP_OVERLAP])


class EP001(EpRule):
    """Expert-parallel overlap is on without expert parallelism."""

    records = ("ep-overlap-requires-ep",)
    reads = (EP_OVERLAP, EP)
    why = "With EP = 1 no token is sent to another rank."
    source = MCORE + "1863-1865"
    refused = (f"{EP_OVERLAP}=true",)

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
    """Expert-parallel overlap is on without the alltoall or flex dispatcher."""

    records = ("ep-overlap-requires-dispatcher",)
    requires = ("EP001", "PAR011")
    reads = (EP_OVERLAP, DISPATCHER)
    why = "The allgather dispatcher has no separate dispatch and combine steps to schedule."
    source = MCORE + "1866-1869"
    refused = _but(without=DISPATCHER)
    fixes = (Fix(f"{DISPATCHER}=alltoall", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[DISPATCHER] in ("alltoall", "flex")


class EP003(EpRule):
    """Expert-parallel overlap is on without bf16 or fp16."""

    records = ("ep-overlap-requires-half",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, BF16, FP16)
    why = "Its schedule is written for 16-bit activations; megatron-core asserts."
    source = MCORE + "1882-1884"
    refused = _but(without=BF16)
    fixes = (Fix("precision.bf16=true", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[BF16] or c[FP16])


class EP004(EpRule):
    """Expert-parallel overlap is on without torch 2.6 or newer."""

    records = ("ep-overlap-torch-26",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, TORCH)
    why = "With older versions the overlap hangs; megatron-core asserts."
    source = MCORE + "1853-1856"
    refused = _but(without=TORCH)
    fixes = (Fix("software.torch=2.6.0", KEEPS + ", if the run will have that version"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TORCH], "2.6.0")


class EP005(EpRule):
    """Expert-parallel overlap is on in a pipeline without the interleaved schedule."""

    records = ("ep-overlap-requires-vpp-with-pp",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, PP, VPP)
    why = "The plain 1F1B schedule has no second microbatch to run under the all-to-all; megatron-core asserts."
    source = MCORE + "1857-1861"
    refused = _but(f"{PP}=2")
    fixes = (Fix(f"{VPP}=2", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[PP] == 1 or c[VPP] is not None


class EP006(EpRule):
    """Expert-parallel overlap is on with settings of full recomputation."""

    records = ("ep-overlap-no-full-recompute",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, RECOMPUTE, RECOMPUTE_METHOD, RECOMPUTE_LAYERS)
    why = (
        "The overlap's schedule runs the parts of a layer separately, so whole layers cannot be recomputed; "
        "megatron-core asserts."
    )
    source = MCORE + "1871-1879"
    refused = _but("model.recompute_method=uniform")
    fixes = (
        Fix("model.recompute_granularity=null model.recompute_method=null model.recompute_num_layers=null", KEEPS),
        OFF,
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        method, layers = c[RECOMPUTE_METHOD], c[RECOMPUTE_LAYERS]
        return c[RECOMPUTE] != "full" and method is None and layers is None


class EP007(EpRule):
    """Expert-parallel overlap is on with recomputation of the MoE layer."""

    records = ("ep-overlap-no-moe-recompute",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, RECOMPUTE_MODULES)
    why = "megatron-core 0.16.1 silently skips the recomputation; later versions assert."
    source = BRIDGE + "510-512"
    refused = _but("model.recompute_modules=[moe]")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return "moe" not in (c[RECOMPUTE_MODULES] or ())

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        rest = [module for module in c[RECOMPUTE_MODULES] or () if module != "moe"]
        value = "[" + ",".join(rest) + "]" if rest else "null"
        return (Fix(f"model.recompute_modules={value}", KEEPS), OFF)


class EP008(EpRule):
    """Expert-parallel overlap is on together with shared-expert overlap."""

    records = ("ep-overlap-no-shared-expert-overlap",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, SHARED_EXPERT_OVERLAP)
    why = "Both overlaps use the shared expert's compute; megatron-core asserts."
    source = MCORE + "1886-1888"
    refused = _but(f"{SHARED_EXPERT_OVERLAP}=true", f"{SHARED_EXPERT}=64")
    fixes = (Fix(f"{SHARED_EXPERT_OVERLAP}=false", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[SHARED_EXPERT_OVERLAP]


class EP009(EpRule):
    """Expert-parallel overlap does not support this number of multi-token-prediction layers."""

    records = ("ep-overlap-mtp",)
    requires = ("EP001",)
    reads = (EP_OVERLAP, MTP, PP, CORE)
    why = (
        "megatron-core asserts null or 1. It takes 1 without a pipeline only from 0.18, and 0 only from 0.19. "
        "Megatron-Bridge accepts 0 and 1 everywhere."
    )
    source = MCORE + "1889-1896; " + BRIDGE + "516"
    refused = _but("model.mtp_num_layers=2")
    fixes = (Fix("model.mtp_num_layers=null", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        layers, version = c[MTP], c[CORE]
        if layers == 0:
            return at_least(version, "0.19.0")
        return layers is None or (layers == 1 and (c[PP] > 1 or at_least(version, "0.18.0")))


class DelayRule(Rule):
    """Base: applies while weight gradients are delayed."""

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return said(c, super().shown(c))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DELAY_WGRAD])


class EP010(DelayRule):
    """Delayed weight gradients without expert-parallel overlap."""

    records = ("ep-delay-wgrad-requires-ep-overlap",)
    reads = (DELAY_WGRAD, EP_OVERLAP)
    why = "Only the schedule of that overlap runs the delayed weight gradients; megatron-core asserts."
    source = MCORE + "1910-1912"
    refused = (f"{DELAY_WGRAD}=true",)
    fixes = (Fix(f"{EP_OVERLAP}=true", KEEPS), Fix(f"{DELAY_WGRAD}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[EP_OVERLAP])


class EP011(DelayRule):
    """Delayed weight gradients, but Transformer Engine is missing or too old."""

    records = (
        "ep-delay-wgrad-te-version-ogr",
        "ep-delay-wgrad-te-version-gaf",
        "ep-delay-wgrad-te-impl",
        "ep-delay-wgrad-te-absent",
    )
    requires = ("EP010",)
    reads = (DELAY_WGRAD, TE, GRAD_REDUCE)
    why = (
        "They need Transformer Engine 2.7, and 2.8 with gradient-reduce overlap, because its layers split backward in "
        "two. Upstreams differ: with gradient-reduce overlap Megatron-Bridge asks for 2.7 and Megatron-LM for 2.8; "
        "without it both ask for 2.7, one with and one without gradient_accumulation_fusion. We take the stricter: the "
        "fix for gradient-reduce overlap (Transformer Engine pull 2142) is in v2.8, not in v2.7."
    )
    source = BRIDGE + "521-530; megatron-core core_v0.16.1 megatron/training/arguments.py:1212-1220"
    refused = (*LEGAL, f"{DELAY_WGRAD}=true")
    fixes = (
        Fix(f"{TE}=2.8.0", KEEPS + ", if the run will have that version"),
        Fix(f"{DELAY_WGRAD}=false", GIVES_UP),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TE], "2.8.0" if c[GRAD_REDUCE] else "2.7.0")


class EP012(DelayRule):
    """Delayed weight gradients inside a CUDA graph that cannot capture them."""

    records = ("ep-delay-wgrad-cuda-graph",)
    requires = ("EP011",)
    reads = (DELAY_WGRAD, *GRAPHS, SHARED_EXPERT, SHARED_EXPERT_OVERLAP, TE, GAF, BIAS, QKV_BIAS)
    why = (
        "They need Transformer Engine 2.12, gradient_accumulation_fusion and no attention bias: the graph needs static "
        "gradient addresses, which only fused accumulation has, and biases are not supported."
    )
    source = BRIDGE + "538-557"
    refused = (*LEGAL, f"{DELAY_WGRAD}=true", f"{TE}=2.11.0", f"{CUDA_GRAPH_SCOPE}=[attn]")

    @classmethod
    def graphed(cls, c: Config) -> bool:
        """Whether weight gradients run inside a captured graph."""
        captured = parts(c) if implementation(c) != "none" else ()
        router = "moe_router" in captured and c[SHARED_EXPERT] is not None and not c[SHARED_EXPERT_OVERLAP]
        return "attn" in captured or router

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DELAY_WGRAD]) and cls.graphed(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        biased = "attn" in parts(c) and (c[BIAS] or c[QKV_BIAS])
        return at_least(c[TE], "2.12.0") and bool(c[GAF]) and not biased

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = tuple(part for part in parts(c) if part not in ("attn", "moe_router", "moe_preprocess"))
        return (
            Fix(only(c, kept, implementation(c)), KEEPS + ", outside the graph"),
            Fix(f"{DELAY_WGRAD}=false", GIVES_UP),
        )


class EP013(EpRule):
    """Expert-parallel overlap is on with CUDA graphs that cannot be split.

    When it applies: to the parts moe and mlp in Transformer Engine's graphs, and before megatron-core 0.18 to all other
    graphs: local ones, whatever they capture, and those of the whole iteration.
    """

    requires = ("EP001", "CG001", "CG003")
    records = ("ep-overlap-cuda-graph",)
    reads = (EP_OVERLAP, *GRAPHS, CORE)
    why = (
        "The overlap's schedule runs MoE layers and MLPs in parts, and a captured graph cannot be split; megatron-core "
        "asserts."
    )
    source = MCORE + "1898-1906; core_v0.18.2 2443-2451; https://github.com/NVIDIA/Megatron-LM/pull/2184"
    refused = _but(f"{GRAPH_IMPL}=local")

    @classmethod
    def holds(cls, c: Config) -> bool:
        how = implementation(c)
        split = not {"moe", "mlp"} & set(parts(c))
        if how == "transformer_engine":
            return split
        return how == "none" or at_least(c[CORE], "0.18.0")

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return said(c, cls.reads)

    @classmethod
    def why_for(cls, c: Config) -> str:
        how = implementation(c)
        before = (
            ""
            if how == "transformer_engine"
            else f"Before megatron-core 0.18 only Transformer Engine's graphs go beside it, not {how}. "
        )
        return before + cls.why

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = tuple(part for part in parts(c) if part not in ("moe", "mlp", "mamba"))
        if not kept and implementation(c) == "local":
            kept = ("attn",)
        words = "with graphs of the other parts" if kept else "without graphs"
        return (Fix(only(c, kept), f"{KEEPS}, {words}"), OFF)


class EP014(Rule):
    """Shared-expert overlap is on without a shared expert or a suitable token dispatcher."""

    records = ("ep-shared-expert-overlap-dispatcher", "ep-shared-expert-overlap-no-shared")
    reads = (SHARED_EXPERT_OVERLAP, SHARED_EXPERT, DISPATCHER, EXPERTS, CORE)
    why = (
        "Without a shared expert nothing runs under the dispatch. The dispatcher has to be alltoall, or flex from "
        "megatron-core 0.18; with another one megatron-core raises."
    )
    source = MCORE + "1083-1095; core_v0.19.0 1645-1650"
    refused = (f"{SHARED_EXPERT_OVERLAP}=true",)
    fixes = (Fix(f"{DISPATCHER}=alltoall", KEEPS), Fix(f"{SHARED_EXPERT_OVERLAP}=false", GIVES_UP))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[SHARED_EXPERT_OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        dispatchers = ("alltoall", "flex") if at_least(c[CORE], "0.18.0") else ("alltoall",)
        return c[EXPERTS] is not None and c[SHARED_EXPERT] is not None and c[DISPATCHER] in dispatchers


class EP015(DelayRule):
    """Delayed weight gradients beside CUDA graphs with Transformer Engine older than 2.10."""

    requires = ("EP011", "EP012", "EP013")
    reads = (DELAY_WGRAD, *GRAPHS, TE)
    why = "megatron-core asserts 2.10, whatever the graphs capture."
    source = MCORE + "1917-1921"
    refused = (*LEGAL, f"{DELAY_WGRAD}=true", f"{TE}=2.9.0", f"{CUDA_GRAPH_SCOPE}=[moe_router]")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (
            Fix(f"{TE}=2.10.0", KEEPS + ", if the run will have that version"),
            Fix(off(c), KEEPS + ", without graphs"),
            Fix(f"{DELAY_WGRAD}=false", GIVES_UP),
        )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DELAY_WGRAD]) and implementation(c) == "transformer_engine"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TE], "2.10.0")


class EP016(Rule):
    """Shared-expert overlap is on with recomputation of the shared expert."""

    requires = ("EP014",)
    records = ("ep-shared-expert-overlap-recompute",)
    reads = (SHARED_EXPERT_OVERLAP, RECOMPUTE, RECOMPUTE_MODULES)
    why = "The shared expert's forward is cut into pieces that run under the dispatch; megatron-core raises."
    source = MCORE + "1232-1239"
    refused = (
        f"{SHARED_EXPERT_OVERLAP}=true", f"{SHARED_EXPERT}=64", f"{EXPERTS}=4", f"{DISPATCHER}=alltoall",
        "model.recompute_granularity=selective", "model.recompute_modules=[shared_experts]",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[SHARED_EXPERT_OVERLAP]) and c[RECOMPUTE] == "selective"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return "shared_experts" not in (c[RECOMPUTE_MODULES] or ())

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        rest = [module for module in c[RECOMPUTE_MODULES] if module != "shared_experts"]
        value = "[" + ",".join(rest) + "]" if rest else "null"
        return (Fix(f"model.recompute_modules={value}", KEEPS), Fix(f"{SHARED_EXPERT_OVERLAP}=false", GIVES_UP))


class EP017(Rule):
    """A flex dispatcher backend is set, but the dispatcher is not flex."""

    records = ("ep-flex-backend-ignored",)
    reads = (FLEX_BACKEND, DISPATCHER)
    why = "Only the flex dispatcher reads the backend: tokens would silently be sent in another way than was asked."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/moe/token_dispatcher.py:1347-1366"
    refused = (f"{FLEX_BACKEND}=deepep",)
    fixes = (Fix(f"{DISPATCHER}=flex", "uses the backend"), Fix(f"{FLEX_BACKEND}=null", "keeps the dispatcher"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FLEX_BACKEND] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DISPATCHER] == "flex")


class EP018(EpRule):
    """Expert-parallel overlap without a pipeline has fewer than two microbatches per step."""

    requires = ("EP001", "PAR001", "PAR009")
    records = ("ep-overlap-one-microbatch",)
    reads = (EP_OVERLAP, PP, GBS, MBS, WORLD, TP, CP)
    why = "The forward of one microbatch runs under the all-to-alls of another one's backward, so there have to be two."
    source = "megatron-core core_v0.16.1 megatron/core/pipeline_parallel/combined_1f1b.py:18-60"
    refused = _but(f"{GBS}=2")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[EP_OVERLAP]) and c[PP] == 1 and c[GBS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return (num_microbatches(c) or 0) >= 2

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        samples = c[MBS] * data_parallel_size(c)
        return (Fix(f"{GBS}={2 * samples}", KEEPS + ", with two microbatches"), OFF)


class EP019(Rule):
    """Early release of attention activations is on without expert-parallel overlap."""

    records = ("ep-early-attn-release",)
    reads = (EARLY_RELEASE, EP_OVERLAP)
    why = "Only the schedule of that overlap has a release to bring forward; megatron-core asserts."
    source = MCORE + "1923-1927"
    refused = (f"{EARLY_RELEASE}=true",)
    fixes = (
        Fix(f"{EP_OVERLAP}=true", "with the overlap"),
        Fix(f"{EARLY_RELEASE}=false", "releases them at the usual time"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[EARLY_RELEASE])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[EP_OVERLAP])


class EP020(Rule):
    """Both dispatch overlap with expert wgrad and expert-parallel overlap are on.

    Delayed weight gradients are excluded as well, but they need expert-parallel overlap anyway (EP010). The setting exists
    since megatron-core 0.18 (VER001).
    """

    records = ("ep-overlap-dispatch-bwd-wgrad",)
    reads = (DISPATCH_WGRAD, EP_OVERLAP)
    why = "Both take the experts' weight gradients out of backward, for different schedules; megatron-core asserts."
    source = "megatron-core core_v0.18.2 transformer_config.py:2464-2475"
    refused = (*LEGAL, f"{DISPATCH_WGRAD}=true")
    fixes = (
        Fix(f"{DISPATCH_WGRAD}=false", "keeps the overlap of whole microbatches"),
        Fix(f"{EP_OVERLAP}=false", "keeps the overlap with expert weight gradients"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DISPATCH_WGRAD])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[EP_OVERLAP]


class EP021(Rule):
    """Dispatch overlap with expert wgrad without EP > 1, grouped GEMMs or Transformer Engine 2.3."""

    requires = ("EP020", "PAR011")
    reads = (DISPATCH_WGRAD, EP, GROUPED_GEMM, TE)
    why = "With EP = 1 no token is sent, and only Transformer Engine's grouped layers can delay their weight gradients."
    source = "megatron-core core_v0.18.2 transformer_config.py:2469-2471, extensions/transformer_engine.py:1950"
    refused = (f"{DISPATCH_WGRAD}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DISPATCH_WGRAD])

    @classmethod
    def holds(cls, c: Config) -> bool:
        grouped, engine = bool(c[GROUPED_GEMM]), at_least(c[TE], "2.3.0")
        return c[EP] > 1 and grouped and engine

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        off = Fix(f"{DISPATCH_WGRAD}=false", GIVES_UP)
        if c[EP] == 1 and (c[EXPERTS] or 1) % 2:
            return (off,)
        changes = [] if c[EP] > 1 else [f"{EP}=2", f"{WORLD}={c[WORLD] * 2}"]
        changes += [] if c[GROUPED_GEMM] else ["model.moe_grouped_gemm=true"]
        changes += [] if at_least(c[TE], "2.3.0") else [f"{TE}=2.11.0"]
        return (Fix(" ".join(changes), KEEPS), off)


class EP022(Rule):
    """Shared-expert overlap is on, but no token leaves its rank."""

    requires = ("EP014", "PAR011")
    reads = (SHARED_EXPERT_OVERLAP, EP, ETP, TP)
    shows = (SHARED_EXPERT_OVERLAP, EP, TP)
    why = "With EP = 1 and TP = 1 there is no communication that the shared expert could run beside."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/moe/token_dispatcher.py:625-626, 688-689, 828-830"
    refused = (
        f"{SHARED_EXPERT_OVERLAP}=true", f"{SHARED_EXPERT}=64", f"{EXPERTS}=4", f"{DISPATCHER}=alltoall",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[SHARED_EXPERT_OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[EP] > 1 or c[TP] > 1 or expert_tensor_parallel_size(c) > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        off = Fix(f"{SHARED_EXPERT_OVERLAP}=false", GIVES_UP)
        return (off,) if c[EXPERTS] % 2 else (Fix(f"{EP}=2 {WORLD}={c[WORLD] * 2}", KEEPS + " (twice the ranks)"), off)


class EP023(EpRule):
    """Expert-parallel overlap is on with parameters that Megatron FSDP shards."""

    requires = ("EP001",)
    reads = (EP_OVERLAP, FSDP, FSDP_SHARDING, CORE)
    why = (
        "The overlap's schedule calls the parts of a layer one by one, but the hooks that gather parameters and reduce "
        "gradients are on the layer as a whole: they never run. Fixed in megatron-core 0.18."
    )
    source = (
        "megatron-core core_v0.16.1 megatron/core/distributed/fsdp/mcore_fsdp_adapter.py:95-99, models/gpt/"
        "fine_grained_callables.py:448; mended by https://github.com/NVIDIA/Megatron-LM/pull/3797"
    )
    refused = _but(
        f"{FSDP}=true",
        f"{FSDP_SHARDING}=optim_grads_params",
        "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true",
    )
    fixes = (Fix(f"{FSDP_SHARDING}=optim_grads", KEEPS + ", parameters whole on every rank"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[FSDP] or c[FSDP_SHARDING] != "optim_grads_params" or at_least(c[CORE], "0.18.0")


class EP024(Rule):
    """With EP = 1, the experts' tensor parallelism differs from the rest of the model's."""

    requires = ("PAR002", "PAR012")
    reads = (EXPERTS, EP, ETP, TP, CORE)
    shows = (EP, ETP, TP, CORE)
    why = (
        "megatron-core puts experts into buffers of their own only for EP > 1. With EP = 1 their gradients are reduced "
        "among the data-parallel ranks of the other parameters, which are too few or the wrong ones: the run silently "
        "trains wrong (loss 5.624 instead of 5.577 in the third step at TP = 2, ETP = 1). Fixed in megatron-core 0.19."
    )
    source = (
        "megatron-core core_v0.16.1 megatron/core/tensor_parallel/layers.py:829, 886; megatron/core/distributed/"
        "distributed_data_parallel.py:121; mended in core_v0.19.0 megatron/core/tensor_parallel/layers.py:961"
    )
    refused = (f"{EXPERTS}=4", f"{TP}=2", "parallelism.sequence_parallel=true", f"{ETP}=1")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and c[EP] == 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        mended = at_least(c[CORE], "0.19.0")
        return expert_tensor_parallel_size(c) == c[TP] or mended

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        whole = Fix(f"{ETP}=null", "experts split like the rest")
        return (whole,) if c[EXPERTS] % 2 else (whole, Fix(f"{EP}=2", "expert parallelism instead"))


class EP025(Rule):
    """Tokens of experts are padded to a capacity that is not set, or that DeepEP cannot keep."""

    reads = (PAD_TO_CAPACITY, CAPACITY_FACTOR, DISPATCHER, FLEX_BACKEND, EXPERTS)
    why = "megatron-core raises: padding needs moe_expert_capacity_factor, and DeepEP's dispatcher drops no tokens."
    source = MCORE + "1075-1081, 1131-1135"
    refused = (f"{PAD_TO_CAPACITY}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[PAD_TO_CAPACITY])

    @classmethod
    def holds(cls, c: Config) -> bool:
        deepep = c[EXPERTS] is not None and c[DISPATCHER] == "flex" and c[FLEX_BACKEND] in (None, "deepep")
        return c[CAPACITY_FACTOR] is not None and not deepep

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        changes = [] if c[CAPACITY_FACTOR] is not None else [f"{CAPACITY_FACTOR}=1.0"]
        if c[EXPERTS] is not None and c[DISPATCHER] == "flex" and c[FLEX_BACKEND] in (None, "deepep"):
            changes += [f"{DISPATCHER}=alltoall", f"{FLEX_BACKEND}=null"]
        return (Fix(" ".join(changes), "keeps the padding"), Fix(f"{PAD_TO_CAPACITY}=false", "all tokens, no padding"))


class EP026(Rule):
    """The DeepEP dispatcher on a Grace GPU, whose nodes it does not know."""

    requires = ("EP017",)
    reads = (DISPATCHER, FLEX_BACKEND, EXPERTS, GPU)
    why = (
        "DeepEP's normal mode takes nodes of eight GPUs over NVLink; GB200 and GB300 have four in a larger domain. "
        "Megatron-Bridge raises, with Ampere, Hopper, B200 and B300 in its list; megatron-core does not check."
    )
    source = (
        "Megatron-Bridge v0.6.0 src/megatron/bridge/training/flex_dispatcher_backend.py; "
        "https://github.com/deepseek-ai/DeepEP/issues/392"
    )
    refused = (f"{DISPATCHER}=flex", f"{EXPERTS}=4", f"{GPU}=gb200")
    fixes = (
        Fix(f"{FLEX_BACKEND}=hybridep", "keeps the flex dispatcher"),
        Fix(f"{DISPATCHER}=alltoall {FLEX_BACKEND}=null", "sends tokens with NCCL"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        deepep = c[FLEX_BACKEND] in (None, "deepep")
        return c[EXPERTS] is not None and c[DISPATCHER] == "flex" and deepep

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[GPU] not in ("gb200", "gb300")


class EP027(Rule):
    """The ncclep dispatcher, but Transformer Engine is missing or too old."""

    requires = ("EP017", "VER003")
    reads = (DISPATCHER, FLEX_BACKEND, EXPERTS, TE, SM)
    why = "It calls Transformer Engine's NCCL expert parallelism, which exists from 2.17 on; megatron-core raises."
    source = "megatron-core core_v0.19.2 transformer_config.py:1609-1615, 869-876"
    refused = (f"{DISPATCHER}=flex", f"{FLEX_BACKEND}=ncclep", f"{EXPERTS}=4", f"{SM}=90")
    fixes = (
        Fix(f"{TE}=2.17.0", "keeps the dispatcher, if the run will have that version"),
        Fix(f"{FLEX_BACKEND}=hybridep", "another backend"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        ncclep = c[EXPERTS] is not None and c[DISPATCHER] == "flex" and c[FLEX_BACKEND] == "ncclep"
        return ncclep and c[SM] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TE], "2.17.0")


class EP028(Rule):
    """A number of SMs is set for a dispatcher backend that does not send the tokens."""

    severity = "note"
    requires = ("EP017",)
    reads = (DEEPEP_SMS, HYBRIDEP_SMS, DISPATCHER, FLEX_BACKEND)
    why = "Nothing reads it: the kernels of the backend in use take their own number."
    source = (
        "megatron-core core_v0.16.1 megatron/core/transformer/moe/token_dispatcher.py:1347-1366; " + MCORE + "722-727"
    )
    refused = (f"{DEEPEP_SMS}=24",)

    @classmethod
    def unread(cls, c: Config) -> list[str]:
        """The numbers that nobody reads."""
        used = (c[FLEX_BACKEND] or "deepep") if c[DISPATCHER] == "flex" else ""
        numbers = {DEEPEP_SMS: "deepep", HYBRIDEP_SMS: "hybridep"}
        return [key for key, backend in numbers.items() if c[key] is not None and backend != used]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.unread(c)

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return (*cls.unread(c), DISPATCHER, FLEX_BACKEND)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(" ".join(f"{key}=null" for key in cls.unread(c)), "the backend's own number"),)


class EP201(EpRule):
    """Expert-parallel overlap over few ranks of one NVLink domain may gain nothing."""

    severity = "note"
    requires = ("EP001", "EP002")
    records = ("ep-overlap-small-ep",)
    reads = (EP_OVERLAP, EP, DISPATCHER, NVLINK_DOMAIN)
    why = (
        "Measure with and without. Megatron-Bridge found no gain or a loss with EP of 4 or less and the alltoall "
        "dispatcher, and saved a quarter of the step with EP = 16 on two H100 nodes."
    )
    source = "Megatron-Bridge v0.6.0 docs/training/communication-overlap.md"
    refused = _but("platform.nvlink_domain_size=8")
    fixes = (Fix(f"{EP_OVERLAP}=false", "to compare"),)

    @classmethod
    def holds(cls, c: Config) -> bool:
        few = c[EP] <= 4 and c[DISPATCHER] == "alltoall"
        return not few or c[NVLINK_DOMAIN] is None or c[EP] > c[NVLINK_DOMAIN]


RULES: tuple[type[Rule], ...] = (
    EP001, EP002, EP003, EP004, EP005, EP006, EP007, EP008, EP009, EP010, EP011, EP012, EP013, EP014, EP015, EP016,
    EP017, EP018, EP019, EP020, EP021, EP022, EP023, EP024, EP025, EP026, EP027, EP028, EP201,
)  # fmt: skip

DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="EP101",
        key=EP_OVERLAP,
        value=lambda c: False,
        reason="off upstream unless it is asked for",
        source=BRIDGE + "438",
        records=("ep-overlap-unset",),
    ),
    Derivation(
        id="EP102",
        key=DELAY_WGRAD,
        value=lambda c: False,
        reason="off upstream unless it is asked for",
        source=BRIDGE + "439",
        records=("ep-delay-wgrad-unset-none",),
    ),
)
