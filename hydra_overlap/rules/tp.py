"""TP: tensor-parallel overlap, Transformer Engine's userbuffers."""

from ..findings import Fix
from ..schema.keys import (
    BF16,
    BOOTSTRAP,
    BULK_DGRAD,
    BULK_WGRAD,
    CP,
    DELAY_WGRAD,
    EXPERTS,
    FP4,
    FP8,
    FP8_RECIPE,
    FP16,
    GPU,
    HIDDEN,
    MBS,
    MLA,
    MTP,
    NO_FC1,
    NO_QKV,
    NVLINK_DOMAIN,
    OVERLAP_AG,
    OVERLAP_RS,
    RS_DGRAD,
    SEQ_LENGTH,
    SHARED_EXPERT,
    SHARED_EXPERT_OVERLAP,
    SP,
    SYMMETRIC_AR,
    TE,
    TORCH,
    TP,
    TP_OVERLAP,
    TUNED_TP,
    UB_LAYERS,
    VARIABLE_LENGTHS,
    WORLD,
)
from ..schema.versions import at_least
from ._base import ARCHITECTURE, GIVES_UP, KEEPS, Config, Derivation, Rule
from .layout import divisor_below, neighbours

PART_KEYS = (OVERLAP_AG, OVERLAP_RS, RS_DGRAD, BULK_DGRAD, BULK_WGRAD)
OFF = Fix(f"{TP_OVERLAP}=false", GIVES_UP)
CONFIG = "megatron-core core_v0.16.1 megatron/core/model_parallel_config.py:"
LINEAR = "megatron-core core_v0.16.1 megatron/core/extensions/transformer_engine.py:"
TE_212 = "Transformer Engine v2.12 transformer_engine/"

OLDEST_TE = "2.8.0"
TP_SIZES = (2, 4, 8, 16, 32)  # the kernels are instantiated for these numbers of ranks
MXFP8_BLOCK = 128  # rows and columns; MXFP8 scales are padded to such tiles
LEGAL = (f"{TP_OVERLAP}=true", f"{TP}=2", f"{SP}=true", f"{TE}=2.11.0")
"""The smallest legal request with TP overlap, as overrides; most examples add one to it."""


def scaled_by_mxfp8(c: Config) -> bool:
    """Whether GEMMs run in MXFP8; a recipe without FP8 is read by nobody."""
    return (c[FP8] is not None, c[FP8_RECIPE]) == (True, "mxfp8")


def dgrad_layers(c: Config) -> dict[str, bool]:
    """Of qkv and of fc1: whether its input gradient is reduce-scattered under its own dgrad GEMM (else the bulk overlaps).

    megatron-core takes the reduce-scatter from a layer whose all-gather is disabled; Transformer Engine takes both bulk
    overlaps from a layer that has it. Source: megatron/core/extensions/transformer_engine.py:783-804 (core_v0.16.1),
    transformer_engine/pytorch/module/layernorm_linear.py:1208-1227 (v2.12).
    """
    return {"qkv": bool(c[RS_DGRAD]) and not c[NO_QKV], "fc1": bool(c[RS_DGRAD]) and not c[NO_FC1]}


def has_tp_mlp(c: Config) -> bool:
    """Whether there is an fc1 and an fc2 with tensor-parallel communication of their own.

    Experts have none; a shared expert has, unless its overlap moves it beside the dispatch. Source: megatron/core/
    transformer/moe/shared_experts.py:92-101 (core_v0.16.1).
    """
    experts, shared, beside_dispatch = c[EXPERTS], c[SHARED_EXPERT], c[SHARED_EXPERT_OVERLAP]
    return not experts or (bool(shared) and not beside_dispatch)


