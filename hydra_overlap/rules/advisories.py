"""ADV: defects of released versions, each with its public thread. Applied like `pip audit`, to the versions of the plan.

An advisory is a rule that never holds: it applies to the versions it names and to the requests that meet the defect.
It warns. It refuses (severity error) where the run would continue and train something other than was asked, and is a note
where the report was not confirmed.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..findings import Fix
from ..schema.keys import (
    BATCH_P2P,
    CORE,
    DDP_REUSE,
    DEALLOCATE,
    DOUBLE_BUFFER,
    EP,
    EP_OVERLAP,
    EVAL_INTERVAL,
    FP4,
    FP4_PARAM_GATHER,
    FP8,
    FP8_PARAM_GATHER,
    FP8_RECIPE,
    FSDP,
    FSDP_SHARDING,
    GAF,
    GRAD_REDUCE,
    LOCAL_REGISTRATION,
    MTP,
    NCCL_UB,
    OPTIMIZER_INSTANCES,
    OPTIMIZER_REUSE,
    P2P,
    PARAM_GATHER,
    PP,
    RECOMPUTE,
    SAVE,
    TE,
    VARIABLE_LENGTHS,
    WORLD,
)
from ..schema.versions import at_least
from ._base import GIVES_UP, KEEPS, Config, Rule

SHARDED = (
    f"{FSDP}=true", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
    "parallelism.world_size=2",
)  # fmt: skip
LARGE_RUN = 128  # ranks; the report is of "large runs", and one of a few nodes is none
LM = "https://github.com/NVIDIA/Megatron-LM/"
NAMES = {CORE: "megatron-core", TE: "Transformer Engine"}


@dataclass(frozen=True)
class Affected:
    """Versions of one component: from `since` (None = the first) up to `until`, excluded (None = not fixed yet)."""

    component: str
    """Key of software.*."""
    since: str | None = None
    until: str | None = None

    def covers(self, installed: str | None) -> bool:
        """Whether the defect is in this version; what is not installed has none."""
        if installed is None or (self.since is not None and not at_least(installed, self.since)):
            return False
        return self.until is None or not at_least(installed, self.until)

    def __str__(self) -> str:
        bounds = (f" from {self.since}" if self.since else "") + (f" before {self.until}" if self.until else "")
        return NAMES[self.component] + (bounds or ", all versions so far")

    def upgrade(self) -> tuple[Fix, ...]:
        """The override that plans for the version that mends it."""
        effect = KEEPS + ", if the run will have that version"
        return (Fix(f"{self.component}={self.until}", effect),) if self.until else ()


class Advisory(Rule):
    """Base of all advisories. `why` says the mechanism; effect and versions are put before it, the thread after source."""

    severity = "warning"
    affected: ClassVar[Affected]
    effect: ClassVar[str] = ""
    """What the user sees: a hang, NaN, wrong gradients, out of memory."""
    thread: ClassVar[str] = ""
    """Public report or repair."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Complete the declaration, so that pages and messages need not know advisories."""
        super().__init_subclass__(**arguments)
        cls.why = f"{cls.effect} with {cls.affected}. {cls.why}"
        cls.source = f"{cls.thread}; {cls.source}"

    @classmethod
    def meets(cls, c: Config) -> bool:
        """Whether this request runs into the defect, the versions aside."""
        raise NotImplementedError

    @classmethod
    def applies(cls, c: Config) -> bool:
        return cls.meets(c) and cls.affected.covers(c[cls.affected.component])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return False


