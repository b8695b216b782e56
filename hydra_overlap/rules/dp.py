"""DP: gradient reduction under backward and parameter gather under forward."""

from math import gcd
from typing import Any

from ..findings import Fix
from ..schema.keys import (
    ALIGN_GATHER,
    BF16,
    BUCKET,
    CORE,
    DDP_ALIGN_GATHER,
    DDP_BUCKET,
    DDP_DISTRIBUTED,
    DDP_GRAD_REDUCE,
    DDP_PARAM_GATHER,
    DEFER,
    EP,
    ETP,
    EXPERT_FFN_HIDDEN,
    EXPERTS,
    FFN_HIDDEN,
    FP4,
    FP8,
    FP8_RECIPE,
    FP16,
    FSDP,
    FSDP_SHARDING,
    GATED,
    GRAD_REDUCE,
    GRADS_IN_FP32,
    HEADS,
    HIDDEN,
    KV_CHANNELS,
    NUM_LAYERS,
    OPTIMIZER,
    OPTIMIZER_DISTRIBUTED,
    OPTIMIZER_INSTANCES,
    OPTIMIZER_PARAM_GATHER,
    OPTIMIZER_STEP_GATHER,
    PARAM_GATHER,
    PP,
    QUERY_GROUPS,
    SHARED_EXPERT,
    STEP_GATHER,
    TIED_EMBEDDINGS,
    TP,
    VOCAB,
    VPP,
    WORLD,
)
from ..schema.versions import at_least
from ._base import GIVES_UP, KEEPS, Config, Derivation, Rule
from .advisories import ADV001
from .layout import (
    SPLIT,
    bucketed_parameters,
    data_parallel_size,
    divisor_below,
    dp_cp_size,
    expert_ranks,
    interleave,
    interleaved,
)

MCORE = "megatron-core core_v0.16.1 megatron/core/"
ARGUMENTS = "megatron-core core_v0.16.1 megatron/training/arguments.py:"
LAYOUT = (WORLD, TP, PP)
CHUNK = (
    NUM_LAYERS, *SPLIT, PP, VPP, TP, EP, ETP, WORLD, HIDDEN, HEADS, KV_CHANNELS,
    QUERY_GROUPS, FFN_HIDDEN, GATED, EXPERTS,
    EXPERT_FFN_HIDDEN, SHARED_EXPERT, VOCAB,
    TIED_EMBEDDINGS,
)  # fmt: skip
"""What decides how large the first model chunk is."""

# A flag of comm_overlap.dp and the base values that must not contradict it.
BASES: dict[str, tuple[str, ...]] = {
    GRAD_REDUCE: (DDP_GRAD_REDUCE,),
    PARAM_GATHER: (DDP_PARAM_GATHER, OPTIMIZER_PARAM_GATHER),
    STEP_GATHER: (OPTIMIZER_STEP_GATHER,),
    ALIGN_GATHER: (DDP_ALIGN_GATHER,),
    BUCKET: (DDP_BUCKET,),
}


MUON = ("muon", "dist_muon")
EMERGING = (*MUON, "lion", "soap", "adaptive_muon")
"""Optimizers that Megatron-LM calls emerging; from 0.18 on their distributed optimizer shards whole layers."""


def layer_wise(c: Config) -> bool:
    """Whether whole layers are sharded over ranks and gathered after the step.

    Source: megatron-core core_v0.17.1 megatron/core/optimizer/layer_wise_optimizer.py; core_v0.18.2
    megatron/training/arguments.py:1557-1571.
    """
    newer = c[CORE] is None or at_least(c[CORE], "0.18.0")
    return bool(c[OPTIMIZER] == "dist_muon") or (c[OPTIMIZER] in EMERGING and newer and bool(c[DDP_DISTRIBUTED]))


def without_overlap(c: Config) -> bool:
    """Whether the optimizer of the plan takes no data-parallel overlap in the megatron-core of the plan."""
    if c[OPTIMIZER] not in MUON or c[CORE] is None or at_least(c[CORE], "0.18.0"):
        return False
    return bool(c[OPTIMIZER] == "muon") or not at_least(c[CORE], "0.17.0")


def sharing_ranks(c: Config) -> int:
    """Ranks that one instance of the distributed optimizer is sharded over (megatron-core's intra_dp_cp group)."""
    return dp_cp_size(c) // c[OPTIMIZER_INSTANCES]


