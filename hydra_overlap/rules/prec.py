"""PREC: number formats that megatron-core refuses or that an overlap depends on."""

from ..findings import Fix
from ..schema.keys import (
    BF16_AT_END,
    BF16_AT_START,
    DDP_DISTRIBUTED,
    DDP_REUSE,
    FIRST_LAST_BF16,
    FP4,
    FP4_PARAM_GATHER,
    FP4_RECIPE,
    FP8,
    FP8_PARAM_GATHER,
    FP8_RECIPE,
    FSDP,
    GPU,
    NUM_LAYERS,
    OPTIMIZER_REUSE,
    PP,
    SM,
    TE,
)
from ..schema.versions import at_least
from ._base import BLACKWELL, Config, Rule

CONFIG = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_config.py:"
SHARDED = ("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
NEVER = 10_000  # a compute capability x 10 that no GPU reaches
# FP8 recipe -> the compute capabilities x 10 on which Transformer Engine runs it, from and below; a platform that has one.
GPUS = {
    "delayed": (89, NEVER, "h100"), "tensorwise": (89, NEVER, "h100"), "blockwise": (90, NEVER, "h100"),
    "mxfp8": (100, 120, "b200"),
}  # fmt: skip
OFF = Fix(f"{FP8}=null {FP8_RECIPE}=null {FP8_PARAM_GATHER}=false", "trains without FP8")

NO_FP4 = Fix(f"{FP4}=null {FP4_RECIPE}=null {FP4_PARAM_GATHER}=false", "trains without FP4")


class PREC001(Rule):
    """First and last layers in bf16 with delayed FP8 scaling."""

    reads = (FP8, FP8_RECIPE, FIRST_LAST_BF16)
    why = (
        "Delayed scaling reduces its history over all layers alike, so megatron-core raises. It is the recipe if none "
        "is named."
    )
    source = CONFIG + "987-990"
    records = ("precision-fp8-first-last-layers",)
    refused = (f"{FP8}=hybrid", f"{FIRST_LAST_BF16}=true")
    fixes = (
        Fix(f"{FP8_RECIPE}=tensorwise", "keeps those layers in bf16"),
        Fix(f"{FIRST_LAST_BF16}=false", "all layers in FP8"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP8] is not None and bool(c[FIRST_LAST_BF16])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP8_RECIPE] not in (None, "delayed")


class PREC002(Rule):
    """The number of bf16 layers is negative or exceeds a pipeline stage."""

    requires = ("PAR004", "PREC001")
    reads = (FP8, FIRST_LAST_BF16, BF16_AT_START, BF16_AT_END, NUM_LAYERS, PP)
    why = "These layers belong to the first and to the last pipeline stage."
    source = CONFIG + "992-1017"
    refused = (
        f"{FP8}=hybrid",
        f"{FP8_RECIPE}=tensorwise",
        f"{FIRST_LAST_BF16}=true",
        f"{BF16_AT_START}=3",
        f"{NUM_LAYERS}=2",
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP8] is not None and bool(c[FIRST_LAST_BF16]) and c[NUM_LAYERS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        counts = (c[BF16_AT_START], c[BF16_AT_END])
        return min(counts) >= 0 and max(counts) <= c[NUM_LAYERS] // c[PP]

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"{c[NUM_LAYERS] // c[PP]} layers per stage, {c[BF16_AT_START]} at the start and {c[BF16_AT_END]} at the end in bf16. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        most = c[NUM_LAYERS] // c[PP]
        fitting = " ".join(f"{key}={min(max(c[key], 0), most)}" for key in (BF16_AT_START, BF16_AT_END))
        return (Fix(fitting, "as many as fit"), Fix(f"{FIRST_LAST_BF16}=false", "all layers in FP8"))


class PREC003(Rule):
    """MXFP8 parameters are gathered without reusing the gradient buffer.

    What upstream does: Megatron-Bridge v0.4.2 asserts it, v0.6.0 does not; megatron-core 0.16.1 only warns of the memory.
    We follow the assertion: MXFP8 parameters have no flat storage that a gather could write into.
    """

    requires = ("PAR015",)
    reads = (FP8_PARAM_GATHER, FP8, FP8_RECIPE, DDP_REUSE, OPTIMIZER_REUSE, FSDP)
    why = (
        "MXFP8 parameters are gathered in bf16 through a buffer that they share with the gradients, and cast to MXFP8 "
        "afterwards."
    )
    source = (
        "Megatron-Bridge v0.4.2 src/megatron/bridge/training/mixed_precision.py:107-112; megatron-core core_v0.16.1 "
        "megatron/core/distributed/param_and_grad_buffer.py:774-780, 818-828; optimizer/optimizer_config.py:364-373"
    )
    records = ("precision-mxfp8-param-gather-reuse",)
    refused = (f"{FP8}=hybrid", f"{FP8_RECIPE}=mxfp8", f"{FP8_PARAM_GATHER}=true", *SHARDED)
    fixes = (
        Fix(f"{DDP_REUSE}=true {OPTIMIZER_REUSE}=true", "gathers through the gradient buffer"),
        Fix(f"{FP8_PARAM_GATHER}=false {DDP_REUSE}=false {OPTIMIZER_REUSE}=false", "keeps parameters in bf16"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        mxfp8 = c[FP8] is not None and c[FP8_RECIPE] == "mxfp8"
        return bool(c[FP8_PARAM_GATHER]) and mxfp8 and not c[FSDP]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return all((c[DDP_REUSE], c[OPTIMIZER_REUSE]))


class PREC004(Rule):
    """Gradient buffer reuse for MXFP8 is on, but no MXFP8 parameters are gathered."""

    requires = ("PREC003",)
    reads = (FP8_PARAM_GATHER, FP8, FP8_RECIPE, DDP_REUSE, OPTIMIZER_REUSE)
    why = "megatron-core asserts fp8_param_gather; with another recipe the parameters have a buffer of their own."
    source = "megatron-core core_v0.16.1 megatron/core/distributed/distributed_data_parallel_config.py:153-154"
    records = ("precision-reuse-grad-buf-needs-param-gather",)
    refused = (f"{DDP_REUSE}=true",)
    fixes = (Fix(f"{DDP_REUSE}=false {OPTIMIZER_REUSE}=false", "gathers parameters through their own buffer"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DDP_REUSE] or c[OPTIMIZER_REUSE])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[FP8_PARAM_GATHER]) and c[FP8] is not None and c[FP8_RECIPE] == "mxfp8"


class PREC005(Rule):
    """Gradient buffer reuse for MXFP8 is on under Megatron FSDP.

    What upstream does: Megatron-Bridge v0.4.2 switches the setting off under Megatron FSDP and says so; Megatron-LM
    core_v0.16.1 switches it off silently, and only with fsdp_manual_registration.
    """

    reads = (FSDP, DDP_REUSE, OPTIMIZER_REUSE)
    why = (
        "FSDP shards parameters and gradients in buffers of its own; Megatron-LM and Megatron-Bridge switch the "
        "setting off."
    )
    source = (
        "Megatron-Bridge v0.4.2 src/megatron/bridge/training/config.py:1134; Megatron-LM core_v0.16.1 "
        "megatron/training/arguments.py:693-698"
    )
    records = ("precision-reuse-grad-buf-fsdp",)
    refused = (f"{FSDP}=true", f"{DDP_REUSE}=true")
    fixes = (Fix(f"{DDP_REUSE}=false {OPTIMIZER_REUSE}=false", "what Megatron FSDP does anyway"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FSDP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not (c[DDP_REUSE] or c[OPTIMIZER_REUSE])


def runs(recipe: str, c: Config) -> bool:
    """Whether the GPU of the plan, with its Transformer Engine, runs an FP8 recipe."""
    first, behind, _ = GPUS[recipe]
    hopper_only = c[TE] is not None and not at_least(c[TE], "2.9.0") and recipe == "blockwise"
    return first <= c[SM] < (BLACKWELL if hopper_only else behind)


class PREC006(Rule):
    """The GPU cannot run the FP8 recipe.

    What upstream does: Transformer Engine raises where the first FP8 region begins. It emulates blockwise scaling on
    Blackwell from 2.9 on (PREC201), refuses it there in 2.8, and does not run MXFP8 on compute capability 12. Blockwise
    scaling also needs CUDA 12.9, which `software` does not record.

    When it applies: to plans for a GPU. A rehearsal trains in 16 bits.
    """

    reads = (SM, FP8, FP8_RECIPE, TE)
    shows = (SM, FP8, FP8_RECIPE)
    why = "Transformer Engine raises in the first forward."
    source = (
        "Transformer Engine v2.8 transformer_engine/pytorch/fp8.py:35-85; v2.9 to v2.20 pytorch/quantization.py "
        "(v2.11:48-101)"
    )
    refused = (f"{FP8}=hybrid", f"{FP8_RECIPE}=mxfp8", f"{SM}=90")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP8] is not None and c[SM] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return runs(c[FP8_RECIPE] or "delayed", c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        recipe = c[FP8_RECIPE] or "delayed"
        first, behind, _ = GPUS[recipe]
        needs = f"compute capability {first / 10:.1f} or more" + (
            f", below {behind / 10:.1f}" if behind < NEVER else ""
        )
        if c[SM] >= BLACKWELL and recipe == "blockwise":
            needs = "Hopper before Transformer Engine 2.9"
        return f"{recipe} scaling needs {needs}; this GPU has {c[SM] / 10:.1f}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        others = [recipe for recipe in ("mxfp8", "tensorwise") if recipe != c[FP8_RECIPE] and runs(recipe, c)]
        recipes = [Fix(f"{FP8_RECIPE}={recipe}", "keeps FP8, on this GPU") for recipe in others[:1]]
        platform = GPUS[c[FP8_RECIPE] or "delayed"][2]
        elsewhere = Fix(f"platform={platform}", "keeps the recipe (plans for that GPU)")
        return (*recipes, elsewhere, OFF)


class PREC007(Rule):
    """FP4 and FP8 GEMMs are asked for at once."""

    reads = (FP4, FP8)
    why = "A GEMM runs in one format; megatron-core raises while its configuration is built."
    source = CONFIG + "1034-1035"
    refused = (f"{FP4}=e2m1", f"{FP8}=e4m3")
    fixes = (NO_FP4, OFF)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP4] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP8] is None


class PREC008(Rule):
    """fp4_param_gather is on without FP4 or without the distributed optimizer."""

    reads = (FP4_PARAM_GATHER, FP4, DDP_DISTRIBUTED)
    why = "Parameters can be gathered in FP4 only if they are FP4, and only the distributed optimizer gathers them."
    source = CONFIG + "1031-1032; core_v0.17.1 megatron/core/distributed/param_and_grad_buffer.py:1083-1093"
    refused = (f"{FP4_PARAM_GATHER}=true",)
    fixes = (
        Fix(f"{FP4}=e2m1 " + " ".join(SHARDED), "trains in FP4 with the distributed optimizer"),
        Fix(f"{FP4_PARAM_GATHER}=false", "gathers parameters in 16 bits"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FP4_PARAM_GATHER])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP4] is not None and bool(c[DDP_DISTRIBUTED])


class PREC009(Rule):
    """The GPU or its Transformer Engine cannot run NVFP4.

    What upstream does: Megatron-LM raises if Transformer Engine is older than 2.7, and Transformer Engine below compute
    capability 10.0, where the first FP4 region begins. Without Transformer Engine megatron-core silently trains in 16 bits.

    When it applies: to plans for a GPU. A rehearsal trains in 16 bits.
    """

    reads = (SM, FP4, TE)
    why = "NVFP4 GEMMs are Transformer Engine's, and need Blackwell's tensor cores."
    source = (
        "Transformer Engine v2.9 transformer_engine/pytorch/quantization.py:71-75; megatron-core core_v0.16.1 megatron/core/"
        "fp4_utils.py:94-171; megatron/training/arguments.py:667-669"
    )
    refused = (f"{FP4}=e2m1", f"{SM}=100")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP4] is not None and c[SM] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[SM] >= BLACKWELL) and at_least(c[TE], "2.7.0")

    @classmethod
    def why_for(cls, c: Config) -> str:
        gpu = (
            f"This GPU has compute capability {c[SM] / 10:.1f}; NVFP4 needs 10.0 or more. " if c[SM] < BLACKWELL else ""
        )
        engine = f"{c[TE]} is planned" if c[TE] else "none is planned"
        return gpu + ("" if at_least(c[TE], "2.7.0") else f"Transformer Engine 2.7 is needed, and {engine}. ") + cls.why

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        changes = [] if c[SM] >= BLACKWELL else ["platform=b200"]
        changes += [] if at_least(c[TE], "2.7.0") else [f"{TE}=2.11.0"]
        return (Fix(" ".join(changes), "keeps FP4 (plans for what has it)"), NO_FP4)


