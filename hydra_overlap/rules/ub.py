"""UB: the userbuffers dictionary. Transformer Engine accepts most mistakes in it without a word."""

from collections.abc import Iterator

from ..findings import Fix
from ..suggest import did_you_mean
from ._base import Config, Rule
from .layout import TP

NAME = "userbuffers.name"
LAYERS = "userbuffers.layers"
TUNED_TP = "userbuffers.tuned_for.tp"
ON = "comm_overlap.tp.tp_comm_overlap"
TE = "Transformer Engine v2.11 transformer_engine/pytorch/module/base.py "

ALL_GATHER = ("qkv_fprop", "qkv_dgrad", "proj_dgrad", "proj_wgrad", "fc1_fprop", "fc1_dgrad", "fc2_dgrad", "fc2_wgrad")
REDUCE_SCATTER = ("proj_fprop", "fc2_fprop", "qkv_wgrad", "fc1_wgrad")
GEMMS = ALL_GATHER + REDUCE_SCATTER
DGRAD = ("qkv_dgrad", "fc1_dgrad")  # bulk all-gather by default; another method turns them into a reduce-scatter
EXTERNAL = ("proj_wgrad", "fc2_wgrad")
BULK = ("qkv_dgrad", "qkv_wgrad", "fc1_dgrad", "fc1_wgrad")

FIELDS: dict[str, type] = {
    "method": str, "is_reduce_scatter": bool, "num_sm": int, "cga_size": int, "set_sm_margin": bool, "num_splits": int,
    "aggregate": bool, "atomic_gemm": bool, "use_ce": bool, "fp8_buf": bool, "comm_priority": int,
    "gemm_priority": int, "pipeline_rs_overlap_first_gemm": bool,
}  # fmt: skip
METHODS = ("bulk", "pipeline", "ring_exchange", "external")
MAX_SM = 32  # NVTE_MAX_SMS: the kernels' array of flags has that many entries
NONE_FIX = Fix("userbuffers=none", "keeps the overlap with Transformer Engine's defaults")


def legal_methods(gemm: str) -> tuple[str, ...]:
    """Methods Transformer Engine can run on one GEMM."""
    if gemm in EXTERNAL:
        return ("external",)
    if gemm in DGRAD:
        return ("bulk", "pipeline", "ring_exchange")  # not bulk: becomes a reduce-scatter of the dgrad GEMM
    if gemm in BULK:
        return ("bulk",)
    return ("ring_exchange",) if gemm in ALL_GATHER else ("ring_exchange", "pipeline")


class UbRule(Rule):
    """Base: judges the dictionary entry by entry; `problems` yields one sentence each."""

    reads = (LAYERS,)
    shows = (NAME,)

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        raise NotImplementedError

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[LAYERS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(True for _ in cls.problems(c))

    @classmethod
    def why_for(cls, c: Config) -> str:
        return "; ".join(text for text, _ in cls.problems(c)) + ". " + cls.why

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        """One override that mends every entry, if each can be mended by one; and TE's defaults."""
        fixes = [fix for _, fix in cls.problems(c)]
        if all(fixes):
            return (Fix(" ".join(fix.override for fix in fixes if fix), "keeps the overlap"), NONE_FIX)
        return (NONE_FIX,)


class UB001(Rule):
    """A userbuffers preset is used at the TP size it was tuned for."""

    requires = ("TP001",)
    reads = (ON, TUNED_TP, TP)
    shows = (NAME, TUNED_TP, TP)
    why = (
        "SM counts, splits and chunk sizes are chosen for one number of peers; at another size the ring has other "
        "chunks and the published figures say nothing."
    )
    source = TE + "initialize_ub (num_splits = tp_size on rings); docs/decisions/0004-preset-off-its-shape.md"
    refused = (
        f"{ON}=true", f"{TP}=2", "parallelism.sequence_parallel=true", "parallelism.world_size=2",
        "software.transformer_engine=2.11.0", "userbuffers.name=mine", "userbuffers.tuned_for.tp=4",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[ON]) and c[TUNED_TP] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[TUNED_TP] == c[TP])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        tuned = c[TUNED_TP]
        return (NONE_FIX, Fix(f"parallelism=tp{tuned}", "keeps the overlap and the preset"))