class ADV001(Advisory):
    """Gradient-reduce overlap with several optimizer instances reduces unfinished gradients."""

    severity = "error"
    requires = ("DP001", "DP012")
    reads = (GRAD_REDUCE, OPTIMIZER_INSTANCES, FSDP, CORE)
    shows = (GRAD_REDUCE, OPTIMIZER_INSTANCES, CORE)
    affected = Affected(CORE, since="0.14.0", until="0.17.0")
    effect = "Silently wrong gradients"
    why = (
        "Backward hooks run on the stream on which the model was wrapped, but the reduce-scatter waits for another "
        "one; only several instances reduce on a stream of their own."
    )
    thread = LM + "issues/3670"
    source = "megatron-core core_v0.17.1 param_and_grad_buffer.py:587, mended by pull 3693"
    refused = (
        "parallelism.world_size=4", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
        f"{OPTIMIZER_INSTANCES}=2", f"{CORE}=0.16.1", f"{GRAD_REDUCE}=true",
    )  # fmt: skip
    fixes = (
        Fix(f"{OPTIMIZER_INSTANCES}=1", KEEPS + ", with one instance"),
        *affected.upgrade(),
        Fix(f"{GRAD_REDUCE}=false", GIVES_UP),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        """Plain DDP alone: Megatron FSDP's stream waits for the current one (megatron_fsdp/param_and_grad_buffer.py:3209)."""
        return bool(c[GRAD_REDUCE]) and c[OPTIMIZER_INSTANCES] > 1 and not c[FSDP]


class ADV002(Advisory):
    """Overlapped p2p still sends pipeline outputs that are deallocated."""

    requires = ("PP001",)
    reads = (P2P, DEALLOCATE, CORE)
    affected = Affected(CORE, until="0.18.0")
    effect = "Wrong activations on the next stage, seen once: NaN on 405B with PP 16, VPP 8 in deterministic mode"
    why = (
        "The send copies asynchronously, and its buffer is freed before the copy has finished. Megatron-LM always "
        "frees."
    )
    thread = LM + "pull/4047"
    source = "megatron-core core_v0.18.0 schedules.py:1592-1596"
    refused = (
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        f"{DEALLOCATE}=true", f"{CORE}=0.16.1",
    )  # fmt: skip
    fixes = (Fix(f"{DEALLOCATE}=false", KEEPS + ", and holds the outputs in memory"), *affected.upgrade())

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[P2P]) and bool(c[DEALLOCATE])


class ADV003(Advisory):
    """MXFP8 parameters use the gradient buffer without both data-parallel overlaps."""

    reads = (DDP_REUSE, FP8_PARAM_GATHER, GRAD_REDUCE, PARAM_GATHER, CORE)
    affected = Affected(CORE, until="0.18.0")
    effect = "NaN loss"
    why = "Without the overlaps the shared buffer is read before it holds the gathered parameters."
    thread = LM + "issues/2272"
    source = "megatron-core core_v0.18.0 optimizer.py, mended by pull 4800"
    refused = (
        f"{DDP_REUSE}=true", f"{OPTIMIZER_REUSE}=true", f"{FP8_PARAM_GATHER}=true", "precision.fp8=hybrid",
        "precision.fp8_recipe=mxfp8", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
        f"{CORE}=0.16.1",
    )  # fmt: skip
    fixes = (
        Fix(f"{GRAD_REDUCE}=true {PARAM_GATHER}=true", "both overlaps"),
        Fix(f"{DDP_REUSE}=false {OPTIMIZER_REUSE}=false", "gives parameters a buffer of their own, which costs memory"),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[DDP_REUSE] and c[FP8_PARAM_GATHER]) and not all((c[GRAD_REDUCE], c[PARAM_GATHER]))


