"""The table of environment variables that undo what a plan asks for, or weaken it.

Read by `doctor` for the environment it is called in, by composition for hydra.job.env_set, by train.py before it starts
ranks on GPUs, and by each of these before its first step. What a plan itself sets is decided in rules/env.py. Without a GPU
no variable here has an effect.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..schema.keys import (
    CORE,
    EP_OVERLAP,
    FP8,
    FP8_RECIPE,
    GRAD_REDUCE,
    LOCAL_REGISTRATION,
    NCCL_UB,
    P2P,
    PARAM_GATHER,
    SM,
    TE,
    TORCH,
    TP_OVERLAP,
)
from ..schema.targets import in_effect
from ..schema.versions import at_least
from ._base import BLACKWELL, HOPPER, Config

ON, OFF = "0*1", "0+"
TORCH_TRUE = "(?i)1|y|yes|t|true"  # getCvarBool
EXPANDABLE = r".*\bexpandable_segments\s*:\s*True\b.*"
LOCAL_ONLY = "LOC|0+"  # PATH_LOC, by its name or its old number
NCCL = "NCCL v2.28.9 src/"
TORCH_SOURCE = "torch v2.13 torch/"
OVERLAPS = (
    TP_OVERLAP, EP_OVERLAP, P2P, GRAD_REDUCE,
    PARAM_GATHER,
)  # fmt: skip


def _overlaps(c: Config) -> bool:
    return any(c[key] for key in OVERLAPS)


def _user_buffers(c: Config) -> bool:
    return bool(c[NCCL_UB])


def _symmetric(c: Config) -> bool:
    return _user_buffers(c) and not c[LOCAL_REGISTRATION]


def _registered_locally(c: Config) -> bool:
    return _user_buffers(c) and bool(c[LOCAL_REGISTRATION])


def _pool_of_old_torch(c: Config) -> bool:
    return _user_buffers(c) and not at_least(c[TORCH], "2.11.0a0")


def _pool_of_old_megatron(c: Config) -> bool:
    return _pool_of_old_torch(c) or (_user_buffers(c) and not at_least(c[CORE], "0.18.0"))


def _pool_by_new_name(c: Config) -> bool:
    return _pool_of_old_torch(c) and (c[TORCH] is None or at_least(c[TORCH], "2.9.0a0"))


def _fp8_backward(c: Config) -> bool:
    delayed = c[FP8_RECIPE] in (None, "delayed")  # which raises, with TP overlap or without
    known = at_least(c[TE], "2.15.0")
    return known and c[FP8] is not None and (delayed or bool(c[TP_OVERLAP]))


def _multicast(c: Config) -> bool:
    return bool(c[TP_OVERLAP]) and (c[SM] or HOPPER) >= HOPPER


def _emulated_blocks(c: Config) -> bool:
    return c[FP8] is not None and c[FP8_RECIPE] == "blockwise" and (c[SM] or 0) >= BLACKWELL


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    values: regular expression of the whole value. concerns: whether a plan is hurt. undoes: what becomes of it.
    severity: error takes something back that was asked for, or raises; after a note it holds, and is worth less.
    """

    names: tuple[str, ...]
    values: str
    concerns: Callable[[Config], bool]
    undoes: str
    source: str
    severity: str = "error"


