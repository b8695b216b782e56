"""PP: pipeline p2p overlap and the deferral of the output layer's weight gradient."""

from ..findings import Fix
from ..schema.keys import (
    BATCH_P2P,
    CP,
    DEFER,
    DEFERRAL_LIMIT,
    EP_OVERLAP,
    FSDP,
    GAF,
    GBS,
    GRAD_REDUCE,
    GROUP,
    MBS,
    MTP,
    P2P,
    P2P_FLUSH,
    PP,
    TE,
    TP,
    VARIABLE_LENGTHS,
    VPP,
    WORLD,
)
from ._base import ARCHITECTURE, GIVES_UP, KEEPS, Config, Derivation, Rule
from .layout import data_parallel_size, dp_cp_size, interleave, interleaved, num_microbatches

MCORE = "megatron-core core_v0.16.1 megatron/core/"
CONFIG = MCORE + "model_parallel_config.py:"


class PP001(Rule):
    """p2p overlap is on without the interleaved schedule (PP > 1 and VPP > 1)."""

    reads = (P2P, PP, VPP)
    why = (
        "Only the interleaved schedule has other microbatches to run while a tensor is sent. megatron-core's plain "
        "1F1B schedule raises at step 0, and Megatron-LM's argument parser switches the flag off."
    )
    records = ("pp-overlap-p2p-needs-vpp", "pp-overlap-p2p-pp1")
    source = MCORE + "pipeline_parallel/schedules.py:2004-2007"
    refused = (f"{P2P}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[P2P])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return interleaved(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(interleave(c), KEEPS + ("" if c[PP] > 1 else " (twice the ranks)"))
        return (keeps, Fix(f"{P2P}=false", GIVES_UP), Fix(f"{P2P}=null", "lets the layout decide"))


class PP002(Rule):
    """p2p communication is both overlapped and batched."""

    requires = ("PP001",)
    reads = (P2P, BATCH_P2P)
    why = "Batched sends and receives are waited for at once, so they overlap nothing; megatron-core raises at step 0."
    records = ("pp-overlap-and-batch-exclusive",)
    source = MCORE + "pipeline_parallel/schedules.py:921-922"
    refused = (f"{BATCH_P2P}=true", f"{PP}=2", f"{VPP}=2")  # fmt: skip
    fixes = (Fix(f"{BATCH_P2P}=null", KEEPS), Fix(f"{P2P}=false {BATCH_P2P}=null", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not (c[P2P] and c[BATCH_P2P])


class PP003(Rule):
    """Batched p2p in an interleaved schedule of two stages."""

    requires = ("PP002",)
    reads = (BATCH_P2P, PP, VPP)
    why = (
        "With two stages the previous rank is also the next one. A batch holds two sends to it, and each is received "
        "in the other's place: the run silently trains on gradients instead of activations (gradient norm 36.9 to "
        "68,782 in four steps). With three or more stages a batch has one send per rank, and losses equal those of "
        "plain p2p."
    )
    records = ("pp-pp2-vpp-batched-p2p-corrupts", "pp-lm-no-overlap-vpp-needs-pp-gt-2")
    source = MCORE + "pipeline_parallel/p2p_communication.py:16-54; megatron/training/arguments.py:579-582"
    refused = (f"{BATCH_P2P}=true", f"{P2P}=false", f"{PP}=2", f"{VPP}=2")
    fixes = (Fix(f"{BATCH_P2P}=null {P2P}=null", "overlapped p2p"), Fix(f"{BATCH_P2P}=false", "plain p2p"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return interleaved(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[BATCH_P2P] or c[PP] > 2


class PP004(Rule):
    """p2p overlap in warm-up and flush is on without p2p overlap."""

    requires = ("PP001", "PP002")
    reads = (P2P_FLUSH, P2P)
    why = (
        "It extends the p2p overlap of the steady state; without that overlap megatron-core raises while the config is "
        "built."
    )
    records = ("pp-warmup-flush",)
    source = CONFIG + "450-455"
    refused = (f"{P2P_FLUSH}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[P2P_FLUSH])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[P2P])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(f"{P2P}=null" if interleaved(c) else interleave(c), KEEPS)
        return (keeps, Fix(f"{P2P_FLUSH}=false", GIVES_UP))


class DeferRule(Rule):
    """Base: applies while the output layer's weight gradient is deferred."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DEFER])


class PP005(DeferRule):
    """The output layer's weight gradient is deferred without pipeline parallelism."""

    reads = (DEFER, PP)
    why = (
        "The deferred GEMMs fill the pipeline's flush; without a pipeline megatron-core raises while the config is "
        "built."
    )
    records = ("pp-defer-wgrad-needs-pp",)
    source = CONFIG + "425-428"
    refused = (f"{DEFER}=true",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[PP] > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(f"{PP}=2 {WORLD}={c[WORLD] * 2}", "keeps the deferral (twice the ranks)")
        return (keeps, Fix(f"{DEFER}=false", "gives the deferral up"))


class PP006(DeferRule):
    """The output layer's weight gradient is deferred without gradient_accumulation_fusion."""

    requires = ("PP005",)
    reads = (DEFER, GAF)
    why = "The deferred GEMM accumulates straight into main_grad; megatron-core raises while the config is built."
    records = ("pp-defer-wgrad-needs-gaf",)
    source = CONFIG + "430-433"
    refused = (f"{DEFER}=true", f"{PP}=2")
    fixes = (Fix(f"{GAF}=true", "keeps the deferral"), Fix(f"{DEFER}=false", "gives the deferral up"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GAF])


class PP007(DeferRule):
    """wgrad_deferral_limit is negative."""

    requires = ("PP005",)
    reads = (DEFER, DEFERRAL_LIMIT)
    why = "0 defers every microbatch. Megatron-Bridge derives -1, which megatron-core refuses."
    records = ("pp-defer-wgrad-limit",)
    source = CONFIG + "435-438"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{GAF}=true", f"{DEFERRAL_LIMIT}=-1")
    fixes = (
        Fix(f"{DEFERRAL_LIMIT}=0", "defers all"),
        Fix(f"{DEFER}=false {DEFERRAL_LIMIT}=null", "gives the deferral up"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[DEFERRAL_LIMIT] >= 0


class PP008(DeferRule):
    """The output layer's deferred weight gradient misses its overlapped reduction."""

    requires = ("PP005", "PAR001")
    reads = (DEFER, GRAD_REDUCE, WORLD, TP, PP)
    shows = (DEFER, GRAD_REDUCE)
    why = (
        "The gradient is computed after its bucket was reduced: the run silently trains wrong (loss 1.513 instead of "
        "1.013 after five steps)."
    )
    records = ("pp-defer-wgrad-corrupts-with-overlap-grad-reduce",)
    source = MCORE + "pipeline_parallel/schedules.py:1890-1913, 2296-2306; NVIDIA/Megatron-LM#1012"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{WORLD}=4", f"{GAF}=true", f"{GRAD_REDUCE}=true")
    fixes = (
        Fix(f"{DEFER}=false", "keeps the gradient-reduce overlap"),
        Fix(f"{GRAD_REDUCE}=false", "keeps the deferral"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[GRAD_REDUCE] or dp_cp_size(c) < 2


class PP009(Rule):
    """wgrad_deferral_limit is set, but nothing is deferred."""

    reads = (DEFERRAL_LIMIT, DEFER)
    why = "megatron-core never reads wgrad_deferral_limit while defer_embedding_wgrad_compute is off."
    records = ("pp-defer-wgrad-limit-without-defer",)
    source = CONFIG + "327-332"
    refused = (f"{DEFERRAL_LIMIT}=22",)
    fixes = (Fix(f"{DEFER}=true", "turns the deferral on"), Fix(f"{DEFERRAL_LIMIT}=null", "no limit"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return not c[DEFER]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[DEFERRAL_LIMIT] == 0


class PP010(DeferRule):
    """The output layer's weight gradient is deferred without Transformer Engine."""

    requires = ("PP005",)
    reads = (DEFER, TE)
    why = (
        "Each of megatron-core's own column-parallel layers takes itself for the output layer and looks for buffers "
        "that only the output layer has: AttributeError in the first forward."
    )
    records = ("pp-defer-wgrad-local-spec",)
    source = MCORE + "tensor_parallel/layers.py:1003-1010"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{GAF}=true")
    fixes = (
        Fix(f"{TE}=2.11.0", "keeps the deferral, if the run will have that version"),
        Fix(f"{DEFER}=false", "gives the deferral up"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class PP011(DeferRule):
    """The output layer's weight gradient is deferred under Megatron FSDP."""

    requires = ("PP005",)
    reads = (DEFER, FSDP)
    why = (
        "FSDP reduces and frees a gradient when its backward ends, before the deferred GEMM runs. Megatron-Bridge's "
        "performance scripts switch the deferral off with a warning; megatron-core does not check."
    )
    records = ("pp-defer-wgrad-fsdp",)
    source = "Megatron-Bridge v0.6.0 scripts/performance/utils/overrides.py:108-111"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{FSDP}=true")
    fixes = (Fix(f"{DEFER}=false", "keeps FSDP"), Fix(f"{FSDP}=false", "keeps the deferral"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[FSDP]


class PP012(DeferRule):
    """The output layer's weight gradient is deferred with multi-token prediction."""

    requires = ("PP005",)
    reads = (DEFER, MTP)
    why = (
        "The output layer then runs more than once per microbatch. Inputs are kept in forward order and output "
        "gradients in backward order, so the wrong pairs are multiplied, and the products are added to another weight "
        "than the one that forward used. The run silently trains wrong (loss 5.799 instead of 5.645 in the third "
        "step)."
    )
    source = (
        MCORE + "models/gpt/gpt_model.py:611-687, 718-736; megatron/core/pipeline_parallel/schedules.py:722-735; "
        "megatron/core/utils.py:1109-1190"
    )
    refused = (f"{DEFER}=true", f"{PP}=2", f"{GAF}=true", f"{TE}=2.11.0", f"{MTP}=1")
    fixes = (
        Fix(f"{DEFER}=false", "keeps multi-token prediction, gives the deferral up"),
        Fix(f"{MTP}=null", f"keeps the deferral; {ARCHITECTURE}"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[MTP]


class PP201(Rule):
    """Too few microbatches: the first pipeline stage never leaves its warm-up."""

    severity = "warning"
    requires = ("PAR001", "PAR005", "PAR009", "PAR010")
    reads = (PP, VPP, GROUP, GBS, MBS, WORLD, TP, CP, P2P_FLUSH, EP_OVERLAP)
    shows = (GBS, PP, VPP)
    records = ("pp-few-microbatches",)
    source = MCORE + "pipeline_parallel/schedules.py:756-787, 1470-1490"
    refused = (f"{PP}=4", f"{GBS}=2")

    @classmethod
    def warm_up(cls, c: Config) -> int:
        """Forwards of one model chunk that the first stage runs before its first backward."""
        if not interleaved(c):
            return int(c[PP] - 1)
        return int(2 * (c[PP] - 1) + (c[VPP] - 1) * (c[GROUP] or c[PP]) + bool(c[EP_OVERLAP]))

    @classmethod
    def _waiting(cls, c: Config) -> str:
        """What the first stage overlaps only after its warm-up; in the plain schedule it alternates, and overlaps nothing."""
        if not interleaved(c):
            return "forward and backward alternate"
        waiting = [
            what for what, waits in (("p2p", not c[P2P_FLUSH]), ("the experts' all-to-alls", c[EP_OVERLAP])) if waits
        ]
        return f"it overlaps {' and '.join(waiting)}" if waiting else ""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[PP] > 1 and c[GBS] is not None and bool(cls._waiting(c))

    @classmethod
    def holds(cls, c: Config) -> bool:
        count = num_microbatches(c)
        return count is None or count * (c[VPP] or 1) > cls.warm_up(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        steps = f"{num_microbatches(c)} microbatches are {(num_microbatches(c) or 0) * (c[VPP] or 1)} forwards per step"
        return f"{steps}. The warm-up of the first of {c[PP]} stages takes {cls.warm_up(c)}; {cls._waiting(c)} only after it."

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        group = (c[GROUP] or c[PP]) if interleaved(c) else 1
        least = cls.warm_up(c) // (c[VPP] or 1) + 1  # microbatches; then up to a whole group
        samples = -(-least // group) * group * c[MBS] * data_parallel_size(c)
        more = Fix(f"{GBS}={samples}", "enough microbatches for a steady state")
        flush = Fix(f"{P2P_FLUSH}=true", "overlaps p2p in the warm-up as well")
        return (more, flush) if interleaved(c) and not c[EP_OVERLAP] else (more,)


class PP202(Rule):
    """The plain 1F1B schedule does not batch its sends and receives."""

    severity = "note"
    requires = ("PAR005",)
    reads = (BATCH_P2P, PP, VPP)
    why = (
        "Sends and receives that are neither overlapped nor batched are issued one by one, in odd and even order to "
        "avoid deadlock. This is legal, and the slowest of the three ways."
    )
    records = ("pp-both-flags-off",)
    source = MCORE + "pipeline_parallel/p2p_communication.py:54-110"
    refused = (f"{BATCH_P2P}=false", f"{PP}=2")
    fixes = (Fix(f"{BATCH_P2P}=null", "batched"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[PP] > 1 and not interleaved(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[BATCH_P2P])


class PP203(Rule):
    """Pipeline stages exchange the shape of every tensor first."""

    severity = "note"
    reads = (VARIABLE_LENGTHS, PP)
    why = (
        "With variable sequence lengths, stages exchange the shape of every tensor and wait for it before they send "
        "the tensor; only the tensor itself is overlapped."
    )
    records = ("pp-variable-seq-lengths",)
    source = MCORE + "pipeline_parallel/p2p_communication.py:301-309"
    refused = (f"{VARIABLE_LENGTHS}=true", f"{PP}=2")
    fixes = (Fix(f"{VARIABLE_LENGTHS}=false", "pads to one length"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[VARIABLE_LENGTHS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[PP] == 1


RULES: tuple[type[Rule], ...] = (
    PP001, PP002, PP003, PP004, PP005, PP006, PP007, PP008, PP009, PP010, PP011, PP012, PP201, PP202, PP203,
)  # fmt: skip


def _layout(c: Config) -> str:
    vpp = 1 if c[VPP] is None else c[VPP]
    return f"PP = {c[PP]}, VPP = {vpp}"


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="PP101",
        key=P2P,
        value=interleaved,
        reason=lambda c: f"true only for PP > 1 and VPP > 1; here {_layout(c)}",
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:453-464",
        records=("pp-p2p-derivation-bridge",),
    ),
    Derivation(
        id="PP102",
        key=BATCH_P2P,
        value=lambda c: c[PP] > 1 and not interleaved(c),
        reason=lambda c: (
            f"batched in the plain 1F1B schedule only, and waited for at once (batch_p2p_sync); here {_layout(c)}"
        ),
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:453-464",
        records=("pp-p2p-derivation-megatron-lm", "pp-mcore-default-is-inconsistent", "pp-batch-p2p-sync"),
        limit=lambda c: "one stage sends nothing" if c[BATCH_P2P] and c[PP] == 1 else "",
    ),
    Derivation(
        id="PP103", key=P2P_FLUSH, value=lambda c: False, reason="megatron-core's default", source=CONFIG + "334"
    ),
    Derivation(
        id="PP104",
        key=DEFER,
        value=lambda c: False,
        reason="megatron-core's default; only the last stage would have anything to defer",
        source=CONFIG + "322",
        records=("pp-defer-wgrad-last-stage-only",),
    ),
    Derivation(
        id="PP105", key=DEFERRAL_LIMIT, value=lambda c: 0, reason="megatron-core's default", source=CONFIG + "327"
    ),
)
