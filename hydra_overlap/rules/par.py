"""PAR: the parallel layout itself: what megatron-core would refuse or train wrongly even without any overlap."""

from collections.abc import Iterator
from math import gcd, lcm

from ..findings import Fix
from ..schema.keys import (
    BF16,
    COUNT_EMBEDDING,
    COUNT_LOSS,
    CP,
    DDP_DISTRIBUTED,
    DISPATCHER,
    EP,
    ETP,
    EXPERTS,
    FFN_HIDDEN,
    FIRST_STAGE,
    FP8,
    FP8_PARAM_GATHER,
    FP16,
    GBS,
    GROUP,
    HEADS,
    HIDDEN,
    KV_CHANNELS,
    LAST_STAGE,
    MBS,
    MLA,
    MTP,
    NUM_LAYERS,
    PIPELINE_LAYOUT,
    POSITION_EMBEDDING,
    PP,
    QUERY_GROUPS,
    RECOMPUTE,
    RECOMPUTE_LAYERS,
    RECOMPUTE_METHOD,
    SEQ_LENGTH,
    SP,
    TP,
    VARIABLE_LENGTHS,
    VPP,
    WORLD,
)
from . import pipeline_layout
from ._base import ARCHITECTURE, Config, Derivation, Rule
from .layout import (
    SPLIT,
    UNEVEN,
    data_parallel_size,
    divisor_below,
    expert_ranks,
    expert_tensor_parallel_size,
    interleaved,
    model_ranks,
    neighbours,
    num_microbatches,
    smallest_world,
)

MCORE = "megatron-core core_v0.16.1 megatron/core/"


class PAR001(Rule):
    """world_size is not a multiple of TP x PP x CP."""

    reads = (WORLD, TP, PP, CP)
    why = "Each copy of the model takes TP x PP x CP ranks; the ranks left over could not form a copy."
    source = "megatron-core core_v0.16.1 megatron/core/parallel_state.py:741"
    refused = ("parallelism.world_size=6", "parallelism.tensor_model_parallel_size=4")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[WORLD] % model_ranks(c) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"{c[WORLD]} is not a multiple of {c[TP]} x {c[PP]} x {c[CP]} = {model_ranks(c)}; {_near(c)} would be. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return *_on_these_ranks(c), *_other_worlds(c)


def _near(c: Config) -> str:
    return " and ".join(str(number) for number in sorted(neighbours(c[WORLD], smallest_world(c))))