class TpRule(Rule):
    """Base: applies while TP overlap is on."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP])


class TP001(TpRule):
    """TP overlap is on with a single tensor-parallel rank."""

    reads = (TP_OVERLAP, TP)
    why = (
        "With TP = 1 there is no tensor-parallel communication to overlap; Megatron-Bridge switches the overlap off "
        "with a log line."
    )
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:444"
    records = ("tp-overlap-requires-tp-gt-1",)
    refused = (f"{TP_OVERLAP}=true",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TP] >= 2

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        ranks = max(2, c[TUNED_TP] or 2)
        keeps = Fix(f"{TP}={ranks} {SP}=true {WORLD}={c[WORLD] * ranks}", f"{KEEPS} ({ranks} times the ranks)")
        return (keeps, OFF)


class TP002(TpRule):
    """TP overlap is on without sequence parallelism."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, SP)
    why = (
        "Userbuffers overlap the all-gathers and reduce-scatters that sequence parallelism creates; without it there "
        "are none. Megatron-Bridge switches the overlap off, Megatron-LM asserts."
    )
    source = "megatron-core core_v0.16.1 megatron/training/arguments.py:915-916"
    records = ("tp-overlap-requires-sequence-parallel",)
    refused = (f"{TP_OVERLAP}=true", f"{TP}=2", f"{TE}=2.11.0")
    fixes = (Fix(f"{SP}=true", KEEPS), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[SP])


