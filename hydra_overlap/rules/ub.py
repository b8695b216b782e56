"""UB: the userbuffers dictionary, in which Transformer Engine silently accepts most mistakes."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from ..findings import Fix, Place, yaml_value
from ..schema.keys import (
    BF16,
    BF16_AT_END,
    BF16_AT_START,
    BULK_DGRAD,
    BULK_WGRAD,
    CP,
    FIRST_LAST_BF16,
    FP8,
    FP8_RECIPE,
    GPU,
    HIDDEN,
    MBS,
    NO_FC1,
    NO_QKV,
    OVERLAP_AG,
    OVERLAP_RS,
    RS_DGRAD,
    SEQ_LENGTH,
    TP,
    TP_OVERLAP,
    TUNED_CP,
    TUNED_GPU,
    TUNED_HIDDEN,
    TUNED_MBS,
    TUNED_PRECISION,
    TUNED_SEQ_LENGTH,
    TUNED_TP,
    UB_LAYERS,
    UB_NAME,
    WORLD,
)
from ..suggest import did_you_mean, nearest
from ._base import Config, Origin, Rule
from .layout import divisor_below, model_ranks
from .tp import LEGAL, MXFP8_BLOCK, dgrad_layers, scaled_by_mxfp8

TE_BASE = "Transformer Engine v2.11 transformer_engine/pytorch/module/base.py "

ALL_GATHER = ("qkv_fprop", "qkv_dgrad", "proj_dgrad", "proj_wgrad", "fc1_fprop", "fc1_dgrad", "fc2_dgrad", "fc2_wgrad")
REDUCE_SCATTER = ("proj_fprop", "fc2_fprop", "qkv_wgrad", "fc1_wgrad")
GEMMS = ALL_GATHER + REDUCE_SCATTER
PASSES = {"fwd": "fprop", "bwd": "dgrad", "bwd_x": "dgrad", "bwd_w": "wgrad"}  # names the passes have elsewhere
DGRAD = ("qkv_dgrad", "fc1_dgrad")  # bulk all-gather by default; another method turns them into a reduce-scatter
EXTERNAL = ("proj_wgrad", "fc2_wgrad")
BULK = ("qkv_dgrad", "qkv_wgrad", "fc1_dgrad", "fc1_wgrad")
PIPELINED = ("proj_fprop", "fc2_fprop")

UB_ARGUMENTS: dict[str, Any] = {
    "method": str, "is_reduce_scatter": bool, "num_sm": int, "cga_size": int, "set_sm_margin": bool, "num_splits": int,
    "aggregate": bool, "atomic_gemm": bool, "use_ce": bool, "fp8_buf": bool, "comm_priority": int,
    "gemm_priority": int, "pipeline_rs_overlap_first_gemm": bool,
}  # fmt: skip
TYPES = {str: "text", bool: "true or false", int: "a whole number"}
METHODS = ("bulk", "pipeline", "ring_exchange", "external")
MAX_SM = 32  # NVTE_MAX_SMS: the kernels' array of flags has that many entries
MAX_CGA = 4  # CTAs of a cluster; Megatron-Bridge v0.6.0 docs/performance-guide.md
SPLITS = 4  # Transformer Engine's default for pipelined GEMMs
TE_212 = "Transformer Engine v2.12 transformer_engine/"
NONE_FIX = Fix("userbuffers=none", "keeps the overlap with Transformer Engine's defaults")


def _num_sm(entry: Mapping[str, Any]) -> int:
    """The legal num_sm nearest to the one in `entry`: a multiple of its cga_size."""
    cga = entry.get("cga_size")
    step = cga if type(cga) is int and 1 <= cga <= MAX_SM else 1
    return step if entry["num_sm"] < 1 else MAX_SM // step * step


def legal_methods(gemm: str) -> tuple[str, ...]:
    """Methods Transformer Engine can run on one GEMM."""
    if gemm in EXTERNAL:
        return ("external",)
    if gemm in DGRAD:
        return ("bulk", "pipeline", "ring_exchange")  # not bulk: becomes a reduce-scatter of the dgrad GEMM
    if gemm in BULK:
        return ("bulk",)
    return ("ring_exchange",) if gemm in ALL_GATHER else ("ring_exchange", "pipeline")


def method_of(gemm: str, entry: Mapping[str, Any]) -> Any:
    """The method an entry asks for; Transformer Engine's default where it names none."""
    default = "external" if gemm in EXTERNAL else "bulk" if gemm in BULK else "ring_exchange"
    return entry.get("method", "pipeline" if gemm in PIPELINED else default)