class ADV004(Advisory):
    """Full recomputation of a multi-token-prediction layer in FP8 drops gradients."""

    reads = (MTP, RECOMPUTE, FP8, CORE)
    affected = Affected(CORE, until="0.18.0")
    effect = "Silently wrong gradients in the MTP layer"
    why = (
        "The layer's inputs reach Transformer Engine's checkpoint as keyword arguments, which are not tracked. The "
        "hooks of their parameters may never fire, and gradient-reduce overlap waits for them."
    )
    thread = LM + "pull/4593"
    source = "megatron-core core_v0.18.0 multi_token_prediction.py:1114-1204"
    refused = (
        "model.mtp_num_layers=1", "model.recompute_granularity=full", "model.recompute_method=uniform",
        "model.recompute_num_layers=1", "precision.fp8=hybrid", f"{CORE}=0.16.1",
    )  # fmt: skip
    fixes = (
        *affected.upgrade(),
        Fix(
            "model.recompute_granularity=null model.recompute_method=null model.recompute_num_layers=null",
            "keeps all activations",
        ),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        full = c[RECOMPUTE] == "full"
        return bool(c[MTP]) and full and c[FP8] is not None


class ADV005(Advisory):
    """Expert-parallel overlap holds the activations of two microbatches longer than necessary."""

    requires = ("EP001",)
    reads = (EP_OVERLAP, EP, CORE)
    affected = Affected(CORE, until="0.16.0")
    effect = "Higher peak memory, out of memory in the worst case,"
    why = (
        "Schedule nodes keep references to the activations; later versions drop them layer by layer, and sooner with "
        "ep_overlap_early_attn_memory_release."
    )
    thread = LM + "pull/2236"
    source = "megatron-core core_v0.16.1 megatron/core/models/common/model_chunk_schedule_plan.py"
    refused = (
        f"{EP_OVERLAP}=true", "model.num_moe_experts=4", f"{EP}=2", "model.moe_token_dispatcher_type=alltoall",
        "precision.bf16=true", "software.torch=2.11.0", f"{CORE}=0.15.3",
    )  # fmt: skip
    fixes = (*affected.upgrade(), Fix(f"{EP_OVERLAP}=false", GIVES_UP))

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[EP_OVERLAP]) and c[EP] > 1


class ADV006(Advisory):
    """Batched p2p of variable-length microbatches can deadlock while it exchanges shapes."""

    requires = ("PAR001",)
    reads = (VARIABLE_LENGTHS, BATCH_P2P, PP, CORE)
    affected = Affected(CORE)
    effect = "Hang in the first step"
    why = "Reported with four and more stages: every rank sends and receives in the same order, whatever its position."
    thread = LM + "issues/5100"
    source = "megatron-core core_v0.16.1 megatron/core/pipeline_parallel/p2p_communication.py:20-77"
    refused = ("model.variable_seq_lengths=true", f"{PP}=4", f"{CORE}=0.16.1")
    fixes = (Fix(f"{BATCH_P2P}=false", "unbatched sends and receives, ordered by position"),)

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[VARIABLE_LENGTHS]) and bool(c[BATCH_P2P]) and c[PP] >= 4


class ADV007(Advisory):
    """Megatron FSDP reduces gradients in an order that may differ between ranks."""

    reads = (FSDP, FSDP_SHARDING, CORE)
    affected = Affected(CORE, until="0.16.0")
    effect = "Rare hangs for some models"
    why = "The gradients to reduce are kept in a set, so buckets of different sizes can meet in one collective."
    thread = LM + "pull/2218"
    source = "megatron-core core_v0.16.0 megatron/core/distributed/fsdp/src/megatron_fsdp/param_and_grad_buffer.py"
    refused = (*SHARDED, f"{FSDP_SHARDING}=optim_grads_params", f"{CORE}=0.15.3")
    fixes = affected.upgrade()

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[FSDP]) and c[FSDP_SHARDING] != "no_shard"


class ADV008(Advisory):
    """Megatron FSDP's double buffers race with weight gradients."""

    reads = (FSDP, DOUBLE_BUFFER, GAF, CORE)
    affected = Affected(CORE, until="0.19.0")
    effect = "Wrong gradients"
    why = "Fused accumulation takes a gradient buffer without waiting until one of the two is free."
    thread = LM + "pull/5222"
    source = "megatron-core core_v0.19.0 param_and_grad_buffer.py"
    refused = (*SHARDED, f"{DOUBLE_BUFFER}=true", f"{GAF}=true", f"{CORE}=0.16.1")
    fixes = (
        *affected.upgrade(),
        Fix(f"{DOUBLE_BUFFER}=false", "allocates buffers as they are needed"),
        Fix(f"{GAF}=false", "keeps the double buffers"),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[FSDP] and c[DOUBLE_BUFFER] and c[GAF])


def _requantized(c: Config) -> bool:
    """Whether gathered parameters need work after the gather: to be cast, or to get their second copy of the data."""
    mxfp8 = c[FP8_RECIPE] == "mxfp8" and bool(c[DDP_REUSE])
    fp8 = c[FP8] is not None and bool(c[FP8_PARAM_GATHER]) and (mxfp8 or c[FP8_RECIPE] == "blockwise")
    return fp8 or bool(c[FP4] is not None and c[FP4_PARAM_GATHER])