class TP003(TpRule):
    """TP overlap is on without Transformer Engine."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, TE)
    why = (
        "Userbuffers are part of Transformer Engine. Without it Megatron-Bridge switches the overlap off with a log "
        "line, and megatron-core's local layers never read the flag."
    )
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:450"
    records = ("tp-overlap-requires-transformer-engine",)
    refused = (f"{TP_OVERLAP}=true", f"{TP}=2", f"{SP}=true")
    fixes = (Fix(f"{TE}=2.11.0", KEEPS + ", if the run will have that version"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class TP004(TpRule):
    """TP overlap is on, but the platform has no GPU."""

    reads = (TP_OVERLAP, GPU)
    why = "Userbuffers are CUDA kernels and NVLink peer buffers. A plan for a GPU can be rehearsed on this machine."
    source = "Transformer Engine v2.11 transformer_engine/pytorch/module/base.py initialize_ub"
    refused = (*LEGAL, "platform.name=cpu")
    fixes = (Fix("platform=h100", KEEPS + " (plans for that GPU)"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[GPU] != "cpu"


class TP005(Rule):
    """Parts of TP overlap are on while TP overlap is off."""

    reads = (TP_OVERLAP, *PART_KEYS)
    why = (
        "These flags choose how userbuffers overlap each GEMM; megatron-core reads none of them while tp_comm_overlap "
        "is false."
    )
    source = CONFIG + "186-215"
    records = ("tp-bulk-flags-without-overlap",)
    refused = ("comm_overlap.tp.tp_comm_overlap_ag=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return not c[TP_OVERLAP]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(c[key] for key in PART_KEYS)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        asked = " ".join(f"{key}=null" for key in PART_KEYS if c[key])
        return (Fix(asked, GIVES_UP), Fix(f"{TP_OVERLAP}=true", KEEPS))


class TP006(TpRule):
    """Bulk wgrad overlap is on together with delayed weight gradients."""

    reads = (TP_OVERLAP, BULK_WGRAD, DELAY_WGRAD)
    why = (
        "The bulk reduce-scatter runs under the wgrad GEMM, which delay_wgrad_compute takes out of backward; "
        "Transformer Engine fails while the model is built."
    )
    source = "Transformer Engine v2.11 transformer_engine/pytorch/module/layernorm_linear.py; reproduced on 2.12"
    records = ("tp-overlap-delay-wgrad-bulk-wgrad",)
    refused = (
        *LEGAL, f"{BULK_WGRAD}=true", f"{DELAY_WGRAD}=true", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true", "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall", "software.torch=2.11.0",
    )  # fmt: skip
    fixes = (
        Fix(f"{BULK_WGRAD}=false", "keeps both other overlaps"),
        Fix(f"{DELAY_WGRAD}=false", "keeps the bulk overlap"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP] and c[DELAY_WGRAD])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[BULK_WGRAD]


class TP007(TpRule):
    """TP overlap spans more than one NVLink domain."""

    requires = ("TP001", "TP004")
    reads = (TP_OVERLAP, TP, NVLINK_DOMAIN)
    why = "Userbuffers write into their peers' memory over NVLink, which does not reach ranks outside the domain."
    source = (
        TE_212
        + "pytorch/module/base.py:223-235 (one domain = TP consecutive ranks); common/comm_gemm_overlap/userbuffers/userbuffers-host.cpp"
    )
    records = ("tp-overlap-tp-domain",)
    refused = (
        f"{TP_OVERLAP}=true", f"{TP}=16", f"{SP}=true", f"{TE}=2.11.0", "platform.nvlink_domain_size=8",
    )  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        domain = c[NVLINK_DOMAIN]
        return domain is None or c[TP] <= domain

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{TP}={divisor_below(c[TP], c[NVLINK_DOMAIN])}", KEEPS + " (fewer TP ranks)"), OFF)


class TP008(TpRule):
    """TP overlap is on with Transformer Engine older than 2.8.

    What upstream does: Megatron-LM core_v0.16.1 (initialize.py:279) and Megatron-Bridge up to v0.4.2 ask for 2.7, which
    has no UserBufferQuantizationMode, so the import fails; Megatron-Bridge v0.6.0 asks for 2.8. Before 1.9 buffers were
    bootstrapped over MPI whatever tp_comm_bootstrap_backend said.
    """

    requires = ("TP003",)
    reads = (TP_OVERLAP, TE)
    why = (
        "initialize_ub takes quantization_modes since 2.8, not 2.7. The same version made room for the 24 buffers of "
        "two number formats."
    )
    source = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/initialize.py:360; Transformer Engine v2.8 transformer_engine/pytorch/module/base.py"
    records = ("tp-init-te-27-userbuffer-mode", "tp-init-te-lt-19-mpi")
    refused = (f"{TP_OVERLAP}=true", f"{TP}=2", f"{SP}=true", f"{TE}=2.7.0")
    fixes = (Fix(f"{TE}=2.11.0", KEEPS + ", if the run will have that version"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TE], OLDEST_TE)


class TP009(TpRule):
    """TP overlap is on with a number format other than bf16.

    What upstream does: Megatron-LM, Megatron-Bridge and Transformer Engine check no number format. Buffers are bf16
    unless told otherwise, copying into them compares element sizes only, and the reduce-scatter kernels add bf16.

    When it applies: to fp16 always, and to fp32 if the request sets seq_length and hidden_size, the shape of the buffers.
    A request without these belongs to a program that sets them, and its number format, elsewhere.
    """

    requires = ("TP001",)
    reads = (TP_OVERLAP, BF16, FP16, SEQ_LENGTH, HIDDEN)
    shows = (TP_OVERLAP, BF16, FP16)
    why = (
        "The buffers and the kernels that sum in them are bf16. fp16 numbers would silently be added as if they were "
        "bf16; fp32 numbers do not fit and stop the first forward."
    )
    source = (
        TE_212
        + "common/comm_gemm_overlap/userbuffers/userbuffers.cu:11-15; pytorch/csrc/extensions/comm_gemm_overlap.cpp:150-155"
    )
    refused = (*LEGAL, "precision.fp16=true")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[FP16] and (bool(c[BF16]) or None in (c[SEQ_LENGTH], c[HIDDEN]))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        other = " precision.fp16=false" if c[FP16] else ""
        return (Fix(f"{BF16}=true{other}", f"{KEEPS}, trains in bf16"), OFF)


class TP010(TpRule):
    """TP overlap has no kernels for this tensor-parallel size.

    Ring exchange alone would run with other numbers, but the bulk overlaps are always on, and they have no kernels for them.
    """

    requires = ("TP001", "TP007")
    reads = (TP_OVERLAP, TP)
    why = (
        "The userbuffers kernels exist for 2, 4, 8, 16 and 32 ranks. For any other number no kernel is launched, no "
        "error is raised, and the data is wrong."
    )
    source = TE_212 + "common/comm_gemm_overlap/userbuffers/userbuffers.cu:1881-1895"
    records = ("tp-overlap-tp-size-set",)
    refused = (f"{TP_OVERLAP}=true", f"{TP}=6", f"{SP}=true", f"{TE}=2.11.0")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TP] in TP_SIZES

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        replicas = max(1, c[WORLD] // c[TP])
        below = max(size for size in TP_SIZES if size < c[TP])
        above = [size for size in TP_SIZES if size > c[TP]][:1]
        keeps = (Fix(f"{TP}={n} {WORLD}={replicas * n}", f"{KEEPS}, with as many replicas") for n in (below, *above))
        return (*keeps, OFF)


class TP011(TpRule):
    """TP overlap is on with multi-latent attention.

    What upstream does: the first projection whose buffer is not named qkv, proj, fc1 or fc2 sets tp_comm_overlap=False
    on the configuration that all layers share. Only the output projection of the first layer, which is built earlier,
    keeps its buffers, although the warning says "for this layer". This holds for megatron-core 0.16.1 to 0.19.0.
    """

    reads = (TP_OVERLAP, MLA)
    why = "megatron-core switches the overlap off for the whole model while it builds the first latent projection."
    source = LINEAR + "536-547"
    records = ("tp-overlap-mla",)
    refused = (*LEGAL, "model.multi_latent_attention=true")
    fixes = (OFF, Fix("model.multi_latent_attention=false", ARCHITECTURE))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[MLA]


class TP012(TpRule):
    """TP overlap is on with multi-token prediction.

    What upstream does: up to megatron-core 0.16.1 the build stops ("Buffer name should be set"). Since 0.17 the
    projection is named mtp_eh_proj, which userbuffers do not know: the prediction layers overlap nothing, and
    tp_comm_overlap is False after the build.
    """

    reads = (TP_OVERLAP, MTP)
    why = (
        "The projection of a multi-token-prediction layer has no buffer: the build stops, or megatron-core switches "
        "the overlap off."
    )
    source = LINEAR + "575; Megatron-LM core_v0.17.1 megatron/core/transformer/multi_token_prediction.py"
    records = ("tp-overlap-mtp",)
    refused = (*LEGAL, "model.mtp_num_layers=1")
    fixes = (OFF, Fix("model.mtp_num_layers=null", ARCHITECTURE))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[MTP]


class TP013(TpRule):
    """TP overlap is on with variable sequence lengths."""

    reads = (TP_OVERLAP, VARIABLE_LENGTHS)
    why = (
        "The buffers are allocated once, for seq_length x micro_batch_size tokens; a microbatch with another number of "
        "tokens stops the run in the middle of a forward."
    )
    source = (
        TE_212
        + "pytorch/csrc/extensions/comm_gemm_overlap.cpp:164-173; Megatron-LM core_v0.16.1 megatron/training/initialize.py:272"
    )
    records = ("tp-shape-static",)
    refused = (*LEGAL, "model.variable_seq_lengths=true")
    fixes = (Fix("model.variable_seq_lengths=false", KEEPS + ", sequences padded or packed to seq_length"), OFF)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[VARIABLE_LENGTHS]


class TP014(TpRule):
    """TP overlap does not support this FP8 recipe."""

    reads = (TP_OVERLAP, FP8, FP8_RECIPE)
    why = (
        "Userbuffers gather FP8 data with one scale per tensor, or MXFP8; for any other quantizer the first forward "
        "raises."
    )
    source = TE_212 + "pytorch/module/base.py:501-603"
    records = ("ub-precision-unsupported-quantizer",)
    refused = (*LEGAL, f"{FP8}=e4m3", f"{FP8_RECIPE}=blockwise")
    fixes = (
        Fix(f"{FP8_RECIPE}=tensorwise", KEEPS + ", one scale per tensor"),
        Fix(f"{FP8}=null {FP8_RECIPE}=null precision.fp8_param_gather=false", KEEPS + ", trains in bf16"),
        OFF,
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP]) and c[FP8] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP8_RECIPE] in (None, "delayed", "tensorwise", "mxfp8")  # megatron-core's default: delayed


class TP015(TpRule):
    """Tokens per rank or hidden_size is not a multiple of 128 for TP overlap in MXFP8."""

    requires = ("PAR008", "TP014")
    reads = (TP_OVERLAP, FP8, FP8_RECIPE, SEQ_LENGTH, MBS, CP, TP, HIDDEN)
    why = "MXFP8 scales are padded to 128 x 128 tiles, and a chunk of a userbuffer is gathered without padding."
    source = (
        TE_212 + "pytorch/module/base.py:559-563; common/comm_gemm_overlap/comm_gemm_overlap.cpp (get_tensor_chunk)"
    )
    records = ("ub-mxfp8-alignment", "cp-ub-buffer-shape")
    refused = (*LEGAL, f"{FP8}=e4m3", f"{FP8_RECIPE}=mxfp8", f"{SEQ_LENGTH}=128")

    @classmethod
    def rows(cls, c: Config) -> int | None:
        """Tokens of a micro-batch on one rank; None while seq_length is not said."""
        return None if c[SEQ_LENGTH] is None else c[SEQ_LENGTH] * c[MBS] // (c[CP] * c[TP])

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP]) and scaled_by_mxfp8(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(size is not None and size % MXFP8_BLOCK for size in (cls.rows(c), c[HIDDEN]))

    @classmethod
    def why_for(cls, c: Config) -> str:
        rows = cls.rows(c)
        said = [] if rows is None else [f"{rows} tokens per rank (seq_length x micro_batch_size / CP / TP)"]
        said += [] if c[HIDDEN] is None else [f"hidden_size {c[HIDDEN]}"]
        return f"{', '.join(said)}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        rows, hidden = cls.rows(c), c[HIDDEN]
        architecture = neighbours(hidden, MXFP8_BLOCK) if hidden is not None and hidden % MXFP8_BLOCK else ()
        fixes = [Fix(f"{HIDDEN}={n}", ARCHITECTURE) for n in architecture]
        if rows is not None and rows % MXFP8_BLOCK:
            lengths = neighbours(c[SEQ_LENGTH], MXFP8_BLOCK * c[CP] * c[TP])
            fixes += [Fix(f"{SEQ_LENGTH}={n}", "nearest valid value, " + KEEPS) for n in lengths]
        return (*fixes, Fix(f"{FP8_RECIPE}=tensorwise", KEEPS + ", one scale per tensor"), OFF)


class TP016(TpRule):
    """TP overlap is on with all its parts off."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, *PART_KEYS)
    why = "With every part off, tp_comm_overlap=true allocates the buffers and overlaps nothing."
    source = LINEAR + "550-566, 782-804"
    refused = (
        *LEGAL,
        *(f"{key}=false" for key in PART_KEYS if key != RS_DGRAD),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return any(c[key] for key in PART_KEYS)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix("comm_overlap.tp.tp_comm_overlap_ag=true comm_overlap.tp.tp_comm_overlap_rs=true", KEEPS), OFF)


