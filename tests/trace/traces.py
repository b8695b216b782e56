"""Traces as torch's profiler writes them, put together event by event. Times are microseconds."""

import gzip
import json
from pathlib import Path
from typing import Any

NCCL = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas"


def gpu(name: str, start: float, end: float, *, stream: int = 7, cat: str = "kernel", **args: Any) -> dict[str, Any]:
    """Work of the GPU."""
    said = {"device": 0, "stream": stream, "External id": args.pop("external", 1), **args}
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": stream, "ts": start, "dur": end - start, "args": said}


def copy(kind: str, start: float, end: float, **args: Any) -> dict[str, Any]:
    return gpu(f"Memcpy {kind} (Device -> Device)", start, end, cat="gpu_memcpy", **args)


def collective(
    external: int, name: str, group: str, *, size: int = 2, sent: int = 0, received: int = 0
) -> dict[str, Any]:
    """What the host says of a collective: `record_param_comms`."""
    args = {
        "External id": external, "Collective name": name, "Group size": size, "Process Group Description": group,
        "In msg nelems": sent, "Out msg nelems": received, "dtype": "BFloat16",
    }  # fmt: skip
    return {"ph": "X", "cat": "cpu_op", "name": "record_param_comms", "ts": 0, "dur": 1, "args": args}


def step(number: int, start: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{number}", "ts": start, "dur": end - start}


def write(path: Path, *events: dict[str, Any], rank: int | None = 0) -> Path:
    """A trace of these events, gzip if its name ends so."""
    document: dict[str, Any] = {"schemaVersion": 1, "traceEvents": list(events)}
    if rank is not None:
        document["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": 8}
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