class PREC010(Rule):
    """FP8 GEMMs on a GPU without Transformer Engine.

    When it applies: to plans for a GPU. A rehearsal trains in 16 bits, and says so.
    """

    reads = (FP8, GPU, TE)
    why = "megatron-core's own layers have no FP8: its FP8 context is empty without Transformer Engine, and bf16 runs without a word."
    source = "megatron-core core_v0.16.1 megatron/core/fp8_utils.py:596-668"
    refused = (f"{FP8}=hybrid", f"{GPU}=h100")
    fixes = (Fix(f"{TE}=2.11.0", "keeps FP8, if the run will have that version"), OFF)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP8] is not None and c[GPU] not in (None, "cpu")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class PREC201(Rule):
    """Blockwise FP8 scaling is emulated with MXFP8 on Blackwell and newer."""

    severity = "note"
    requires = ("PREC006",)
    reads = (SM, FP8, FP8_RECIPE)
    why = (
        "Every GEMM converts its operands, and scales are powers of two. This is slower than MXFP8 itself, and the "
        "numbers differ from Hopper's."
    )
    source = (
        "Transformer Engine v2.11 transformer_engine/pytorch/csrc/extensions/gemm.cpp:247-256; "
        "common/transpose/quantize_transpose_square_blockwise.cu:490"
    )
    refused = (f"{FP8}=e4m3", f"{FP8_RECIPE}=blockwise", f"{SM}=100")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FP8] is not None and c[SM] is not None and c[SM] >= BLACKWELL

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP8_RECIPE] != "blockwise"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        recipe = "mxfp8" if runs("mxfp8", c) else "tensorwise"
        return (Fix(f"{FP8_RECIPE}={recipe}", "runs as it is on this GPU"),)


RULES: tuple[type[Rule], ...] = (
    PREC001,
    PREC002,
    PREC003,
    PREC004,
    PREC005,
    PREC006,
    PREC007,
    PREC008,
    PREC009,
    PREC010,
    PREC201,
)