class Problem(NamedTuple):
    """One offence. path: below userbuffers.layers. override: what mends it, None if nothing obvious does."""

    path: str
    text: str
    override: str | None


class UbRule(Rule):
    """Base: judges the dictionary entry by entry."""

    reads: ClassVar[tuple[str, ...]] = (UB_LAYERS,)
    shows: ClassVar[tuple[str, ...]] = (UB_NAME,)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        raise NotImplementedError

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(True for _ in cls.problems(c))

    @classmethod
    def why_for(cls, c: Config) -> str:
        return "; ".join(problem.text for problem in cls.problems(c)) + f". {cls.why}"

    @classmethod
    def places(cls, c: Config, origin: Origin) -> tuple[Place, ...]:
        paths = dict.fromkeys(problem.path for problem in cls.problems(c))
        entries = (
            Place(f"{UB_LAYERS}.{path}", yaml_value(_at(c[UB_LAYERS], path)), origin(f"{UB_LAYERS}.{path}"))
            for path in paths
        )
        return (*super().places(c, origin), *entries)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        """What mends every entry; TE's defaults if something has no obvious remedy.

        Not both: userbuffers=none beside an entry that was typed on the command line does not compose.
        """
        overrides = dict.fromkeys(problem.override for problem in cls.problems(c))
        if None in overrides:
            return (NONE_FIX,)
        return (Fix(" ".join(filter(None, overrides)), "corrects the dictionary"),)


def _at(layers: Mapping[str, Mapping[str, Any]], path: str) -> Any:
    """An entry, or one of its arguments."""
    if path in layers:
        return layers[path]
    gemm, _, argument = path.partition(".")
    return layers.get(gemm, {}).get(argument)


def _delete(*path: str) -> str | None:
    """The override that takes an entry or argument out; None for a name that no override can say."""
    return f"~{UB_LAYERS}.{'.'.join(path)}" if all(name.isidentifier() for name in path) else None