class DP001(Rule):
    """Gradient-reduce overlap is on, but no ranks reduce gradients together."""

    requires = ("PAR001",)
    reads = (GRAD_REDUCE, *LAYOUT)
    why = "Data x context parallel size is 1: there is no gradient reduction to overlap."
    records = ("dp-overlap-at-dp1",)
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:576"
    refused = (f"{GRAD_REDUCE}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[GRAD_REDUCE])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return dp_cp_size(c) > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        more = Fix(f"{WORLD}={c[WORLD] * 2}", KEEPS + " (twice the ranks)")
        return (more, Fix(f"{GRAD_REDUCE}=false", GIVES_UP), Fix(f"{GRAD_REDUCE}=null", "lets the layout decide"))


class GatherRule(Rule):
    """Base: applies while parameters are gathered in forward."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[PARAM_GATHER])


class DP002(GatherRule):
    """Parameter-gather overlap is on without the distributed optimizer."""

    reads = (PARAM_GATHER, DDP_DISTRIBUTED, OPTIMIZER)
    shows = (PARAM_GATHER, DDP_DISTRIBUTED)
    why = "Without it every rank holds all parameters: nothing is gathered, and megatron-core ignores the flag."
    records = ("dp-param-gather-requires-dist-optimizer",)
    source = ARGUMENTS + "597-599"
    refused = (f"{PARAM_GATHER}=true",)
    fixes = (Fix(f"{DDP_DISTRIBUTED}=true {OPTIMIZER_DISTRIBUTED}=true", KEEPS), Fix(f"{PARAM_GATHER}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DDP_DISTRIBUTED]) or bool(c[OPTIMIZER] == "dist_muon")


class DP003(GatherRule):
    """Parameter-gather overlap is on, but no ranks share the optimizer state."""

    requires = ("PAR001", "DP001", "DP002")
    reads = (PARAM_GATHER, OPTIMIZER_INSTANCES, *LAYOUT)
    why = (
        "Each rank's optimizer holds the state of all parameters, so there is nothing to gather: data x context "
        "parallel size is 1, or there are as many optimizer instances as ranks."
    )
    records = ("dp-overlap-at-dp1",)
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:576"
    refused = (f"{PARAM_GATHER}=true", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return sharing_ranks(c) > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        more = Fix(f"{WORLD}={c[WORLD] * 2}", KEEPS + " (twice the ranks)")
        fewer = Fix(f"{OPTIMIZER_INSTANCES}=1", KEEPS + ", one instance of the optimizer")
        keeps = fewer if dp_cp_size(c) > 1 else more
        return (keeps, Fix(f"{PARAM_GATHER}=false", GIVES_UP), Fix(f"{PARAM_GATHER}=null", "lets the layout decide"))


class DP004(GatherRule):
    """Parameter-gather overlap is on without gradient-reduce overlap."""

    requires = ("DP002", "DP003")
    reads = (PARAM_GATHER, GRAD_REDUCE)
    why = (
        "Without gradient-reduce overlap megatron-core puts all parameters in one bucket, so every gather is exposed; "
        "Megatron-LM asserts."
    )
    records = ("dp-param-gather-requires-grad-reduce", "dp-user-partial-override")
    source = ARGUMENTS + "600-601"
    refused = (
        f"{PARAM_GATHER}=true", f"{GRAD_REDUCE}=false", "parallelism.world_size=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip
    fixes = (Fix(f"{GRAD_REDUCE}=true", KEEPS), Fix(f"{PARAM_GATHER}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GRAD_REDUCE])


class StepRule(Rule):
    """Base: applies while parameters are gathered with the optimizer step."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[STEP_GATHER])


class DP005(StepRule):
    """Parameter gather with the optimizer step is on without the interleaved schedule."""

    reads = (STEP_GATHER, PP, VPP)
    why = (
        "It gathers the first model chunk while the optimizer steps the others; with a single chunk megatron-core "
        "fails while the optimizer is built."
    )
    records = ("dp-opt-step-gather-requires-vpp",)
    source = ARGUMENTS + "635-641"
    refused = (f"{STEP_GATHER}=true", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return interleaved(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(interleave(c), KEEPS + ("" if c[PP] > 1 else " (twice the ranks)"))
        return (keeps, Fix(f"{STEP_GATHER}=false", GIVES_UP))


class DP006(StepRule):
    """Parameter gather with the optimizer step is on without parameter-gather overlap."""

    requires = ("DP005",)
    reads = (STEP_GATHER, PARAM_GATHER)
    why = "It starts the first of the overlapped gathers early; Megatron-LM asserts."
    records = ("dp-opt-step-gather-requires-param-gather", "dp-opt-step-gather-requires-dist-optimizer")
    source = ARGUMENTS + "638-639"
    refused = (f"{STEP_GATHER}=true", f"{PP}=2", f"{VPP}=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true")  # fmt: skip
    fixes = (Fix(f"{PARAM_GATHER}=true", KEEPS), Fix(f"{STEP_GATHER}=false", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[PARAM_GATHER])


class DP007(Rule):
    """align_param_gather is on without the interleaved schedule or parameter-gather overlap."""

    requires = ("DP002", "DP003", "DP004")
    reads = (ALIGN_GATHER, PARAM_GATHER, PP, VPP)
    why = (
        "Aligned gathers are launched by the schedule, ahead of the chunk that needs them. Without chunks all of them "
        "are exposed (20 of 20 instead of 4 of 20), and without the overlap there is nothing to align."
    )
    records = ("dp-align-param-gather-requires-vpp", "dp-align-without-param-gather")
    source = ARGUMENTS + "585-591"
    refused = (f"{ALIGN_GATHER}=true", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[ALIGN_GATHER])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return interleaved(c) and bool(c[PARAM_GATHER])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        gives_up = (Fix(f"{ALIGN_GATHER}=false", GIVES_UP), Fix(f"{ALIGN_GATHER}=null", "lets the layout decide"))
        return (Fix(f"{PARAM_GATHER}=true", KEEPS), *gives_up) if interleaved(c) else gives_up


class DP008(Rule):
    """Parameter-gather overlap in the interleaved schedule is not aligned."""

    requires = ("DP002", "DP003", "DP004")
    reads = (ALIGN_GATHER, PARAM_GATHER, PP, VPP)
    why = (
        "Chunks after the first have one bucket, and nothing starts its gather early: all gathers are exposed (8 of 8, "
        "instead of 0 of 8 when aligned)."
    )
    records = ("dp-align-param-gather-off-with-vpp",)
    source = MCORE + "pipeline_parallel/schedules.py:1176-1188; megatron/training/training.py:2562"
    refused = (
        f"{ALIGN_GATHER}=false", "parallelism.world_size=4", f"{PP}=2", f"{VPP}=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip
    fixes = (Fix(f"{ALIGN_GATHER}=true", KEEPS), Fix(f"{PARAM_GATHER}=false", GIVES_UP))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return interleaved(c) and bool(c[PARAM_GATHER])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[ALIGN_GATHER])


class DP009(Rule):
    """A bucket size is set without gradient-reduce overlap."""

    requires = ("DP001",)
    reads = (BUCKET, GRAD_REDUCE)
    why = (
        "When gradients are not reduced during backward, megatron-core replaces the bucket size with null: one bucket "
        "for everything."
    )
    records = ("dp-bucket-size-without-overlap",)
    source = MCORE + "distributed/distributed_data_parallel.py:66-68"
    refused = (f"{BUCKET}=1000000",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[BUCKET] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GRAD_REDUCE])

    fixes = (Fix(f"{GRAD_REDUCE}=true", "reduces gradients in backward"), Fix(f"{BUCKET}=null", "no buckets"))


class DP010(Rule):
    """ddp or optimizer settings contradict comm_overlap.dp."""

    reads = tuple(key for key in BASES) + tuple(base for bases in BASES.values() for base in bases)
    why = "Two places say different things; Megatron-Bridge silently overwrites the base value."
    records = ("dp-bridge-overwrites-ddp", "dp-param-gather-mismatch-ddp-optimizer")
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:588-592"
    refused = (f"{GRAD_REDUCE}=true", "ddp.overlap_grad_reduce=false", "parallelism.world_size=2")

    @classmethod
    def contradictions(cls, c: Config) -> list[str]:
        """Base keys that are said and differ from the flag that decides."""
        return [base for key, bases in BASES.items() for base in bases if c[base] is not None and c[base] != c[key]]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.contradictions(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return ", ".join(cls.contradictions(c)) + " differs from comm_overlap.dp. " + cls.why

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(" ".join(f"{key}=null" for key in cls.contradictions(c)), "comm_overlap.dp decides"),)


class DP011(Rule):
    """ddp and optimizer disagree about the distributed optimizer."""

    reads = (DDP_DISTRIBUTED, OPTIMIZER_DISTRIBUTED)
    why = "One shards the gradients, the other the optimizer state; megatron-core needs both or neither."
    records = ("dp-derivation-order-trap",)
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/config.py:1950-1962"
    refused = (f"{DDP_DISTRIBUTED}=true",)
    fixes = (
        Fix(f"{DDP_DISTRIBUTED}=true {OPTIMIZER_DISTRIBUTED}=true", "distributed"),
        Fix(f"{DDP_DISTRIBUTED}=false {OPTIMIZER_DISTRIBUTED}=false", "replicated"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DDP_DISTRIBUTED]) == bool(c[OPTIMIZER_DISTRIBUTED])


class DP012(Rule):
    """Several optimizer instances without the distributed optimizer, or in unequal parts."""

    requires = ("PAR001", "PAR002", "DP011")
    reads = (OPTIMIZER_INSTANCES, DDP_DISTRIBUTED, *LAYOUT, EP, ETP)
    why = (
        "Each instance shards the optimizer over an equal part of the data-parallel ranks, and of the experts' "
        "data-parallel ranks."
    )
    records = ("dp-instances-need-dist-optimizer",)
    source = (
        MCORE + "parallel_state.py:832-836, 1263-1265; megatron/core/distributed/distributed_data_parallel.py:226-229"
    )
    refused = (f"{OPTIMIZER_INSTANCES}=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[OPTIMIZER_INSTANCES] > 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DDP_DISTRIBUTED]) and cls._shared(c) % c[OPTIMIZER_INSTANCES] == 0

    @classmethod
    def _shared(cls, c: Config) -> int:
        return gcd(dp_cp_size(c), c[WORLD] // expert_ranks(c))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        fewer = divisor_below(cls._shared(c), c[OPTIMIZER_INSTANCES])
        fixes = (Fix(f"{OPTIMIZER_INSTANCES}=1", "one instance"),)
        return (Fix(f"{OPTIMIZER_INSTANCES}={fewer}", "fewer instances"), *fixes) if fewer > 1 else fixes


class DP013(Rule):
    """The distributed optimizer is on with an optimizer that it does not take.

    From megatron-core 0.18 on, Muon and the other emerging optimizers have a distributed optimizer of their own, which shards
    whole layers.
    """

    reads = (DDP_DISTRIBUTED, OPTIMIZER_DISTRIBUTED, OPTIMIZER, CORE)
    shows = (DDP_DISTRIBUTED, OPTIMIZER_DISTRIBUTED, OPTIMIZER)
    why = "megatron-core asserts while the optimizer is built: checkpoints of the distributed optimizer hold Adam's moments."
    source = MCORE + "optimizer/distrib_optimizer.py:514-520; optimizer/muon.py:192-193"
    refused = (f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true", f"{OPTIMIZER}=sgd")
    fixes = (
        Fix(f"{OPTIMIZER}=adam", "keeps the distributed optimizer"),
        Fix(f"{DDP_DISTRIBUTED}=false {OPTIMIZER_DISTRIBUTED}=false", "keeps the optimizer, replicated on every rank"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DDP_DISTRIBUTED] or c[OPTIMIZER_DISTRIBUTED])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[OPTIMIZER] == "adam" or (c[OPTIMIZER] != "dist_muon" and layer_wise(c))


class DP014(Rule):
    """The bucket size exceeds the model chunk that it cuts."""

    requires = ("PAR004", "PAR017", "DP001", "DP009")
    reads = (BUCKET, GRAD_REDUCE, FSDP, *CHUNK)
    shows = (BUCKET, NUM_LAYERS, HIDDEN, VOCAB, PP, TP)
    why = (
        "One bucket is reduced after the whole backward and gathered before the whole forward, so nothing overlaps. "
        "Megatron-Bridge always takes 134,217,728 parameters. (In the interleaved schedule the model chunks overlap "
        "each other.)"
    )
    records = ("dp-bucket-larger-than-stage",)
    source = MCORE + "distributed/param_and_grad_buffer.py:722-737"
    refused = (
        f"{BUCKET}=1000000", "parallelism.world_size=2", f"{NUM_LAYERS}=2", "model.hidden_size=64", "model.num_attention_heads=4",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[GRAD_REDUCE]) and c[BUCKET] is not None and not c[FSDP] and not interleaved(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        cut = bucketed_parameters(c)
        return not cut or c[BUCKET] <= cut[-1]

    @classmethod
    def why_for(cls, c: Config) -> str:
        cut = (bucketed_parameters(c) or (0,))[-1]
        return f"{c[BUCKET]:,} parameters per bucket, but only {cut:,} to cut beside the embedding. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        quarter = max(1, (bucketed_parameters(c) or (1,))[0] // SMALL_CHUNK_BUCKETS)
        off = " ".join(f"{key}=false" for key in (GRAD_REDUCE, PARAM_GATHER, ALIGN_GATHER))
        return (
            Fix(f"{BUCKET}={quarter}", f"{KEEPS}, in {SMALL_CHUNK_BUCKETS} buckets"),
            Fix(f"{BUCKET}=null", "lets the model decide"),
            Fix(f"{off} {BUCKET}=null", GIVES_UP),
        )


class DP015(StepRule):
    """Parameter gather with the optimizer step is on with MXFP8 or NVFP4."""

    requires = ("DP005",)
    reads = (STEP_GATHER, FP8_RECIPE, FP8, FP4)
    why = (
        "The gradient norm becomes NaN, so Megatron-Bridge's performance scripts keep it off for MXFP8 and NVFP4; "
        "megatron-core does not check."
    )
    records = ("dp-opt-step-gather-precision",)
    source = "Megatron-Bridge v0.6.0 scripts/performance/utils/overrides.py:683-689"
    refused = (
        f"{STEP_GATHER}=true", f"{PP}=2", f"{VPP}=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true", "precision.fp8=e4m3",
        "precision.fp8_recipe=mxfp8",
    )  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP4] is None and (c[FP8] is None or c[FP8_RECIPE] != "mxfp8")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if c[FP4] is not None:
            other = Fix(f"{FP4}=null precision.fp4_param_gather=false", KEEPS + ", trains without FP4")
        else:
            other = Fix(f"{FP8_RECIPE}=tensorwise", KEEPS + ", with another FP8 recipe")
        return (Fix(f"{STEP_GATHER}=false", GIVES_UP), other)


class DP030(Rule):
    """Data-parallel overlap is on with a Muon that takes none in this megatron-core."""

    requires = ("DP001",)
    reads = (OPTIMIZER, GRAD_REDUCE, PARAM_GATHER, CORE)
    why = (
        "Before 0.17 neither muon nor dist_muon takes the overlaps, in 0.17 dist_muon alone does; Megatron-LM asserts. From "
        "0.18 on both do."
    )
    source = (
        ARGUMENTS + "1178-1187; core_v0.17.1 1484-1488; https://github.com/NVIDIA/Megatron-LM/issues/3175; "
        "https://github.com/NVIDIA/Megatron-LM/pull/3524"
    )
    records = ("dp-muon-overlap",)
    refused = (f"{OPTIMIZER}=muon", f"{GRAD_REDUCE}=true", "parallelism.world_size=2", f"{CORE}=0.16.1")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[OPTIMIZER] in MUON and bool(c[GRAD_REDUCE] or c[PARAM_GATHER])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not without_overlap(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        newer = "" if at_least(c[CORE], "0.17.0") else f" {CORE}=0.17.0"
        effect = KEEPS + (", if the run will have that version" if newer else ", whole layers sharded over ranks")
        return (
            Fix(f"{OPTIMIZER}=dist_muon{newer}", effect),
            Fix(f"{GRAD_REDUCE}=false {PARAM_GATHER}=false", GIVES_UP),
        )


class DP031(Rule):
    """Muon or another emerging optimizer is on with what it is not written for."""

    reads = (OPTIMIZER, FSDP, FP16, STEP_GATHER, OPTIMIZER_INSTANCES)
    why = (
        "megatron-core raises with fp16, and asserts with the parameter gather in the optimizer step and with several "
        "optimizer instances; Megatron-LM asserts with Megatron FSDP."
    )
    source = (
        MCORE + "optimizer/muon.py:188-196; core_v0.19.2 megatron/core/optimizer/__init__.py:755-770, 832-845; "
        + ARGUMENTS + "1178-1187"
    )  # fmt: skip
    refused = (f"{OPTIMIZER}=muon", f"{FP16}=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[OPTIMIZER] in EMERGING

    @classmethod
    def changes(cls, c: Config) -> dict[str, Any]:
        """What it is not written for -> what is."""
        found = {key: "false" for key in (FSDP, FP16, STEP_GATHER) if c[key]}
        return found | ({OPTIMIZER_INSTANCES: "1"} if c[OPTIMIZER_INSTANCES] > 1 else {})

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.changes(c)

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return (OPTIMIZER, *cls.changes(c))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        without = " ".join(f"{key}={value}" for key, value in cls.changes(c).items())
        return (Fix(without, "keeps the optimizer"), Fix(f"{OPTIMIZER}=adam", "another optimizer"))


class DP205(Rule):
    """The bucket size is so small that it was probably meant in megabytes.

    torch's DistributedDataParallel takes `bucket_cap_mb`, and its default is 25. Here 25 are 25 parameters.
    """

    severity = "warning"
    requires = ("DP001", "DP009", "DP014")
    reads = (BUCKET, GRAD_REDUCE, FSDP, *CHUNK)
    shows = (BUCKET,)
    why = (
        "Every bucket is a collective call of its own, and below a few MiB the latency of the calls decides, not the "
        "bandwidth."
    )
    source = MCORE + "distributed/param_and_grad_buffer.py:722-737; torch DistributedDataParallel, bucket_cap_mb"
    refused = (f"{BUCKET}=25", "parallelism.world_size=2")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[GRAD_REDUCE]) and c[BUCKET] is not None and not c[FSDP]

    @classmethod
    def holds(cls, c: Config) -> bool:
        buffers = bucketed_parameters(c)
        few = buffers is not None and sum(buffers) <= FEW_BUCKETS * c[BUCKET]
        return c[BUCKET] >= SMALL_BUCKET or few

    @classmethod
    def why_for(cls, c: Config) -> str:
        size = c[BUCKET] * _gradient_bytes(c)
        said = f"{c[BUCKET]:,} parameters are {size:,} bytes of gradients, {size / 2**20:.2g} MiB"
        buffers = bucketed_parameters(c)
        if buffers:
            number = -(-sum(buffers) // c[BUCKET])
            said += f": the {sum(buffers):,} parameters of a model chunk make up to {number:,} buckets (no parameter is cut in two)"
        return f"{said}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        meant = c[BUCKET] * 2**20 // _gradient_bytes(c)
        buffers = bucketed_parameters(c)
        fits = c[BUCKET] <= LARGEST_MIB and (not buffers or meant <= buffers[-1])
        as_mib = (Fix(f"{BUCKET}={meant}", f"{KEEPS}, in buckets of {c[BUCKET]} MiB"),) if fits else ()
        return (*as_mib, Fix(f"{BUCKET}=null", f"{KEEPS}; the layout decides"))


def _gradient_bytes(c: Config) -> int:
    """Bytes of one gradient in its bucket."""
    return 2 if c[BF16] and not c[GRADS_IN_FP32] else 4


RULES: tuple[type[Rule], ...] = (
    DP001, DP002, DP003, DP004, DP005, DP006, DP007, DP008, DP009, DP010, DP011, DP012, DP013, DP014, DP015,
)  # fmt: skip

DEFAULT_BUCKET = 40_000_000  # parameters; megatron-core's floor
BUCKET_PER_RANK = 1_000_000  # parameters per data-parallel rank
SMALL_BUCKET = 1_000_000  # parameters; a few MiB. Below, a bucket was probably not meant in parameters
FEW_BUCKETS = 32  # as many are few enough for a bucket of any size: a small model is cut into small buckets
LARGEST_MIB = 4096  # a bucket size up to this may have been meant in MiB
SMALL_CHUNK_BUCKETS = 4  # buckets for a model chunk that the default would hold in fewer than two


def _bucket(c: Config) -> tuple[int | None, str]:
    """bucket_size in parameters, and why. Formula: distributed_data_parallel.py:64-65."""
    if not c[GRAD_REDUCE]:
        return None, "gradients are not reduced in backward: one bucket"
    if c[FSDP]:
        return None, "Megatron FSDP communicates transformer layers, not buckets"
    ranks = data_parallel_size(c)  # megatron-core counts without context parallelism here
    default = max(DEFAULT_BUCKET, BUCKET_PER_RANK * ranks)
    buffers = bucketed_parameters(c)
    if buffers and buffers[0] < 2 * default:
        small = max(1, buffers[0] // SMALL_CHUNK_BUCKETS)
        smaller = " in its smaller buffer" if len(buffers) > 1 else ""
        return small, (
            f"a quarter of the first model chunk's {buffers[0]:,} parameters{smaller}: megatron-core's default of {default:,} "
            "would leave fewer than two buckets, and one bucket overlaps nothing"
        )
    return default, f"max({DEFAULT_BUCKET:,}, {BUCKET_PER_RANK:,} x {ranks} data-parallel ranks) parameters"


def _first_chunk_only(c: Config) -> str:
    """megatron-core's reason: elsewhere the communication is not on the critical path (distributed_data_parallel.py:94)."""
    cuts = c[BUCKET] is not None and c[GRAD_REDUCE] and not c[FSDP] and c[PP] > 1
    return "cuts only the first chunk of the first pipeline stage; every other chunk is one bucket" if cuts else ""


def _too_early(c: Config) -> str:
    """Why a reduction in backward would miss gradients; empty if it does not."""
    if without_overlap(c):
        return f"{c[OPTIMIZER]} takes no overlap in megatron-core {c[CORE]} (DP030)"
    if c[DEFER]:
        return "the output layer's deferred weight gradient would miss its reduction (PP008)"
    if c[OPTIMIZER_INSTANCES] > 1 and not c[FSDP] and ADV001.affected.covers(c[ADV001.affected.component]):
        return f"several optimizer instances reduce unfinished gradients with {ADV001.affected} (ADV001)"
    return ""


def _no_gather(c: Config) -> str:
    """Why parameters are not gathered in forward; empty if they are."""
    if not c[DDP_DISTRIBUTED]:
        return "there is no distributed optimizer"
    if not c[GRAD_REDUCE]:
        return "gradients are not reduced in backward (DP004)"
    if sharing_ranks(c) < 2:
        return "every rank holds the optimizer state of all parameters (DP003)"
    return "Megatron FSDP shards nothing (DP023)" if c[FSDP] and c[FSDP_SHARDING] == "no_shard" else ""


def _ranks(c: Config) -> str:
    return f"data x context parallel size {dp_cp_size(c)}"


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="DP101",
        key=GRAD_REDUCE,
        value=lambda c: dp_cp_size(c) > 1 and not _too_early(c),
        reason=lambda c: _too_early(c) or _ranks(c),
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:575-580; data x context ranks are ours",
        records=("dp-derivation-bridge", "dp-size-excludes-cp", "dp-fsdp-forces-overlap"),
    ),
    Derivation(
        id="DP102",
        key=PARAM_GATHER,
        value=lambda c: not _no_gather(c),
        reason=lambda c: _no_gather(c) or "distributed optimizer, " + _ranks(c),
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:575-580",
        records=("dp-fsdp-forces-overlap",),
    ),
    Derivation(
        id="DP103",
        key=STEP_GATHER,
        value=lambda c: False,
        reason="not compatible with distributed checkpoints",
        source=ARGUMENTS + "642-643",
        records=("dp-opt-step-gather-dist-ckpt",),
    ),
    Derivation(
        id="DP104",
        key=ALIGN_GATHER,
        value=lambda c: interleaved(c) and bool(c[PARAM_GATHER]),
        reason=lambda c: (
            "parameters are not gathered in forward"
            if not c[PARAM_GATHER]
            else "the interleaved schedule launches the gathers"
            if interleaved(c)
            else "not interleaved (DP007)"
        ),
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:580-583",
    ),
    Derivation(
        id="DP105",
        key=BUCKET,
        value=lambda c: _bucket(c)[0],
        reason=lambda c: _bucket(c)[1],
        source=MCORE + "distributed/distributed_data_parallel.py:64-68",
        records=("dp-bucket-size-default", "dp-bucket-size-unit", "dp-bucketing-first-stage-only"),
        limit=_first_chunk_only,
    ),
)