class TP017(TpRule):
    """Bulk overlaps and the dgrad reduce-scatter are on for the same layers."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, RS_DGRAD, BULK_DGRAD, BULK_WGRAD, NO_QKV, NO_FC1)
    why = (
        "Transformer Engine drops both bulk overlaps of a layer that reduce-scatters under its dgrad GEMM, so the ones "
        "asked for would be missing."
    )
    source = TE_212 + "pytorch/module/layernorm_linear.py:1214-1227"
    records = ("tp-rs-dgrad-wins-over-bulk",)
    refused = (*LEGAL, f"{RS_DGRAD}=true", f"{BULK_DGRAD}=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP] and c[RS_DGRAD])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not (c[BULK_DGRAD] or c[BULK_WGRAD]) or not all(dgrad_layers(c).values())

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        bulk = " ".join(f"{key}=false" for key in (BULK_DGRAD, BULK_WGRAD) if c[key])
        return (
            Fix(bulk, "keeps the dgrad reduce-scatter overlap"),
            Fix(f"{RS_DGRAD}=false", "keeps the bulk overlaps"),
        )


class TP018(TpRule):
    """The dgrad reduce-scatter is on, but no layer can overlap it."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, RS_DGRAD, NO_QKV, NO_FC1, EXPERTS, SHARED_EXPERT, SHARED_EXPERT_OVERLAP)
    shows = (RS_DGRAD, NO_QKV, NO_FC1, EXPERTS)
    why = (
        "megatron-core overlaps it only in qkv and fc1, and only where their all-gather overlap is not disabled. "
        "Experts have no fc1 that userbuffers know."
    )
    source = LINEAR + "798-804"
    refused = (*LEGAL, f"{RS_DGRAD}=true", f"{NO_QKV}=true", f"{NO_FC1}=true")
    fixes = (
        Fix(f"{NO_QKV}=false {NO_FC1}=false", KEEPS),
        Fix(f"{RS_DGRAD}=false", "keeps the bulk overlaps"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP] and c[RS_DGRAD])

    @classmethod
    def holds(cls, c: Config) -> bool:
        layers, mlp = dgrad_layers(c), has_tp_mlp(c)
        return layers["qkv"] or (layers["fc1"] and mlp)