TABLE = (
    Row(
        names=("CUDA_LAUNCH_BLOCKING",), values=ON, concerns=_overlaps,
        undoes="every overlap: a kernel is launched only after the previous one has ended",
        source="CUDA programming guide, environment variables: CUDA_LAUNCH_BLOCKING",
    ),
    Row(
        names=("TORCH_NCCL_BLOCKING_WAIT", "NCCL_BLOCKING_WAIT"), values=TORCH_TRUE, concerns=lambda c: bool(c[EP_OVERLAP]),
        undoes="expert-parallel overlap: the host waits for every all-to-all before it launches the compute beside it",
        source=TORCH_SOURCE + "csrc/distributed/c10d/ProcessGroupNCCL.hpp:59-62; megatron-core core_v0.16.1 megatron/core/"
        "tensor_parallel/mappings.py:444; models/common/model_chunk_schedule_plan.py:217-243",
    ),
    Row(
        names=("NVTE_BACKWARD_OVERRIDE",), values=".*", concerns=_fp8_backward,
        undoes="TP overlap in backward: Transformer Engine computes FP8 gradients with all userbuffers flags off; "
        "delayed scaling raises",
        source="Transformer Engine v2.15 transformer_engine/pytorch/module/linear.py:553-561, layernorm_linear.py:547; "
        "common/recipe/__init__.py (v2.18:261-267)",
    ),
    Row(
        names=("NVTE_FP8_BLOCK_SCALING_FP32_SCALES",), values="1", concerns=_emulated_blocks,
        undoes="blockwise FP8 on Blackwell, which needs scales that are powers of two: the first forward raises",
        source="Transformer Engine v2.11 transformer_engine/common/transpose/quantize_transpose_square_blockwise.cu:489-492; "
        "common/recipe/__init__.py:332",
    ),
    Row(
        names=("PYTORCH_CUDA_ALLOC_CONF",), values=EXPANDABLE, concerns=_pool_of_old_megatron,
        undoes="NCCL user buffers: megatron-core raises, because torch before 2.11 allocates the memory elsewhere",
        source="megatron-core core_v0.16.1 megatron/core/distributed/distributed_data_parallel_config.py:156-161; "
        "core_v0.18.0 the same:247-252",
    ),
    Row(
        names=("PYTORCH_ALLOC_CONF",), values=EXPANDABLE, concerns=_pool_by_new_name,
        undoes="NCCL user buffers: torch before 2.11 does not allocate the memory from NCCL, and megatron-core does not look at "
        "this name of the variable",
        source="megatron-core core_v0.18.0 megatron/core/distributed/distributed_data_parallel_config.py:247-252; "
        + TORCH_SOURCE + "include/c10/cuda/CUDAAllocatorConfig.h:136-147",
    ),
    Row(
        names=("NCCL_CUMEM_ENABLE",), values=OFF, concerns=_user_buffers,
        undoes="NCCL user buffers: memory without handles is registered neither for NVLS nor as symmetric windows",
        source=NCCL + "allocator.cc:34; init.cc:1376; transport/nvls.cc:723",
    ),
    Row(
        names=("NCCL_WIN_ENABLE",), values=OFF, concerns=_symmetric,
        undoes="symmetric windows of NCCL user buffers",
        source=NCCL + "init.cc:58, 1376",
    ),
    Row(
        names=("NCCL_LOCAL_REGISTER",), values=OFF, concerns=_registered_locally,
        undoes="NCCL user buffers: nothing is registered",
        source=NCCL + "register/register.cc:117-125",
    ),
    Row(
        names=("UB_SKIPMC",), values=ON, concerns=_multicast, severity="note",
        undoes="userbuffers use CUDA IPC instead of NVLink multicast, for at most 8 GPUs of one host",
        source="Transformer Engine v2.11 transformer_engine/common/comm_gemm_overlap/userbuffers/userbuffers-host.cpp:233, "
        "656-663",
    ),
    Row(
        names=("NCCL_P2P_DISABLE",), values=ON, concerns=_overlaps, severity="note",
        undoes="NCCL does not use NVLink and copies through the host: communication takes longer than the compute over it",
        source=NCCL + "graph/paths.cc:217-227, 259-266",
    ),
    Row(
        names=("NCCL_P2P_LEVEL",), values=LOCAL_ONLY, concerns=_overlaps, severity="note",
        undoes="NCCL does not use NVLink and copies through the host: communication takes longer than the compute over it",
        source=NCCL + "graph/paths.cc:228-249, 259-266",
    ),
    Row(
        names=("TORCH_DISTRIBUTED_DEBUG",), values="(?i)DETAIL", concerns=_overlaps, severity="note",
        undoes="before each collective the hosts of all its ranks meet in a barrier",
        source=TORCH_SOURCE + "distributed/distributed_c10d.py:2282-2305; csrc/distributed/c10d/ProcessGroupWrapper.cpp, "
        "runCollectiveChecks",
    ),
)  # fmt: skip
NAMES = tuple(name for row in TABLE for name in row.names)


@dataclass(frozen=True, kw_only=True)
class Contrary:
    """A variable in force that hurts a plan. undoes, source and severity as in Row."""

    name: str
    value: str
    undoes: str
    source: str
    severity: str


def contrary(
    request: Mapping[str, Any], answer: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Contrary, ...]:
    """What in `environment` hurts a plan, in the order of the table.

    request: the nested request of a resolution or plan. answer: Resolution.to_dict(), or the same in a plan.
    """
    said = [name for name in NAMES if name in environment]
    if not said or request["platform"]["name"] == "cpu":
        return ()
    return tuple(_contrary(in_effect(request, answer), environment, said))


def _contrary(c: Config, environment: Mapping[str, str], said: list[str]) -> Iterable[Contrary]:
    for row in TABLE:
        for name in row.names:
            if name in said and re.fullmatch(row.values, environment[name]) and row.concerns(c):
                yield Contrary(
                    name=name, value=environment[name], undoes=row.undoes, source=row.source, severity=row.severity
                )