def _on_these_ranks(c: Config) -> Iterator[Fix]:
    """The largest part of the TP size asked for that leaves no rank over."""
    ranks, others = c[WORLD], c[PP] * c[CP]
    tp = gcd(ranks // others, c[TP]) if ranks % others == 0 else 1
    if tp > 1:
        yield Fix(f"{TP}={tp}", f"keeps the {ranks} GPUs")


def _other_worlds(c: Config) -> Iterator[Fix]:
    """The numbers of ranks nearest to the one asked for that leave none over."""
    for number in neighbours(c[WORLD], smallest_world(c)):
        yield Fix(f"{WORLD}={number}", "nearest valid value")
    yield Fix(f"{WORLD}=null", f"smallest valid: {smallest_world(c)} ranks")


class PAR002(Rule):
    """world_size is not a multiple of ETP x EP x PP."""

    requires = ("PAR001",)
    reads = (WORLD, EP, ETP, TP, PP)
    why = "Experts form their own grid over the same ranks: ETP x EP x PP ranks hold one copy of them."
    source = MCORE + "parallel_state.py:794"
    refused = ("parallelism.world_size=3", "parallelism.expert_model_parallel_size=2", "model.num_moe_experts=4")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[WORLD] % expert_ranks(c) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        grid = f"{expert_tensor_parallel_size(c)} x {c[EP]} x {c[PP]} = {expert_ranks(c)}"
        return f"{c[WORLD]} is not a multiple of {grid}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return tuple(_other_worlds(c))


class PAR003(Rule):
    """Sequence parallelism is on without tensor parallelism."""

    reads = (SP, TP)
    why = "Sequence parallelism splits norm activations over the TP ranks; with one TP rank there is nothing to split."
    source = MCORE + "model_parallel_config.py:409-411"
    records = ("tp-sequence-parallel-needs-tp",)
    refused = ("parallelism.sequence_parallel=true",)
    fixes = (Fix(f"{SP}=false", "no sequence parallelism"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[SP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TP] >= 2

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        more = Fix(f"{TP}=2 {WORLD}={c[WORLD] * 2}", "two TP ranks, twice the ranks")
        return (*cls.fixes, more)


class PAR004(Rule):
    """num_layers is not a multiple of PP x VPP."""

    requires = ("PAR005",)
    reads = (NUM_LAYERS, PP, VPP, *SPLIT)
    shows = (NUM_LAYERS, PP, VPP)
    why = "Every model chunk holds the same number of layers."
    source = MCORE + "transformer/transformer_block.py:155-178"
    refused = ("parallelism.pipeline_model_parallel_size=2", "model.num_layers=5")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[NUM_LAYERS] is not None and not any(c[key] for key in SPLIT)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[NUM_LAYERS] % (c[PP] * (c[VPP] or 1)) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        chunks = c[PP] * (c[VPP] or 1)
        return f"{c[NUM_LAYERS]} layers do not fill {chunks} model chunks evenly. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        layers = c[NUM_LAYERS]
        architecture = tuple(
            Fix(f"model.num_layers={n}", ARCHITECTURE) for n in neighbours(layers, c[PP] * (c[VPP] or 1))
        )
        stages = divisor_below(layers, c[PP])
        chunks = 1 if stages == 1 or not c[VPP] else divisor_below(layers // stages, c[VPP])
        changes = [] if stages == c[PP] else [f"{PP}={stages}"]
        changes += [f"{VPP}={'null' if chunks == 1 else chunks}"] if c[VPP] else []
        return (Fix(" ".join(changes), f"{layers // (stages * chunks)} layers per chunk"), *architecture)


class PAR005(Rule):
    """VPP is 1, or set without pipeline parallelism."""

    requires = ("PAR022",)
    reads = (VPP, PP)
    why = (
        "The interleaved schedule gives every pipeline rank several model chunks. With PP = 1 there is no pipeline. "
        "With VPP = 1 megatron-core fails at step 0; only Megatron-LM's argument parser turns 1 into null."
    )
    records = ("pp-vpp-requires-pp", "pp-vpp-one", "pp-ep-overlap-vpp-one-passes")
    source = "megatron-core core_v0.16.1 megatron/training/arguments.py:574-583"
    refused = ("parallelism.virtual_pipeline_model_parallel_size=2",)
    fixes = (Fix(f"{VPP}=null", "not interleaved"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[VPP] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[VPP] >= 2 and c[PP] > 1


class PAR006(Rule):
    """num_attention_heads is not a multiple of TP."""

    reads = (HEADS, TP)
    why = "Attention heads are split over the TP ranks."
    source = MCORE + "transformer/transformer_config.py:924-928"
    refused = ("parallelism.tensor_model_parallel_size=4", "model.num_attention_heads=6")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[HEADS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[HEADS] % c[TP] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        heads = c[HEADS]
        fewer = Fix(f"{TP}={divisor_below(gcd(heads, c[TP]), c[TP])}", "fewer TP ranks")
        return (fewer, *(Fix(f"model.num_attention_heads={n}", ARCHITECTURE) for n in neighbours(heads, c[TP])))


class PAR007(Rule):
    """num_query_groups is neither a multiple nor a divisor of TP."""

    requires = ("PAR006",)
    reads = (QUERY_GROUPS, TP)
    why = "Key/value heads are split over the TP ranks, or each is shared by a whole number of ranks."
    source = MCORE + "transformer/transformer_config.py:939-946"
    refused = ("parallelism.tensor_model_parallel_size=4", "model.num_query_groups=6")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[QUERY_GROUPS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        groups = c[QUERY_GROUPS]
        return groups % c[TP] == 0 or c[TP] % groups == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        groups = c[QUERY_GROUPS]
        fewer = Fix(f"{TP}={divisor_below(gcd(groups, c[TP]), c[TP])}", "fewer TP ranks")
        return (fewer, *(Fix(f"model.num_query_groups={n}", ARCHITECTURE) for n in neighbours(groups, c[TP])))


class PAR008(Rule):
    """seq_length does not divide evenly over context and sequence parallelism."""

    reads = (SEQ_LENGTH, SP, TP, CP)
    why = (
        "Context parallelism gives every rank two equal parts of the sequence; sequence parallelism splits a rank's "
        "part equally over its TP ranks."
    )
    source = MCORE + "utils.py get_batch_on_this_cp_rank; tensor_parallel/mappings.py _split_along_first_dim"
    records = ("cp-seq-divisibility",)
    refused = (
        "parallelism.tensor_model_parallel_size=4",
        "parallelism.sequence_parallel=true",
        "model.seq_length=1022",
    )

    @classmethod
    def _multiple(cls, c: Config) -> int:
        halves = 2 * c[CP] if c[CP] > 1 else 1
        return lcm(halves, c[CP] * (c[TP] if c[SP] else 1))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[SEQ_LENGTH] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[SEQ_LENGTH] % cls._multiple(c) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"{c[SEQ_LENGTH]} is not a multiple of {cls._multiple(c)}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        lengths = neighbours(c[SEQ_LENGTH], cls._multiple(c))
        return tuple(Fix(f"model.seq_length={n}", "nearest valid value") for n in lengths)


class PAR009(Rule):
    """global_batch_size is not a multiple of micro_batch_size x DP."""

    requires = ("PAR001",)
    reads = (GBS, MBS, WORLD, TP, PP, CP)
    why = "Every data-parallel rank runs the same number of microbatches."
    source = MCORE + "num_microbatches_calculator.py:479"
    refused = ("parallelism.world_size=4", "training.global_batch_size=6")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[GBS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[GBS] % (c[MBS] * data_parallel_size(c)) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        step = f"{c[MBS]} x {data_parallel_size(c)} = {c[MBS] * data_parallel_size(c)}"
        return f"{c[GBS]} is not a multiple of {step}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        sizes = neighbours(c[GBS], c[MBS] * data_parallel_size(c))
        return tuple(Fix(f"{GBS}={n}", "nearest valid value") for n in sizes)


class PAR010(Rule):
    """The microbatches do not form groups that the interleaved schedule can run."""

    requires = ("PAR001", "PAR005", "PAR009")
    reads = (PP, VPP, GROUP, GBS, MBS, WORLD, TP, CP)
    why = (
        "Microbatches pass a virtual stage in groups of PP (or microbatch_group_size_per_vp_stage); a group smaller "
        "than PP would leave stages waiting for each other, and megatron-core raises at step 0."
    )
    records = ("pp-microbatch-group",)
    source = MCORE + "pipeline_parallel/schedules.py:995-1015"
    refused = (
        "parallelism.pipeline_model_parallel_size=4",
        "parallelism.virtual_pipeline_model_parallel_size=2",
        "training.global_batch_size=6",
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return interleaved(c) and (c[GBS] is not None or c[GROUP] is not None)

    @classmethod
    def holds(cls, c: Config) -> bool:
        group, count = c[GROUP] or c[PP], num_microbatches(c)
        if count is None:
            return c[PP] <= group
        return c[PP] <= group <= count and not 0 < count % group < c[PP]

    @classmethod
    def why_for(cls, c: Config) -> str:
        count = num_microbatches(c)
        said = "" if count is None else f", {count} microbatches per step"
        return f"PP = {c[PP]}, groups of {c[GROUP] or c[PP]}{said}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        too_small = c[GROUP] is not None and c[GROUP] < c[PP]
        fixes = [Fix(f"{GROUP}=null", "groups of PP microbatches")] if c[GROUP] is not None else []
        if c[GBS] is not None:
            samples = c[MBS] * data_parallel_size(c) * (c[PP] if too_small else c[GROUP] or c[PP])
            reset = f" {GROUP}=null" if too_small else ""
            fixes += [Fix(f"{GBS}={n}{reset}", "nearest valid value") for n in neighbours(c[GBS], samples)]
        return (*fixes, Fix(f"{VPP}=null", "not interleaved: gives the p2p overlap up"))


class PAR011(Rule):
    """EP does not divide num_moe_experts, or the model has no experts."""

    records = ("ep-overlap-requires-moe",)
    reads = (EP, EXPERTS)
    why = "Experts are distributed evenly over the expert-parallel ranks."
    source = MCORE + "transformer/transformer_config.py:1048-1052, transformer/moe/moe_layer.py"
    refused = ("parallelism.expert_model_parallel_size=2",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EP] > 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        experts = c[EXPERTS]
        return experts is not None and experts % c[EP] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        experts = c[EXPERTS]
        if experts is None:
            return (Fix(f"{EP}=1", "a dense model"),)
        ranks = divisor_below(experts, c[EP])
        architecture = (Fix(f"model.num_moe_experts={n}", ARCHITECTURE) for n in neighbours(experts, c[EP]))
        return (Fix(f"{EP}={ranks}", f"{experts // ranks} experts per rank"), *architecture)


class PAR012(Rule):
    """MoE with tensor parallelism but without sequence parallelism."""

    requires = ("PAR003",)
    records = ("ep-tp-needs-sp",)
    reads = (EXPERTS, TP, SP)
    why = "megatron-core's MoE layer raises in the first forward without sequence parallelism."
    source = MCORE + "transformer/moe/moe_layer.py:379-384"
    refused = ("model.num_moe_experts=4", "parallelism.tensor_model_parallel_size=2")
    fixes = (Fix(f"{SP}=true", "splits activations over TP"), Fix(f"{TP}=1", "no tensor parallelism"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and c[TP] > 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[SP])


class PAR013(Rule):
    """ffn_hidden_size is not a multiple of TP."""

    reads = (FFN_HIDDEN, TP)
    why = "The MLP is split over the TP ranks."
    source = MCORE + "tensor_parallel/layers.py:842, 1166"
    refused = ("parallelism.tensor_model_parallel_size=4", "model.ffn_hidden_size=1022")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[FFN_HIDDEN] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FFN_HIDDEN] % c[TP] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        width = c[FFN_HIDDEN]
        fewer = Fix(f"{TP}={divisor_below(gcd(width, c[TP]), c[TP])}", "fewer TP ranks")
        return (fewer, *(Fix(f"model.ffn_hidden_size={n}", ARCHITECTURE) for n in neighbours(width, c[TP])))


class PAR014(Rule):
    """Both bf16 and fp16 are on."""

    reads = (BF16, FP16)
    why = "Parameters have one 16-bit format."
    source = MCORE + "transformer/transformer_config.py:915-918"
    refused = ("precision.bf16=true", "precision.fp16=true")
    fixes = (Fix("precision.fp16=false", "bf16"), Fix("precision.bf16=false", "fp16"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not (c[BF16] and c[FP16])


class PAR015(Rule):
    """fp8_param_gather is on without FP8 or without the distributed optimizer."""

    reads = (FP8_PARAM_GATHER, FP8, DDP_DISTRIBUTED)
    why = "Parameters can be gathered in FP8 only if they are FP8, and only the distributed optimizer gathers them."
    records = ("precision-fp8-param-needs-fp8", "dp-fp8-param-gather-needs-distopt")
    source = MCORE + "transformer/transformer_config.py:1028; megatron/training/arguments.py:655-657"
    refused = ("precision.fp8_param_gather=true",)
    fixes = (
        Fix("precision.fp8_param_gather=false", "gathers in the parameters' own format"),
        Fix(
            "precision.bf16=true precision.fp8=hybrid ddp.use_distributed_optimizer=true "
            "optimizer.use_distributed_optimizer=true",
            "trains in FP8 with the distributed optimizer",
        ),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FP8_PARAM_GATHER])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP8] is not None and bool(c[DDP_DISTRIBUTED])


class PAR016(Rule):
    """The recomputation settings are incomplete or contradict each other."""

    reads = (RECOMPUTE, RECOMPUTE_METHOD, RECOMPUTE_LAYERS)
    why = (
        "Full recomputation takes a method and a number of layers; selective recomputation takes no number of layers. "
        "Otherwise megatron-core raises while the config is built."
    )
    source = MCORE + "transformer/transformer_config.py:1161-1185"
    refused = ("model.recompute_granularity=full",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[RECOMPUTE] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        method, layers = c[RECOMPUTE_METHOD], c[RECOMPUTE_LAYERS]
        if c[RECOMPUTE] == "full":
            return method is not None and layers is not None
        return layers is None

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if c[RECOMPUTE] == "selective":
            return (Fix("model.recompute_num_layers=null", "recomputes only the chosen modules"),)
        method, layers = c[RECOMPUTE_METHOD] or "uniform", c[RECOMPUTE_LAYERS] or 1
        full = Fix(f"model.recompute_method={method} model.recompute_num_layers={layers}", "recomputes whole layers")
        none = "model.recompute_granularity=null model.recompute_method=null model.recompute_num_layers=null"
        return (full, Fix(none, "keeps all activations"))


class PAR017(Rule):
    """The layers do not fit the uneven pipeline stages."""

    requires = ("PAR005",)
    reads = (NUM_LAYERS, PP, VPP, *SPLIT)
    shows = (NUM_LAYERS, PP, VPP, *UNEVEN)
    why = (
        "Layers that the first and last stage do not take are split evenly over the other stages, and each stage's "
        "layers over its model chunks. Sizes of the outer stages cannot be combined with counting the embedding or the "
        "loss as a layer."
    )
    source = MCORE + "transformer/transformer_config.py:1294-1305, 1360-1481"
    refused = ("parallelism.pipeline_model_parallel_size=2", "model.num_layers=4", f"{COUNT_LOSS}=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return any(c[key] for key in UNEVEN) and c[PIPELINE_LAYOUT] is None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return cls._fills(c, c[NUM_LAYERS])

    @classmethod
    def _fills(cls, c: Config, layers: int | None) -> bool:
        """Whether so many layers can be dealt out; of a number not said, whether any could."""
        outer = [size for size in (c[FIRST_STAGE], c[LAST_STAGE]) if size is not None]
        if outer and (c[COUNT_EMBEDDING] or c[COUNT_LOSS]):
            return False
        if layers is None:
            return True
        chunks = c[VPP] or 1
        if not outer:
            return (layers + bool(c[COUNT_EMBEDDING]) + bool(c[COUNT_LOSS])) % (c[PP] * chunks) == 0
        rest, stages = layers - sum(outer), c[PP] - len(outer)
        if rest < 0 or stages < 0 or bool(rest) != bool(stages) or any(size % chunks for size in outer):
            return False
        return rest % (stages * chunks or 1) == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        layers = "The layers" if c[NUM_LAYERS] is None else f"{c[NUM_LAYERS]} layers"
        parts = [f"{layers} over {c[PP]} stages of {c[VPP] or 1} model chunks"]
        parts += [f"{c[FIRST_STAGE]} on the first stage"] if c[FIRST_STAGE] is not None else []
        parts += [f"{c[LAST_STAGE]} on the last"] if c[LAST_STAGE] is not None else []
        parts += ["the embedding counted as one"] if c[COUNT_EMBEDDING] else []
        parts += ["the loss counted as one"] if c[COUNT_LOSS] else []
        return ", ".join(parts) + f". {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        architecture = (Fix(f"{NUM_LAYERS}={n}", ARCHITECTURE) for n in cls._legal_neighbours(c))
        return (Fix(_even(c), "even stages"), *architecture)

    @classmethod
    def _legal_neighbours(cls, c: Config) -> list[int]:
        """The two numbers of layers nearest to the one said that fill the stages; searched within 4,096."""
        layers, reach = c[NUM_LAYERS], min(2 * c[PP] * (c[VPP] or 1), 4096)
        if layers is None:
            return []
        near = sorted(range(max(1, layers - reach), layers + reach + 1), key=lambda n: (abs(n - layers), n))
        return [n for n in near if cls._fills(c, n)][:2]


def _even(c: Config) -> str:
    """The overrides that take back what the outer stages were asked to hold."""
    reset = {FIRST_STAGE: "null", LAST_STAGE: "null", COUNT_EMBEDDING: "false", COUNT_LOSS: "false"}
    return " ".join(f"{key}={value}" for key, value in reset.items() if c[key])


class PAR018(Rule):
    """Variable sequence lengths with MoE and the allgather token dispatcher."""

    reads = (VARIABLE_LENGTHS, EXPERTS, DISPATCHER)
    why = "The allgather dispatcher supports one sequence length only; megatron-core raises while the config is built."
    source = MCORE + "transformer/transformer_config.py:1827-1832"
    refused = ("model.variable_seq_lengths=true", "model.num_moe_experts=4")
    fixes = (
        Fix("model.moe_token_dispatcher_type=alltoall", "takes any length"),
        Fix("model.variable_seq_lengths=false", "sequences padded or packed to seq_length"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[VARIABLE_LENGTHS]) and c[EXPERTS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DISPATCHER] != "allgather")


class PAR019(Rule):
    """num_attention_heads is not a multiple of num_query_groups."""

    requires = ("PAR006", "PAR007")
    reads = (HEADS, QUERY_GROUPS, MLA)
    why = "Every key/value head serves the same number of query heads; megatron-core fails in the first forward."
    source = MCORE + "transformer/attention.py:1389-1395"
    refused = ("model.num_attention_heads=6", "model.num_query_groups=4")

    @classmethod
    def applies(cls, c: Config) -> bool:
        heads, groups = c[HEADS], c[QUERY_GROUPS]
        return heads is not None and groups is not None and not c[MLA]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[HEADS] % c[QUERY_GROUPS] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        heads, groups, tp = c[HEADS], c[QUERY_GROUPS], c[TP]
        shared = (n for n in range(min(groups, heads), 0, -1) if heads % n == 0 and (n % tp == 0 or tp % n == 0))
        more = (Fix(f"model.num_attention_heads={n}", ARCHITECTURE) for n in neighbours(heads, lcm(groups, tp)))
        return (Fix(f"model.num_query_groups={next(shared)}", ARCHITECTURE), *more)


class PAR020(Rule):
    """Rotary embedding on attention heads of odd width."""

    reads = (
        POSITION_EMBEDDING, KV_CHANNELS, HIDDEN, HEADS,
        MLA,
    )  # fmt: skip
    why = (
        "Rotary embedding rotates pairs of channels; for an odd width megatron-core makes one angle too many and fails "
        "in the first forward."
    )
    source = MCORE + "models/common/embeddings/rotary_pos_embedding.py:80, 168"
    refused = ("model.kv_channels=15",)

    @staticmethod
    def _width(c: Config) -> int | None:
        said, hidden, heads = c[KV_CHANNELS], c[HIDDEN], c[HEADS]
        if said is None and hidden is not None and heads is not None:
            return int(hidden // heads)
        return None if said is None else int(said)

    @classmethod
    def applies(cls, c: Config) -> bool:
        rotates = c[POSITION_EMBEDDING] == "rope" and not c[MLA]
        return rotates and cls._width(c) is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return (cls._width(c) or 0) % 2 == 0

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"A head is {cls._width(c)} channels wide. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return tuple(Fix(f"model.kv_channels={n}", ARCHITECTURE) for n in neighbours(cls._width(c) or 1, 2))


EVENLY = Fix(f"{PIPELINE_LAYOUT}=null", "splits the layers evenly")


class LayoutRule(Rule):
    """Base: applies to a plan that writes its pipeline layout down."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[PIPELINE_LAYOUT] is not None


class PAR021(LayoutRule):
    """The pipeline layout cannot be read."""

    reads = (PIPELINE_LAYOUT,)
    why = (
        "E is the embedding, t a layer, m a multi-token-prediction layer, L the loss; | parts the stages, and t*3 or (tt|)*4 "
        "repeats. megatron-core asserts."
    )
    source = MCORE + "transformer/pipeline_parallel_layer_layout.py:283-321"
    refused = (f"{PIPELINE_LAYOUT}=Etx",)
    fixes = (EVENLY,)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return pipeline_layout.readable(c) is not None

    @classmethod
    def why_for(cls, c: Config) -> str:
        try:
            pipeline_layout.stages_of(c[PIPELINE_LAYOUT])
        except pipeline_layout.LayoutError as error:
            return f"{error} {cls.why}"
        return cls.why


class PAR022(LayoutRule):
    """The pipeline layout does not have PP x VPP stages."""

    requires = ("PAR021",)
    reads = (PIPELINE_LAYOUT, PP, VPP)
    why = (
        "Its stages are dealt out to the pipeline ranks in turn, so PP has to divide them; that makes VPP, and megatron-core "
        "asserts if another VPP is set."
    )
    source = (
        MCORE
        + "transformer/pipeline_parallel_layer_layout.py:39-45; megatron/core/transformer/transformer_config.py:1340-1352"
    )
    refused = (f"{PIPELINE_LAYOUT}=Ett|ttL",)

    @classmethod
    def _stages(cls, c: Config) -> int:
        return len(pipeline_layout.readable(c) or ())

    @classmethod
    def holds(cls, c: Config) -> bool:
        if c[PP] == 1:
            return cls._stages(c) == 1 and c[VPP] in (None, 1)
        return cls._stages(c) == c[PP] * (c[VPP] or 1)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return (
            f"It has {cls._stages(c)} stages; PP x VPP is {c[PP]} x {c[VPP] or 1} = {c[PP] * (c[VPP] or 1)}. {cls.why}"
        )

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        stages = cls._stages(c)
        if c[PP] > 1 and stages % c[PP] == 0:
            return (Fix(f"{VPP}=null", "as many model chunks as the layout makes"), EVENLY)
        ranks = divisor_below(stages, c[PP]) if c[PP] > 1 else stages
        chunks = "one stage" if stages == ranks else f"{stages // ranks} stages"
        fewer = [Fix(f"{PP}={ranks} {VPP}=null", f"{chunks} per pipeline rank")] if ranks > 1 else []
        return (*fewer, EVENLY)


class PAR023(LayoutRule):
    """The pipeline layout does not hold the layers of the model."""

    requires = ("PAR021",)
    reads = (PIPELINE_LAYOUT, NUM_LAYERS, MTP)
    why = (
        "It begins with the embedding, ends with the loss, and has num_layers layers and mtp_num_layers of multi-token prediction; "
        "megatron-core asserts."
    )
    source = MCORE + "transformer/pipeline_parallel_layer_layout.py:94-113"
    refused = (f"{PIPELINE_LAYOUT}=EtL", "model.num_layers=2")

    @classmethod
    def _count(cls, c: Config, letter: str) -> int:
        return sum(stage.count(letter) for stage in pipeline_layout.readable(c) or ())

    @classmethod
    def _ends(cls, c: Config) -> bool:
        """Whether the embedding comes first, the loss last, and each of them once."""
        letters = "".join(pipeline_layout.readable(c) or ())
        once = letters.count(pipeline_layout.EMBEDDING) == 1 == letters.count(pipeline_layout.LOSS)
        return once and letters.startswith(pipeline_layout.EMBEDDING) and letters.endswith(pipeline_layout.LOSS)

    @classmethod
    def _layers(cls, c: Config) -> int:
        return cls._count(c, pipeline_layout.LAYER)

    @classmethod
    def _predicting(cls, c: Config) -> int:
        return cls._count(c, pipeline_layout.MTP_LAYER)

    @classmethod
    def holds(cls, c: Config) -> bool:
        layers = c[NUM_LAYERS] is None or c[NUM_LAYERS] == cls._layers(c)
        return cls._ends(c) and layers and cls._predicting(c) == (c[MTP] or 0)

    @classmethod
    def why_for(cls, c: Config) -> str:
        said = f"It has {cls._layers(c)} layers and {cls._predicting(c)} of multi-token prediction"
        ends = (
            ""
            if cls._ends(c)
            else "; its first letter has to be E and its last one L, and each of them stands there once"
        )
        return f"{said}{ends}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if not cls._ends(c) or not cls._layers(c):
            return (EVENLY,)
        layers, more = cls._layers(c), cls._predicting(c)
        changes = [f"{NUM_LAYERS}={layers}"] if c[NUM_LAYERS] not in (None, layers) else []
        changes += [f"{MTP}={more or 'null'}"] if more != (c[MTP] or 0) else []
        return (Fix(" ".join(changes), ARCHITECTURE), EVENLY)


class PAR024(LayoutRule):
    """The pipeline layout has multi-token-prediction layers where megatron-core has none.

    They come after the last layer, in one stage, which is the last model chunk of its pipeline rank.
    """

    requires = ("PAR022", "PAR023")
    reads = (PIPELINE_LAYOUT, PP)
    why = "They come after the last layer, all in one stage, and in the last model chunk of a pipeline rank; megatron-core asserts."
    source = MCORE + "transformer/pipeline_parallel_layer_layout.py:114-135"
    refused = (f"{PIPELINE_LAYOUT}=Et|tm||L", f"{PP}=2", f"{MTP}=1")
    fixes = (EVENLY,)

    @classmethod
    def holds(cls, c: Config) -> bool:
        stages = pipeline_layout.readable(c) or ()
        predicting = [place for place, stage in enumerate(stages) if pipeline_layout.MTP_LAYER in stage]
        if not predicting:
            return True
        letters = "".join(stages)
        after = pipeline_layout.LAYER not in letters[letters.index(pipeline_layout.MTP_LAYER) :]
        return after and len(predicting) == 1 and predicting[0] >= len(stages) - c[PP]


class PAR025(LayoutRule):
    """A pipeline layout is written down beside another way to split the layers."""

    reads = SPLIT
    why = "The layout says which layers each stage has, the embedding and the loss included; megatron-core raises."
    source = MCORE + "transformer/transformer_config.py:1307-1324"
    refused = (f"{PIPELINE_LAYOUT}=EttL", f"{COUNT_LOSS}=true")

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return (PIPELINE_LAYOUT, *(key for key in UNEVEN if c[key]))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(c[key] for key in UNEVEN)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(_even(c), "keeps the layout"), EVENLY)


RULES: tuple[type[Rule], ...] = (
    PAR001, PAR002, PAR003, PAR004, PAR005, PAR006, PAR007, PAR008, PAR009, PAR010, PAR011, PAR012, PAR013, PAR014,
    PAR015, PAR016, PAR017, PAR018, PAR019, PAR020, PAR021, PAR022, PAR023, PAR024, PAR025,
)  # fmt: skip

DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="PAR101",
        key=WORLD,
        value=smallest_world,
        reason="the smallest number of ranks that TP x PP x CP and ETP x EP x PP both divide",
        source=MCORE + "parallel_state.py:741, 794",
        records=("dp-size-none",),
    ),
    Derivation(
        id="PAR102",
        key=VPP,
        value=pipeline_layout.virtual_size,
        reason="the stages of pipeline_model_parallel_layout over PP; null without a layout",
        source=MCORE + "transformer/transformer_config.py:1340-1352",
    ),
)