class TP019(Rule):
    """Symmetric all-reduce without torch 2.7 and Transformer Engine 2.3, or newer."""

    reads = (SYMMETRIC_AR, TORCH, TE)
    why = (
        "megatron-core asserts both versions. Without Transformer Engine 0.16.1 stops with a TypeError, and its own "
        "layers never read the setting."
    )
    source = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_config.py:1953-1962"
    records = ("tp-symmetric-ar-type",)
    refused = (f"{SYMMETRIC_AR}=one_shot", f"{TP}=2")
    fixes = (
        Fix(f"software.torch=2.11.0 {TE}=2.11.0", "if the run will have those versions"),
        Fix(f"{SYMMETRIC_AR}=null", "NCCL's all-reduce"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[SYMMETRIC_AR] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TORCH], "2.7.0a0") and at_least(c[TE], "2.3.0")


class TP020(Rule):
    """Symmetric all-reduce is set, but this layout has no tensor-parallel all-reduce."""

    reads = (SYMMETRIC_AR, TP, SP)
    why = (
        "Sequence parallelism replaces the all-reduce of a row-parallel layer with a reduce-scatter; with TP = 1 there "
        "is no all-reduce."
    )
    source = TE_212 + "pytorch/module/linear.py:352-363"
    refused = (f"{SYMMETRIC_AR}=one_shot", "software.torch=2.11.0", f"{TE}=2.11.0")
    fixes = (Fix(f"{SYMMETRIC_AR}=null", "changes nothing else"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[SYMMETRIC_AR] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TP] > 1 and not c[SP]


class TP021(TpRule):
    """TP overlap is on with NVFP4."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, FP4)
    why = (
        "Userbuffers have no buffers for NVFP4 data: Transformer Engine raises 'Unsupported quantizer for Userbuffers' in "
        "the first forward. Megatron-LM and Megatron-Bridge accept the combination."
    )
    source = "Transformer Engine v2.9 transformer_engine/pytorch/module/base.py:634-635; v2.11 :597-598; v2.20 :753-754"
    refused = (*LEGAL, f"{FP4}=e2m1")
    fixes = (
        Fix(f"{FP4}=null precision.fp4_recipe=null precision.fp4_param_gather=false", KEEPS + ", trains in bf16"),
        OFF,
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[FP4] is None


class TP201(TpRule):
    """A layer whose all-gather overlap is disabled keeps its bulk overlaps."""

    severity = "note"
    requires = ("TP001",)
    reads = (TP_OVERLAP, NO_QKV, NO_FC1, BULK_DGRAD, BULK_WGRAD)
    why = (
        "tp_comm_overlap_disable_qkv and _fc1 switch off the forward all-gather overlap and the dgrad reduce-scatter "
        "overlap, nothing else."
    )
    source = LINEAR + "783-804"
    records = ("tp-disable-qkv-fc1-partial",)
    refused = (*LEGAL, f"{NO_QKV}=true")
    fixes = (Fix(f"{BULK_DGRAD}=false {BULK_WGRAD}=false", "switches the bulk overlaps off in every layer"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP] and (c[NO_QKV] or c[NO_FC1]))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any((c[BULK_DGRAD], c[BULK_WGRAD]))


class TP202(TpRule):
    """TP overlap does not reach the experts of a mixture-of-experts model."""

    severity = "note"
    requires = ("TP001",)
    reads = (TP_OVERLAP, EXPERTS)
    why = (
        "Grouped and expert layers get no buffers; attention, dense MLPs and shared experts do. Bulk overlaps exist "
        "only where a norm is fused into the next layer, which a shared expert's fc1 does not have."
    )
    source = LINEAR + "557-566, 782-783"
    records = ("tp-overlap-experts-never", "tp-overlap-frozen-module-flag-bulk-only-lnlinear")
    refused = (*LEGAL, "model.num_moe_experts=4")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[EXPERTS] is None


RULES: tuple[type[Rule], ...] = (
    TP001, TP002, TP003, TP004, TP005, TP006, TP007, TP008, TP009, TP010, TP011, TP012, TP013, TP014, TP015, TP016,
    TP017, TP018, TP019, TP020, TP021, TP201, TP202,
)  # fmt: skip


def _non_bulk(c: Config) -> bool:
    """Whether the userbuffers dictionary names dgrads of qkv or fc1, none of them bulk."""
    entries = [c[UB_LAYERS][f"{layer}_dgrad"] for layer in ("qkv", "fc1") if f"{layer}_dgrad" in c[UB_LAYERS]]
    return bool(entries) and all(entry.get("method", "bulk") != "bulk" for entry in entries)


def _bulk_everywhere_taken(c: Config) -> bool:
    return all(dgrad_layers(c).values())


def _bulk_reason(c: Config) -> str:
    if not c[TP_OVERLAP]:
        return "tp_comm_overlap is off"
    taken = _bulk_everywhere_taken(c)
    return "tp_comm_overlap_rs_dgrad takes its place (TP017)" if taken else "megatron-core's default"


def _default(name: str, value: bool, number: str, line: int) -> Derivation:
    return Derivation(
        id=number, key=f"comm_overlap.tp.{name}", value=lambda c: value and bool(c[TP_OVERLAP]),
        reason=lambda c: "megatron-core's default" if c[TP_OVERLAP] else "tp_comm_overlap is off", source=f"{CONFIG}{line}",
    )  # fmt: skip


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(
        id="TP101",
        key=TP_OVERLAP,
        value=lambda c: False,
        reason="off upstream unless it is asked for",
        source=CONFIG + "186",
        records=("tp-overlap-unset-means-false",),
    ),
    Derivation(
        id="TP102",
        key=BOOTSTRAP,
        value=lambda c: "nccl",
        reason="megatron-core's default",
        source=CONFIG + "261",
        records=("ub-bootstrap-backend",),
    ),
    _default("tp_comm_overlap_ag", True, "TP103", 202),
    _default("tp_comm_overlap_rs", True, "TP104", 207),
    Derivation(
        id="TP105",
        key=RS_DGRAD,
        value=lambda c: bool(c[TP_OVERLAP]) and _non_bulk(c),
        reason=lambda c: (
            "tp_comm_overlap is off"
            if not c[TP_OVERLAP]
            else "the userbuffers dictionary names dgrads that are not bulk (UB008)"
            if _non_bulk(c)
            else "megatron-core's default"
        ),
        source=CONFIG + "212",
        records=("ub-nonbulk-dgrad-needs-rs-dgrad-flag",),
    ),
    Derivation(
        id="TP106",
        key=BULK_DGRAD,
        value=lambda c: bool(c[TP_OVERLAP]) and not _bulk_everywhere_taken(c),
        reason=lambda c: _bulk_reason(c),
        source=CONFIG + "197",
    ),
    Derivation(
        id="TP107",
        key=BULK_WGRAD,
        value=lambda c: bool(c[TP_OVERLAP]) and not c[DELAY_WGRAD] and not _bulk_everywhere_taken(c),
        reason=lambda c: (
            "delay_wgrad_compute takes the wgrad GEMM out of backward (TP006)"
            if c[TP_OVERLAP] and c[DELAY_WGRAD]
            else _bulk_reason(c)
        ),
        source=CONFIG + "192",
    ),
    _default("tp_comm_overlap_disable_qkv", False, "TP108", 251),
    _default("tp_comm_overlap_disable_fc1", False, "TP109", 256),
)