class UB002(UbRule):
    """A userbuffers entry names one of Transformer Engine's twelve GEMMs."""

    why = "Transformer Engine looks entries up by name and never reads one with another name."
    source = TE + "initialize_ub"
    refused = ("userbuffers.layers.qkv_fwd={method:ring_exchange}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        for gemm in c[LAYERS]:
            if gemm not in GEMMS:
                yield f"no GEMM is called {gemm}{did_you_mean(gemm, GEMMS)}", Fix(f"~userbuffers.layers.{gemm}", "")


class UB003(UbRule):
    """A userbuffers entry holds add_ub's arguments, with their types and ranges."""

    requires = ("UB002",)
    why = "num_sm beyond 32 overruns the kernels' flags; num_sm not divisible by cga_size loses its clusters in C++."
    source = TE + "add_ub; common/comm_gemm_overlap/userbuffers/userbuffers.h NVTE_MAX_SMS"
    refused = ("userbuffers.layers.qkv_fprop={num_sm:64}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        for gemm, entry in c[LAYERS].items():
            place = f"userbuffers.layers.{gemm}"
            for name, value in entry.items():
                if name not in FIELDS:
                    yield f"{gemm} has no argument {name}{did_you_mean(name, FIELDS)}", Fix(f"~{place}.{name}", "")
                elif type(value) is not FIELDS[name]:
                    yield f"{gemm}.{name} is {FIELDS[name].__name__}, not {value!r}", None
                elif name == "num_sm" and not 1 <= value <= MAX_SM:
                    yield f"{gemm}.num_sm={value} is outside 1..{MAX_SM}", Fix(f"{place}.num_sm={MAX_SM}", "")
                elif name in ("cga_size", "num_splits") and value < 1:
                    yield f"{gemm}.{name}={value} is below 1", Fix(f"{place}.{name}=1", "")
            num_sm, cga = entry.get("num_sm"), entry.get("cga_size")
            if type(num_sm) is int and type(cga) is int and cga > 0 and 0 < num_sm <= MAX_SM and num_sm % cga:
                yield f"{gemm}.num_sm={num_sm} is no multiple of cga_size={cga}", Fix(f"{place}.cga_size=1", "")


class UB004(UbRule):
    """A userbuffers entry uses a method its GEMM can run."""

    requires = ("UB002",)
    why = "Unknown and misplaced methods are accepted at start and fail or fall back later."
    source = TE + "initialize_ub (methods)"
    refused = ("userbuffers.layers.proj_fprop={method:bulk}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        for gemm, entry in c[LAYERS].items():
            method, legal = entry.get("method"), legal_methods(gemm)
            if method is not None and method not in legal:
                fix = Fix(f"userbuffers.layers.{gemm}.method={legal[0]}", "")
                yield f"{gemm} runs {' or '.join(legal)}, not {method}", fix


class UB005(UbRule):
    """A pipelined or ring dgrad takes the place of its bulk wgrad."""

    requires = ("UB004",)
    why = "Transformer Engine asserts that qkv/fc1 have either a bulk wgrad or a reduce-scatter on dgrad."
    source = TE + "initialize_ub (dgrad_reduce_scatter_overlap)"
    refused = (
        "userbuffers.layers.qkv_dgrad={method:pipeline}",
        "userbuffers.layers.qkv_wgrad={method:bulk}",
    )

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        for gemm in DGRAD:
            wgrad = gemm.replace("dgrad", "wgrad")
            method = c[LAYERS].get(gemm, {}).get("method", "bulk")
            if method != "bulk" and wgrad in c[LAYERS]:
                yield f"{gemm} is {method} and {wgrad} is set too", Fix(f"~userbuffers.layers.{wgrad}", "")


class UB006(UbRule):
    """Atomic GEMM overlap is off."""

    requires = ("UB003",)
    why = "It is a cuBLAS beta, for FP8 alone, and must match over pairs of GEMMs; no published preset uses it."
    source = TE + "add_ub (atomic_gemm)"
    refused = ("userbuffers.layers.qkv_fprop={atomic_gemm:true}",)

    @classmethod
    def problems(cls, c: Config) -> Iterator[tuple[str, Fix | None]]:
        for gemm, entry in c[LAYERS].items():
            if entry.get("atomic_gemm"):
                yield f"{gemm}.atomic_gemm=true", Fix(f"userbuffers.layers.{gemm}.atomic_gemm=false", "")


class UB201(Rule):
    """A userbuffers preset is used off the shape it was tuned for."""

    severity = "note"
    requires = ("UB001",)
    reads = (
        ON, "userbuffers.tuned_for.gpu", "userbuffers.tuned_for.hidden_size", "userbuffers.tuned_for.cp",
        "userbuffers.tuned_for.mbs", "userbuffers.tuned_for.seq_length", "userbuffers.tuned_for.precision",
        "platform.name", "model.hidden_size", "parallelism.context_parallel_size", "training.micro_batch_size",
        "model.seq_length", "precision.fp8", "precision.bf16",
    )  # fmt: skip
    shows = (NAME,)
    source = "docs/decisions/0004-preset-off-its-shape.md"
    refused = (
        f"{ON}=true", f"{TP}=2", "parallelism.sequence_parallel=true", "parallelism.world_size=2",
        "software.transformer_engine=2.11.0", "userbuffers.name=mine", "userbuffers.tuned_for.seq_length=4096",
        "model.seq_length=8192",
    )  # fmt: skip

    @classmethod
    def differences(cls, c: Config) -> list[str]:
        """`hidden_size 8192, here 4096` for each dimension that is said on both sides and differs."""
        here = {
            "gpu": c["platform.name"],
            "hidden_size": c["model.hidden_size"],
            "cp": c["parallelism.context_parallel_size"],
            "mbs": c["training.micro_batch_size"],
            "seq_length": c["model.seq_length"],
            "precision": "fp8" if c["precision.fp8"] else "bf16" if c["precision.bf16"] else None,
        }
        pairs = [(name, c[f"userbuffers.tuned_for.{name}"], value) for name, value in here.items()]
        return [
            f"{name} {tuned}, here {value}"
            for name, tuned, value in pairs
            if None not in (tuned, value) and tuned != value
        ]

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[ON])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.differences(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return "Tuned for " + "; ".join(cls.differences(c)) + ". It works, its speed is not the published one."


RULES: tuple[type[Rule], ...] = (UB001, UB002, UB003, UB004, UB005, UB006, UB201)
