"""What Transformer Engine makes of a userbuffers dictionary: its twelve communicators, their memory, what they hide.

Pure arithmetic on plain values. The rules that refuse a dictionary are in rules/ub.py; here it is taken as accepted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..rules.ub import ALL_GATHER, DGRAD, EXTERNAL, REDUCE_SCATTER

Layers = Mapping[str, Mapping[str, Any]]

MIB = 2**20
BF16_BYTES, FP8_BYTES = 2, 1
# Sets of buffers, one per quantization mode: FP8 beside some layers in bf16 needs both.
MODES = {"bf16": ("bf16",), "fp8": ("fp8",), "fp8 beside bf16": ("fp8", "bf16")}
RINGS = ("qkv_fprop", "fc1_fprop", "proj_dgrad", "fc2_dgrad")
ORDER = tuple(f"{layer}_{part}" for layer in ("qkv", "proj", "fc1", "fc2") for part in ("fprop", "dgrad", "wgrad"))
NAMED = "named"  # in the dictionary
DEFAULT = "Transformer Engine's default"
# megatron-core's own defaults of the flags that switch each kind of overlap.
FLAGS: dict[str, bool] = {
    "tp_comm_overlap_ag": True, "tp_comm_overlap_rs": True, "tp_comm_overlap_rs_dgrad": False, "tp_comm_bulk_dgrad": True,
    "tp_comm_bulk_wgrad": True, "tp_comm_overlap_disable_qkv": False, "tp_comm_overlap_disable_fc1": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Communicator:
    """The buffer of one GEMM. reduce_scatter: else all-gather. fp8_buf: uint8 under FP8. named: in the dictionary."""

    gemm: str
    method: str
    reduce_scatter: bool
    fp8_buf: bool
    named: bool


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """Whether one GEMM hides communication. collective: all-gather, reduce-scatter, or empty if there is none."""

    gemm: str
    method: str
    collective: str
    overlaps: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: getattr(self, name) for name in ("gemm", "method", "collective", "overlaps", "why")}


def communicators(layers: Layers) -> tuple[Communicator, ...]:
    """The twelve communicators of one quantization mode, whatever the dictionary names.

    A dgrad of qkv or fc1 that is not bulk becomes a reduce-scatter. FP8 buffers: every all-gather, and a pipelined GEMM
    that asks for one; by name, so proj and fc2 fprop count as pipelined on a ring too.
    Source: Transformer Engine v2.11 transformer_engine/pytorch/module/base.py:260-431 (initialize_ub).
    """
    moved = {gemm: _method(gemm, layers) for gemm in DGRAD if _method(gemm, layers) != "bulk"}
    pipelined = {"proj_fprop", "fc2_fprop", *(gemm for gemm, method in moved.items() if method == "pipeline")}
    found = []
    for gemm in ORDER:
        entry = layers.get(gemm, {})
        gathers = gemm in ALL_GATHER and gemm not in moved
        found.append(
            Communicator(
                gemm=gemm,
                method=_method(gemm, layers),
                reduce_scatter=bool(entry.get("is_reduce_scatter", _reduces(gemm, moved))),
                fp8_buf=gathers or (bool(entry.get("fp8_buf")) and gemm in pipelined),
                named=gemm in layers,
            )
        )
    return tuple(found)


def _method(gemm: str, layers: Layers) -> str:
    default = "external" if gemm in EXTERNAL else "ring_exchange" if gemm in RINGS else "bulk"
    if gemm in ("proj_fprop", "fc2_fprop"):
        default = "pipeline"
    return str(layers.get(gemm, {}).get("method", default))


def _reduces(gemm: str, moved: Mapping[str, str]) -> bool:
    if gemm in moved:
        return True
    return gemm in REDUCE_SCATTER and gemm.replace("wgrad", "dgrad") not in moved


def memory_mib(layers: Layers, shape: tuple[int, int], tp: int, precision: str) -> float:
    """Memory of userbuffers on each rank, in MiB.

    shape: (tokens of a micro-batch on one context-parallel rank, hidden_size). tp: tensor_model_parallel_size.
    precision: a key of MODES. Raises KeyError for another. A buffer holds the whole shape; a ring reduce-scatter also
    keeps what arrives, 2 x TP - 1 chunks instead of TP. Left out: rounding each to the driver's granularity and about
    3 MiB of flags.
    Source: Transformer Engine v2.11 transformer_engine/common/comm_gemm_overlap/comm_gemm_overlap.cpp:302, 670-676.
    """
    elements = shape[0] * shape[1]
    total = 0
    for mode in MODES[precision]:
        for one in communicators(layers):
            size = elements * (FP8_BYTES if mode == "fp8" and one.fp8_buf else BF16_BYTES)
            ring_reduces = one.method == "ring_exchange" and one.reduce_scatter
            total += size // tp * (2 * tp - 1) if ring_reduces else size
    return total / MIB


def gemm_map(
    layers: Layers, flags: Mapping[str, Any] | None = None, *, mxfp8: bool = False, experts: bool = False
) -> tuple[Gemm, ...]:
    """Which of the twelve GEMMs hide communication, by which method, and why the others do not.

    flags: `Resolution.transformer_config`; what it leaves out is megatron-core's default. mxfp8: fp8_recipe is mxfp8.
    experts: the MLPs are mixtures of experts.
    Source: megatron-core core_v0.16.1 megatron/core/extensions/transformer_engine.py:543-576, 781-812; Transformer
    Engine v2.11 transformer_engine/pytorch/module/linear.py:1127-1157 and 786.
    """
    said = {name: value for name, value in (flags or {}).items() if name in FLAGS and value is not None}
    switches = {**FLAGS, **said}
    return tuple(_judge(one, switches, mxfp8, experts) for one in communicators(layers))


def _judge(one: Communicator, on: Mapping[str, Any], mxfp8: bool, experts: bool) -> Gemm:
    layer, _, part = one.gemm.partition("_")
    disabled = bool(on.get(f"tp_comm_overlap_disable_{layer}"))
    dgrad_reduces = bool(on["tp_comm_overlap_rs_dgrad"]) and not disabled
    collective = "reduce-scatter" if one.gemm in REDUCE_SCATTER else "all-gather"
    flag, active = "", True
    why = NAMED if one.named else DEFAULT
    if experts and layer in ("fc1", "fc2"):
        return Gemm(gemm=one.gemm, method="", collective="", overlaps=False, why="experts use no userbuffers")
    if part == "wgrad" and one.gemm in EXTERNAL:
        if not mxfp8:
            collective, active, why = "", False, "dgrad already gathered for it; only MXFP8 gathers again"
    elif one.gemm in DGRAD and dgrad_reduces:
        collective, flag = "reduce-scatter", "tp_comm_overlap_rs_dgrad"
    elif one.gemm in DGRAD:
        flag, active = "tp_comm_bulk_dgrad", bool(on["tp_comm_bulk_dgrad"])
        if one.method != "bulk":
            why += f"; bulk all-gather on a {one.method} communicator, as tp_comm_overlap_rs_dgrad is off"
    elif part == "wgrad":
        flag, active = "tp_comm_bulk_wgrad", bool(on["tp_comm_bulk_wgrad"])
        if dgrad_reduces:
            collective, flag, active, why = (
                "",
                "",
                False,
                "its reduce-scatter is under dgrad (tp_comm_overlap_rs_dgrad)",
            )
    else:
        flag = "tp_comm_overlap_rs" if collective == "reduce-scatter" else "tp_comm_overlap_ag"
        active = bool(on[flag])
        if disabled and part == "fprop":
            flag, active = f"tp_comm_overlap_disable_{layer}", False
    if not active and flag:
        why = f"{flag}={'true' if 'disable' in flag else 'false'}"
    return Gemm(gemm=one.gemm, method=one.method, collective=collective, overlaps=active, why=why)
