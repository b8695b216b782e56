"""PP: pipeline p2p overlap and the deferral of the output layer's weight gradient."""

from ..findings import Fix
from ._base import GIVES_UP, KEEPS, Config, Derivation, Rule
from .layout import PP, VPP, WORLD, dp_cp_size, interleave, interleaved

OVERLAP = "comm_overlap.pp.overlap_p2p_comm"
BATCH = "comm_overlap.pp.batch_p2p_comm"
FLUSH = "comm_overlap.pp.overlap_p2p_comm_warmup_flush"
DEFER = "comm_overlap.pp.defer_embedding_wgrad_compute"
LIMIT = "comm_overlap.pp.wgrad_deferral_limit"
GAF = "model.gradient_accumulation_fusion"
GRAD_REDUCE = "comm_overlap.dp.overlap_grad_reduce"
MCORE = "megatron-core core_v0.16.1 megatron/core/"
CONFIG = MCORE + "model_parallel_config.py:"


class PP001(Rule):
    """p2p overlap needs the interleaved schedule: PP > 1 and VPP > 1."""

    reads = (OVERLAP, PP, VPP)
    why = (
        "Only the interleaved schedule has other microbatches to run while a tensor travels; the plain 1F1B schedule of "
        "megatron-core raises at step 0, and Megatron-LM's argument parser switches the flag off."
    )
    source = MCORE + "pipeline_parallel/schedules.py:2004-2007"
    refused = (f"{OVERLAP}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return interleaved(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(interleave(c), KEEPS + ("" if c[PP] > 1 else " (twice the ranks)"))
        return (keeps, Fix(f"{OVERLAP}=false", GIVES_UP), Fix(f"{OVERLAP}=null", "lets the layout decide"))


class PP002(Rule):
    """p2p is overlapped or batched, not both."""

    requires = ("PP001",)
    reads = (OVERLAP, BATCH)
    why = "Batched sends and receives are waited for at once; megatron-core raises at step 0."
    source = MCORE + "pipeline_parallel/schedules.py:921-922"
    refused = (f"{BATCH}=true", f"{PP}=2", f"{VPP}=2")  # fmt: skip
    fixes = (Fix(f"{BATCH}=null", KEEPS), Fix(f"{OVERLAP}=false {BATCH}=null", GIVES_UP))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not (c[OVERLAP] and c[BATCH])


class PP003(Rule):
    """The interleaved schedule does not run on batched p2p."""

    requires = ("PP002",)
    reads = (BATCH, PP, VPP)
    why = (
        "Several sends and receives between the same two ranks in one batch are matched in the wrong order: the run "
        "trains on corrupted activations without a word (gradient norm 36.9 to 68,782 in four steps at PP = 2, VPP = 2). "
        "Megatron-LM asserts PP > 2; we refuse every PP."
    )
    source = "megatron-core core_v0.16.1 megatron/training/arguments.py:574-582"
    refused = (f"{BATCH}=true", f"{OVERLAP}=false", f"{PP}=2", f"{VPP}=2")
    fixes = (Fix(f"{BATCH}=null {OVERLAP}=null", "overlapped p2p"), Fix(f"{BATCH}=false", "plain p2p"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return interleaved(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[BATCH]


class PP004(Rule):
    """p2p overlap in warm-up and flush needs p2p overlap."""

    requires = ("PP001", "PP002")
    reads = (FLUSH, OVERLAP)
    why = "It extends the overlap of the steady state; alone megatron-core raises while the config is built."
    source = CONFIG + "450-455"
    refused = (f"{FLUSH}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FLUSH])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[OVERLAP])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keeps = Fix(f"{OVERLAP}=null" if interleaved(c) else interleave(c), KEEPS)
        return (keeps, Fix(f"{FLUSH}=false", GIVES_UP))


class DeferRule(Rule):
    """Base: applies while the output layer's weight gradient is deferred."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DEFER])


class PP005(DeferRule):
    """Deferring the output layer's weight gradient needs pipeline parallelism."""

    reads = (DEFER, PP)
    why = "It fills the pipeline's flush; without one megatron-core raises while the config is built."
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
    """Deferring the output layer's weight gradient needs gradient_accumulation_fusion."""

    requires = ("PP005",)
    reads = (DEFER, GAF)
    why = "The deferred GEMM accumulates straight into main_grad; megatron-core raises while the config is built."
    source = CONFIG + "430-433"
    refused = (f"{DEFER}=true", f"{PP}=2")
    fixes = (Fix(f"{GAF}=true", "keeps the deferral"), Fix(f"{DEFER}=false", "gives the deferral up"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GAF])


class PP007(DeferRule):
    """wgrad_deferral_limit is 0 or more."""

    requires = ("PP005",)
    reads = (DEFER, LIMIT)
    why = "0 defers every microbatch. Megatron-Bridge derives -1, which megatron-core refuses."
    source = CONFIG + "435-438"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{GAF}=true", f"{LIMIT}=-1")
    fixes = (Fix(f"{LIMIT}=0", "defers all"), Fix(f"{DEFER}=false {LIMIT}=null", "gives the deferral up"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[LIMIT] >= 0


class PP008(DeferRule):
    """Deferring the output layer's weight gradient excludes overlapped gradient reduction."""

    requires = ("PP005", "PAR001")
    reads = (DEFER, GRAD_REDUCE, WORLD, "parallelism.tensor_model_parallel_size", PP)
    shows = (DEFER, GRAD_REDUCE)
    why = (
        "The gradient is computed after its bucket was reduced: the run trains wrong without a word (loss 1.513 in place "
        "of 1.013 after five steps)."
    )
    source = "megatron-core core_v0.16.1 megatron/core/distributed/param_and_grad_buffer.py; NVIDIA/Megatron-LM#1012"
    refused = (f"{DEFER}=true", f"{PP}=2", f"{WORLD}=4", f"{GAF}=true", f"{GRAD_REDUCE}=true")
    fixes = (
        Fix(f"{DEFER}=false", "keeps the gradient-reduce overlap"),
        Fix(f"{GRAD_REDUCE}=false", "keeps the deferral"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[GRAD_REDUCE] or dp_cp_size(c) < 2


class PP009(Rule):
    """A deferral limit needs the deferral."""

    reads = (LIMIT, DEFER)
    why = "megatron-core never reads wgrad_deferral_limit while defer_embedding_wgrad_compute is off."
    source = CONFIG + "327-332"
    refused = (f"{LIMIT}=22",)
    fixes = (Fix(f"{DEFER}=true", "turns the deferral on"), Fix(f"{LIMIT}=null", "no limit"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return not c[DEFER]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[LIMIT] == 0


RULES: tuple[type[Rule], ...] = (PP001, PP002, PP003, PP004, PP005, PP006, PP007, PP008, PP009)


def _layout(c: Config) -> str:
    vpp = 1 if c[VPP] is None else c[VPP]
    return f"PP = {c[PP]}, VPP = {vpp}"


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="PP101",
        key=OVERLAP,
        value=interleaved,
        reason=lambda c: f"true only for PP > 1 and VPP > 1; here {_layout(c)}",
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:453-464",
    ),
    Derivation(
        id="PP102",
        key=BATCH,
        value=lambda c: c[PP] > 1 and not interleaved(c),
        reason=lambda c: f"batched in the plain 1F1B schedule only (PP003); here {_layout(c)}",
        source="Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:453-464",
    ),
    Derivation(id="PP103", key=FLUSH, value=lambda c: False, reason="megatron-core's default", source=CONFIG + "334"),
    Derivation(id="PP104", key=DEFER, value=lambda c: False, reason="megatron-core's default", source=CONFIG + "322"),
    Derivation(id="PP105", key=LIMIT, value=lambda c: 0, reason="megatron-core's default", source=CONFIG + "327"),
)