class UB001(Rule):
    """The userbuffers preset was tuned for another TP size."""

    requires = ("TP001",)
    reads = (TP_OVERLAP, TUNED_TP, TP)
    shows = (UB_NAME, TUNED_TP, TP)
    why = (
        "SM counts, splits and chunk sizes are chosen for one number of peers. At another TP size the ring has other "
        "chunks, and the published figures do not apply."
    )
    source = TE_BASE + "initialize_ub (num_splits = tp_size on rings); docs/decisions/0004-preset-off-its-shape.md"
    refused = (
        *LEGAL, "userbuffers.tuned_for.tp=4",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP]) and c[TUNED_TP] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[TUNED_TP] == c[TP])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        tuned, ranks = c[TUNED_TP], c[WORLD]
        if ranks * c[TP] % (tuned * model_ranks(c)) == 0:
            there = Fix(f"{TP}={tuned} {WORLD}={ranks}", f"keeps the overlap, the preset and the {ranks} GPUs")
        else:
            more = max(1, ranks // c[TP]) * tuned
            there = Fix(
                f"{TP}={tuned} {WORLD}={more}", f"keeps the overlap and the preset, on {more} GPUs instead of {ranks}"
            )
        return NONE_FIX, there


def meant(gemm: str) -> str | None:
    """The GEMM that a name which is none may stand for."""
    layer, _, part = gemm.partition("_")
    renamed = f"{layer}_{PASSES.get(part, part)}"
    return renamed if renamed in GEMMS else nearest(gemm, GEMMS)


class UB002(UbRule):
    """A userbuffers entry names an unknown GEMM."""

    why = "Transformer Engine looks entries up by name and never reads an entry with another name."
    source = TE_BASE + "initialize_ub"
    records = ("ub-unknown-gemm-name",)
    refused = ("userbuffers.layers.qkv_fwd={method:ring_exchange}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm in c[UB_LAYERS]:
            if gemm not in GEMMS:
                hint = f" (did you mean {meant(gemm)}?)" if meant(gemm) else ""
                yield Problem(gemm, f"There is no GEMM {gemm}{hint}", _delete(gemm))


class UB003(UbRule):
    """A userbuffers entry has an unknown argument, a wrong type or a value out of range."""

    requires = ("UB002",)
    why = "num_sm above 32 overruns the kernels' flags; Transformer Engine checks only the names."
    source = TE_BASE + "add_ub; common/comm_gemm_overlap/userbuffers/userbuffers.h NVTE_MAX_SMS"
    records = ("ub-unknown-key", "ub-num-sm-range", "ub-fp8-buf-tuple-truthy")
    refused = ("userbuffers.layers.qkv_fprop={num_sm:64}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            for name, value in entry.items():
                text, override = _judged(gemm, name, value, entry)
                if text:
                    yield Problem(f"{gemm}.{name}", text, override)


def _judged(gemm: str, name: str, value: Any, entry: Mapping[str, Any]) -> tuple[str, str | None]:
    """What is wrong with one argument (nothing: empty), and the override that mends it."""
    place = f"{UB_LAYERS}.{gemm}.{name}"
    if name not in UB_ARGUMENTS:
        return f"{gemm} has no argument {name}{did_you_mean(name, UB_ARGUMENTS)}", _delete(gemm, name)
    if type(value) is not UB_ARGUMENTS[name]:
        return f"{gemm}.{name} is {TYPES[UB_ARGUMENTS[name]]}, not {yaml_value(value)}", _delete(gemm, name)
    if name == "num_sm" and not 1 <= value <= MAX_SM:
        return f"{gemm}.num_sm={value} is outside 1..{MAX_SM}", f"{place}={_num_sm(entry)}"
    if name in ("cga_size", "num_splits") and value < 1:
        return f"{gemm}.{name}={value} is below 1", f"{place}=1"
    return "", None


class UB004(UbRule):
    """A userbuffers entry uses a method that its GEMM cannot run."""

    requires = ("UB002",)
    why = "Transformer Engine accepts unknown and misplaced methods at start; later they fail or another method runs."
    source = TE_BASE + "initialize_ub (methods)"
    records = ("ub-unknown-method", "ub-pipeline-not-for-allgather", "ub-external-only")
    refused = ("userbuffers.layers.proj_fprop={method:bulk}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            method, legal = entry.get("method"), legal_methods(gemm)
            if method is not None and method not in legal:
                text = f"{gemm} runs {' or '.join(legal)}, not {yaml_value(method)}"
                yield Problem(f"{gemm}.method", text, f"{UB_LAYERS}.{gemm}.method={legal[0]}")


class UB005(UbRule):
    """A layer has a wgrad entry beside a dgrad entry that is not bulk."""

    requires = ("UB004",)
    why = "Transformer Engine asserts that qkv and fc1 have either a bulk wgrad or a reduce-scatter on dgrad."
    source = TE_BASE + "initialize_ub (dgrad_reduce_scatter_overlap)"
    records = ("ub-nonbulk-dgrad-with-wgrad-entry",)
    refused = (
        "userbuffers.layers.qkv_dgrad={method:pipeline}",
        "userbuffers.layers.qkv_wgrad={method:bulk}",
    )

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm in DGRAD:
            wgrad = gemm.replace("dgrad", "wgrad")
            method = c[UB_LAYERS].get(gemm, {}).get("method", "bulk")
            if method != "bulk" and wgrad in c[UB_LAYERS]:
                yield Problem(f"{gemm}.method", f"{gemm} is {method} and {wgrad} is set too", _delete(wgrad))


class UB006(UbRule):
    """Atomic GEMM overlap is on."""

    requires = ("UB003",)
    why = (
        "It is a cuBLAS beta for FP8 with one scale per tensor, and paired ring GEMMs have to agree on it. Built for "
        "CUDA 13, Transformer Engine stops in the first forward; the presets of 2024 that use it were made for CUDA "
        "12."
    )
    source = TE_212 + "pytorch/module/base.py:332-366; common/gemm/cublaslt_gemm.cu:928-957"
    records = ("ub-atomic-fp8-only", "ub-atomic-ring-pair")
    refused = ("userbuffers.layers.qkv_fprop={atomic_gemm:true}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            if entry.get("atomic_gemm"):
                path = f"{gemm}.atomic_gemm"
                yield Problem(path, f"{path} is true", f"{UB_LAYERS}.{path}=false")


class UB007(UbRule):
    """A pipelined or ring dgrad with FP8 beside bf16 layers."""

    requires = ("UB004",)
    reads = (UB_LAYERS, TP_OVERLAP, FP8, FIRST_LAST_BF16, BF16_AT_START, BF16_AT_END)
    shows = (UB_NAME, FP8, FIRST_LAST_BF16)
    why = (
        "Transformer Engine makes two sets of buffers, and the second one removes the GEMM from a list that it has "
        "already left: ValueError: list.remove(x): x not in list."
    )
    source = TE_BASE + "initialize_ub (two quantization modes); measured on 2.10 to 2.20.2"
    records = ("ub-nonbulk-dgrad-with-two-quant-modes",)
    refused = (
        *LEGAL, f"{FP8}=hybrid", f"{FP8_RECIPE}=tensorwise", f"{FIRST_LAST_BF16}=true", "userbuffers.layers.qkv_dgrad={method:ring_exchange}",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        mixed = c[FP8] is not None and c[FIRST_LAST_BF16] and c[BF16_AT_START] + c[BF16_AT_END] > 0
        return bool(c[UB_LAYERS] and c[TP_OVERLAP] and mixed)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm in DGRAD:
            method = c[UB_LAYERS].get(gemm, {}).get("method", "bulk")
            if method != "bulk":
                yield Problem(f"{gemm}.method", f"{gemm} is {method}", f"{UB_LAYERS}.{gemm}.method=bulk")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (
            *super().fixes_for(c),
            Fix(f"{FIRST_LAST_BF16}=false", "keeps the preset, all layers in FP8"),
        )


class UB008(UbRule):
    """A userbuffers entry of qkv or fc1 contradicts tp_comm_overlap_rs_dgrad.

    tp_comm_overlap_rs_dgrad decides, not the dictionary: with it both layers reduce-scatter under their dgrad GEMM,
    without it they have the bulk overlaps. If it is null, it follows the dictionary (TP105).

    What upstream does: the two LoRA presets of Megatron-Bridge make fc1_dgrad pipelined and qkv_dgrad bulk, which no value
    of the flag gives. Megatron-Bridge never sets the flag and runs both in bulk.
    """

    requires = ("TP001", "UB004", "UB005")
    reads = (UB_LAYERS, TP_OVERLAP, RS_DGRAD, NO_QKV, NO_FC1)
    shows = (UB_NAME, RS_DGRAD)
    why = (
        "A pipelined entry would run as a bulk overlap, or the other way round; a ring stops the first backward with "
        '"Operation not supported".'
    )
    source = TE_212 + "common/include/transformer_engine/comm_gemm_overlap.h:266-273; pytorch/module/linear.py:546-565"
    records = ("ub-nonbulk-dgrad-needs-rs-dgrad-flag",)
    refused = (*LEGAL, f"{RS_DGRAD}=false", "userbuffers.layers.qkv_dgrad={method:ring_exchange}")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS] and c[TP_OVERLAP])

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for layer, scattered in dgrad_layers(c).items():
            dgrad, wgrad = f"{layer}_dgrad", f"{layer}_wgrad"
            if dgrad in c[UB_LAYERS]:
                method = c[UB_LAYERS][dgrad].get("method", "bulk")
                runs, legal = ("a reduce-scatter", "pipeline") if scattered else ("bulk", "bulk")
                if (method != "bulk") != scattered:
                    yield Problem(
                        f"{dgrad}.method",
                        f"{dgrad} is {method} and runs as {runs}",
                        f"{UB_LAYERS}.{dgrad}.method={legal}",
                    )
            elif scattered and wgrad in c[UB_LAYERS]:
                yield Problem(wgrad, f"{wgrad} has an entry and no bulk overlap", _delete(wgrad))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        other = "false" if c[RS_DGRAD] else "true"
        return (*super().fixes_for(c), Fix(f"{RS_DGRAD}={other}", "keeps the dictionary"))


class UB009(UbRule):
    """is_reduce_scatter contradicts what its GEMM overlaps."""

    requires = ("UB003", "UB004")
    why = "Transformer Engine would build a communicator for the other collective, which this GEMM never uses."
    source = TE_BASE + "initialize_ub (layers_all_gather_overlap, layers_reduce_scatter_overlap)"
    refused = ("userbuffers.layers.fc1_fprop={is_reduce_scatter:true}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            scatters = gemm in REDUCE_SCATTER or (gemm in DGRAD and entry.get("method", "bulk") != "bulk")
            if entry.get("is_reduce_scatter", scatters) != scatters:
                path = f"{gemm}.is_reduce_scatter"
                does = "a reduce-scatter" if scatters else "an all-gather"
                yield Problem(path, f"{gemm} overlaps {does}", f"{UB_LAYERS}.{path}={yaml_value(scatters)}")


class UB010(UbRule):
    """hidden_size cannot be cut into num_splits parts on a pipelined GEMM.

    Under MXFP8 each part also has to be a multiple of 128, because its scales are padded to 128 x 128 tiles.
    """

    requires = ("UB003", "UB004", "TP015")
    reads = (UB_LAYERS, HIDDEN, FP8, FP8_RECIPE)
    why = (
        "The GEMM's hidden_size outputs are cut into num_splits parts; a remainder would be neither computed nor sent."
    )
    source = TE_212 + "common/comm_gemm_overlap/comm_gemm_overlap.cpp:406 (m_chunk = m / num_splits)"
    records = ("ub-num-splits",)
    refused = ("userbuffers.layers.proj_fprop={method:pipeline,num_splits:3}", f"{HIDDEN}=128")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS]) and c[HIDDEN] is not None

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        block = MXFP8_BLOCK if scaled_by_mxfp8(c) else 1
        for gemm, entry in c[UB_LAYERS].items():
            splits = entry.get("num_splits", SPLITS)
            if method_of(gemm, entry) == "pipeline" and c[HIDDEN] % (splits * block):
                fitting = divisor_below(c[HIDDEN] // block, splits)
                path = f"{gemm}.num_splits"
                yield Problem(
                    path, f"{gemm} cuts {c[HIDDEN]} outputs into {splits} parts", f"{UB_LAYERS}.{path}={fitting}"
                )


class UB201(Rule):
    """The userbuffers preset was tuned for another configuration."""

    severity = "note"
    requires = ("UB001",)
    reads = (
        TP_OVERLAP, TUNED_GPU, TUNED_HIDDEN, TUNED_CP,
        TUNED_MBS, TUNED_SEQ_LENGTH, TUNED_PRECISION,
        GPU, HIDDEN, CP, MBS,
        SEQ_LENGTH, FP8, BF16,
    )  # fmt: skip
    shows = (UB_NAME,)
    source = "docs/decisions/0004-preset-off-its-shape.md"
    records = ("precision-tp-overlap-fp8-preset-mismatch",)
    refused = (
        *LEGAL, "userbuffers.tuned_for.seq_length=4096", "model.seq_length=8192",
    )  # fmt: skip

    @classmethod
    def differences(cls, c: Config) -> list[str]:
        """`hidden_size 8192, here 4096` for each dimension that is said on both sides and differs."""
        here = {
            "gpu": c[GPU],
            "hidden_size": c[HIDDEN],
            "cp": c[CP],
            "mbs": c[MBS],
            "seq_length": c[SEQ_LENGTH],
            "precision": "fp8" if c[FP8] else "bf16" if c[BF16] else None,
        }
        pairs = [(name, c[f"userbuffers.tuned_for.{name}"], value) for name, value in here.items()]
        return [
            f"{name} {tuned}, here {value}"
            for name, tuned, value in pairs
            if None not in (tuned, value) and tuned != value
        ]

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.differences(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return "Tuned for " + "; ".join(cls.differences(c)) + ". It works, but its speed is not the published one."


class UB202(Rule):
    """A userbuffers dictionary is set, but TP overlap is off."""

    severity = "note"
    reads = (TP_OVERLAP, UB_LAYERS)
    shows = (UB_NAME, TP_OVERLAP)
    why = "Nothing reads the dictionary while tp_comm_overlap is off."
    source = "megatron-core core_v0.16.1 megatron/training/initialize.py:242-252"
    refused = ("userbuffers.layers.qkv_fprop={method:ring_exchange}",)
    fixes = (Fix(f"{TP_OVERLAP}=true", "turns the overlap on"), Fix("userbuffers=none", "changes nothing else"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP])


class UB203(UbRule):
    """num_sm is not a multiple of cga_size, or cga_size exceeds 4."""

    severity = "note"
    requires = ("UB003",)
    why = (
        "The kernel is then launched without clusters, or in larger clusters than were tested. Two published presets "
        "do this."
    )
    source = (
        TE_212 + "common/comm_gemm_overlap/userbuffers/userbuffers.cu:1364; "
        "Megatron-Bridge v0.4.2 docs/performance-guide.md:210, 710"
    )
    records = ("ub-cga-size-range",)
    refused = ("userbuffers.layers.proj_fprop={num_sm:1,cga_size:2}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            num_sm, cga = entry.get("num_sm"), entry.get("cga_size")
            if num_sm is not None and cga is not None and num_sm % cga:
                text = f"{gemm}.num_sm={num_sm} is not a multiple of cga_size={cga}"
                yield Problem(f"{gemm}.num_sm", text, f"{UB_LAYERS}.{gemm}.cga_size=1")
            elif cga is not None and cga > MAX_CGA:
                yield Problem(f"{gemm}.cga_size", f"{gemm}.cga_size={cga}", f"{UB_LAYERS}.{gemm}.cga_size={MAX_CGA}")


class UB204(Rule):
    """TP overlap runs with Transformer Engine's default userbuffers settings."""

    severity = "note"
    requires = ("TP001",)
    reads = (TP_OVERLAP, UB_LAYERS)
    shows = (UB_NAME,)
    why = (
        "Rings use 1 SM and as many chunks as ranks; bulk and pipelined GEMMs use 16 SMs, pipelined ones in 4 parts. "
        "These defaults are tuned for no shape."
    )
    source = (
        TE_212
        + "pytorch/module/base.py:292-313; Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:622"
    )
    records = ("tp-overlap-cfg-none-means-te-defaults",)
    refused = LEGAL

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TP_OVERLAP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS])


class UB205(UbRule):
    """A userbuffers entry holds an argument that its method ignores.

    When it applies: not to fp8_buf=false on an all-gather. Published presets write it everywhere, and those buffers have
    the format of the GEMM's input anyway. On the bulk wgrads, fp8_buf=true has no effect.
    """

    severity = "note"
    requires = ("UB003", "UB004")
    why = "Transformer Engine accepts the value and does nothing with it."
    source = TE_BASE + "initialize_ub, add_ub"
    records = ("ub-fp8-buf-ignored-on-ag", "ub-method-aggregate")
    refused = ("userbuffers.layers.proj_fprop={method:pipeline,aggregate:true}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            method = method_of(gemm, entry)
            for name in _ignored(gemm, method):
                if entry.get(name):
                    path = f"{gemm}.{name}"
                    yield Problem(path, f"{path} has no effect with {method}", _delete(gemm, name))


def _ignored(gemm: str, method: str) -> tuple[str, ...]:
    """Arguments without effect on a GEMM that runs by `method`, when they are neither false nor 0."""
    chunks = () if method == "pipeline" else ("num_splits", "pipeline_rs_overlap_first_gemm")
    ring = () if method == "ring_exchange" else ("aggregate",)
    return (*chunks, *ring, *(("fp8_buf",) if gemm in ("qkv_wgrad", "fc1_wgrad") else ()))


class UB206(UbRule):
    """num_sm is far from every published value for its method."""

    severity = "warning"
    requires = ("UB003", "UB004")
    why = (
        "num_sm counts the SMs that move data while the others compute, not a share of the GPU. All published presets use 4 to 32 "
        "for pipelined GEMMs and 1 to 4 for rings."
    )
    source = TE_BASE + "initialize_ub; docs/presets.md"
    refused = ("userbuffers.layers.proj_fprop={method:pipeline,num_sm:1}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        for gemm, entry in c[UB_LAYERS].items():
            method, number = method_of(gemm, entry), entry.get("num_sm")
            least, most = PUBLISHED_SM.get(method, (1, MAX_SM))
            if number is not None and not least <= number <= most:
                step = entry.get("cga_size") or 1
                near = least if number < least else most
                legal = max(step, near // step * step)
                yield Problem(
                    f"{gemm}.num_sm", f"{gemm}.num_sm={number} with {method}", f"{UB_LAYERS}.{gemm}.num_sm={legal}"
                )


PUBLISHED_SM = {"pipeline": (4, MAX_SM), "ring_exchange": (1, 4)}  # SMs in all presets of conf/userbuffers, by method


class UB207(UbRule):
    """The userbuffers dictionary has entries for GEMMs whose part of the overlap is off."""

    severity = "warning"
    requires = ("TP001", "UB004", "UB008")
    reads = (UB_LAYERS, TP_OVERLAP, OVERLAP_AG, OVERLAP_RS, RS_DGRAD, BULK_DGRAD, BULK_WGRAD, NO_QKV, NO_FC1)
    shows = (UB_NAME,)
    why = "Nothing reads such an entry: its communication stays exposed."
    source = "megatron-core core_v0.16.1 megatron/core/extensions/transformer_engine.py:543-576, 781-812"
    refused = (*LEGAL, f"{OVERLAP_RS}=false", "userbuffers.layers.proj_fprop={method:pipeline}")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[UB_LAYERS] and c[TP_OVERLAP])

    @classmethod
    def problems(cls, c: Config) -> Iterator[Problem]:
        scattered = dgrad_layers(c)
        for gemm in c[UB_LAYERS]:
            key, on = _switch(gemm, scattered, c)
            if key and bool(c[key]) != on:
                value = "true" if c[key] else "false"
                text = f"{gemm} has an entry, and {key.rpartition('.')[2]} is {value}"
                yield Problem(gemm, text, f"{key}={'true' if on else 'false'}")


def _switch(gemm: str, scattered: Mapping[str, bool], c: Config) -> tuple[str, bool]:
    """The setting that switches a GEMM's overlap, and the value with which it is on; an empty key if none does."""
    layer, _, part = gemm.partition("_")
    if layer in scattered:
        if part == "fprop":
            disabled = NO_QKV if layer == "qkv" else NO_FC1
            return (disabled, False) if c[disabled] else (OVERLAP_AG, True)
        if scattered[layer]:
            return "", True
        return (BULK_DGRAD if part == "dgrad" else BULK_WGRAD), True
    if part == "wgrad":
        return "", True
    return (OVERLAP_RS if part == "fprop" else OVERLAP_AG), True


RULES: tuple[type[Rule], ...] = (
    UB001, UB002, UB003, UB004, UB005, UB006, UB007, UB008, UB009, UB010, UB201, UB202, UB203, UB204, UB205, UB206, UB207,
)  # fmt: skip