UNQUANTIZED = f"{FP8_PARAM_GATHER}=false {FP4_PARAM_GATHER}=false {DDP_REUSE}=false {OPTIMIZER_REUSE}=false"


class ADV009(Advisory):
    """Quantized parameters are gathered outside forward, for validation or a checkpoint.

    When it applies: to MXFP8 parameters that use the gradient buffer, to blockwise FP8 and to NVFP4. Delayed and tensorwise
    scaling keep one copy of the data, and nothing is left to do after its gather. train.py gathers this way too, before it
    validates and saves, so it is refused there as well.
    """

    severity = "error"
    requires = ("DP002", "DP003", "PREC003", "PREC004", "PREC008")
    reads = (
        PARAM_GATHER, FP8, FP8_RECIPE, FP8_PARAM_GATHER, DDP_REUSE, FP4, FP4_PARAM_GATHER, EVAL_INTERVAL, SAVE, FSDP, CORE,
    )  # fmt: skip
    affected = Affected(CORE, until="0.18.0")
    effect = "Silently wrong weights: training goes on with old ones"
    why = (
        "With the overlap the gather's last step is part of the forward hooks, which are off then: MXFP8 weights are not cast "
        "from the gathered buffer, which stays full of parameters where gradients are added next, and the columnwise copies "
        "of blockwise FP8 and NVFP4 weights are not made anew."
    )
    thread = LM + "pull/4562"
    source = (
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/3801; megatron-core core_v0.16.1 megatron/core/distributed/"
        "distributed_data_parallel.py:482-511; megatron/core/distributed/param_and_grad_buffer.py:250-303"
    )
    refused = (
        "precision.fp8=e4m3", f"{FP8_RECIPE}=blockwise", f"{FP8_PARAM_GATHER}=true", "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true", "parallelism.world_size=2", f"{EVAL_INTERVAL}=10", f"{CORE}=0.16.1",
    )  # fmt: skip
    fixes = (
        Fix(UNQUANTIZED, KEEPS + ", parameters in 16 bits"),
        *affected.upgrade(),
        Fix(f"{EVAL_INTERVAL}=null {SAVE}=null", KEEPS + ", no validation and no checkpoints"),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        outside = c[EVAL_INTERVAL] is not None or c[SAVE] is not None
        return bool(c[PARAM_GATHER]) and outside and not c[FSDP] and _requantized(c)


class ADV010(Advisory):
    """MXFP8 parameters that use the gradient buffer are gathered before a checkpoint."""

    severity = "error"
    requires = ("DP002", "DP003", "PREC003", "PREC004")
    reads = (PARAM_GATHER, FP8, FP8_RECIPE, FP8_PARAM_GATHER, DDP_REUSE, SAVE, FSDP, CORE)
    affected = Affected(CORE, since="0.18.0", until="0.19.0")
    effect = "Silently wrong weights: old parameters or zeros are gathered over the model"
    why = (
        "The buffer holds parameters only while they are gathered; saving gathers it again without putting them back. "
        "Validation of Megatron-LM puts them back."
    )
    thread = LM + "pull/5236"
    source = "core_v0.18.2 megatron/training/training.py; mended in core_v0.19.0 by prepare_model_params_for_param_sync"
    refused = (
        "precision.fp8=e4m3", f"{FP8_RECIPE}=mxfp8", f"{FP8_PARAM_GATHER}=true", f"{DDP_REUSE}=true", f"{OPTIMIZER_REUSE}=true",
        "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true", "parallelism.world_size=2",
        f"{SAVE}=checkpoints", f"{CORE}=0.18.2",
    )  # fmt: skip
    fixes = (
        *affected.upgrade(),
        Fix(UNQUANTIZED, KEEPS + ", parameters in 16 bits"),
        Fix(f"{SAVE}=null", KEEPS + ", no checkpoints"),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        mxfp8 = c[FP8] is not None and c[FP8_RECIPE] == "mxfp8" and bool(c[FP8_PARAM_GATHER] and c[DDP_REUSE])
        return bool(c[PARAM_GATHER]) and mxfp8 and c[SAVE] is not None and not c[FSDP]


class ADV011(Advisory):
    """Hybrid-sharded Megatron FSDP registers its buffers symmetrically with two groups."""

    requires = ("DP022", "DP026")
    reads = (FSDP, NCCL_UB, LOCAL_REGISTRATION, OPTIMIZER_INSTANCES, CORE)
    affected = Affected(CORE)
    effect = "Hang while buffers are registered"
    why = (
        "With several optimizer instances the inner and the outer group register the same buffers as symmetric windows."
    )
    thread = LM + "pull/3565"
    source = (
        "open; megatron-core core_v0.16.1 megatron/core/distributed/fsdp/src/megatron_fsdp/param_and_grad_buffer.py"
    )
    refused = (
        f"{FSDP}=true", "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true", "parallelism.world_size=4", f"{OPTIMIZER_INSTANCES}=2", f"{NCCL_UB}=true",
        f"{DOUBLE_BUFFER}=true", f"{CORE}=0.19.0",
    )  # fmt: skip
    fixes = (
        Fix(f"{LOCAL_REGISTRATION}=true", KEEPS + ", buffers registered locally"),
        Fix(f"{OPTIMIZER_INSTANCES}=1", KEEPS + ", one instance"),
    )

    @classmethod
    def meets(cls, c: Config) -> bool:
        symmetric = bool(c[NCCL_UB]) and not c[LOCAL_REGISTRATION]
        return bool(c[FSDP]) and symmetric and c[OPTIMIZER_INSTANCES] > 1


class ADV012(Advisory):
    """Expert-parallel overlap over many ranks can start its all-to-alls in different orders."""

    requires = ("EP001", "EP002", "EP005", "PAR001")
    reads = (EP_OVERLAP, EP, WORLD, CORE)
    affected = Affected(CORE)
    effect = "Hang early in training, reported from large runs,"
    why = (
        "One event gates all nodes of a model chunk on both streams, so two collectives may be ready at once, and nothing says "
        "which goes first. The report is open, and the code the same in 0.15.3 to 0.19.2; most runs do not hang."
    )
    thread = LM + "issues/1810"
    source = "megatron-core core_v0.16.1 megatron/core/models/common/model_chunk_schedule_plan.py; megatron/core/pipeline_parallel/utils.py"
    refused = (
        f"{EP_OVERLAP}=true", "model.num_moe_experts=64", f"{EP}=64", "model.moe_token_dispatcher_type=alltoall",
        "precision.bf16=true", "software.torch=2.11.0", f"{CORE}=0.16.1", f"{WORLD}=256",
    )  # fmt: skip
    fixes = (Fix(f"{EP_OVERLAP}=false", GIVES_UP),)

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[EP_OVERLAP]) and c[EP] > 1 and c[WORLD] >= LARGE_RUN


class ADV013(Advisory):
    """Overlapped p2p makes a communicator for each pair of stages when they first meet."""

    severity = "note"
    requires = ("PP001", "PAR001")
    reads = (P2P, BATCH_P2P, PP, CORE)
    affected = Affected(CORE)
    effect = "Hang in a receive, seen in tests with four stages of two chunks and not confirmed since,"
    why = (
        "Unbatched sends and receives in a group of more than two ranks create communicators of two ranks at first use, and "
        "stages may enter these in different orders."
    )
    thread = LM + "pull/5240"
    source = "closed; megatron-core core_v0.16.1 megatron/core/pipeline_parallel/p2p_communication.py:80-130"
    refused = (
        f"{PP}=4", "parallelism.virtual_pipeline_model_parallel_size=2", f"{CORE}=0.16.1",
    )  # fmt: skip
    fixes = (Fix(f"{P2P}=false {BATCH_P2P}=true", GIVES_UP),)

    @classmethod
    def meets(cls, c: Config) -> bool:
        return bool(c[P2P]) and not c[BATCH_P2P] and c[PP] > 2


ADVISORIES: tuple[type[Advisory], ...] = (
    ADV001,
    ADV002,
    ADV003,
    ADV004,
    ADV005,
    ADV006,
    ADV007,
    ADV008,
    ADV009,
    ADV010,
    ADV011,
    ADV012,
    ADV013,
)
"""In id order; the table a new report is added to."""
