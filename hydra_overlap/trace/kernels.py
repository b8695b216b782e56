"""What a name in a GPU trace is: communication, waiting, local work that belongs to a communication, memory traffic, compute.

The table is in order: the first row that matches decides. Patterns match the qualified name of a kernel without its template
arguments and parameters, from its beginning to its end, because names such as `dispatch` are common and prefixes such as
`nccl` are not enough. Sources: TransformerEngine d0067d0d (userbuffers.cu; the same names at v2.8, v2.10 and v2.18), NCCL
2.30.7, DeepEP dd758ca and its branch hybrid-ep 94a9f8f, Kineto 114171df. Rows without "seen" were read in sources and have
not been seen in a trace of a GPU by us.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

COMMUNICATION, WAITING, PART, MEMORY, COMPUTE = "communication", "waiting", "part", "memory", "compute"
"""Kinds. waiting: communication that moves nothing, for example a spin on a flag. part: compute that belongs to a
communication, for example the sum after a ring exchange; it counts as compute. memory: copies within a GPU or with the host."""

GATHER, SCATTER, REDUCE = "all-gather", "reduce-scatter", "all-reduce"
P2P, ALL_TO_ALL, BROADCAST = "send/receive", "all-to-all", "broadcast"
RING, COPY, SIGNAL, UNKNOWN = "ring exchange", "peer copy", "signal", ""
TP, EP = "TP", "EP"


@dataclass(frozen=True)
class Row:
    """A row of the table. dimension: where the name alone tells it; else the process group does."""

    pattern: str
    kind: str
    operation: str
    dimension: str
    source: str


UB = "TransformerEngine transformer_engine/common/comm_gemm_overlap/userbuffers/userbuffers.cu"
DEEP_EP, HYBRID_EP = "DeepEP csrc/kernels", "DeepEP, branch hybrid-ep"
NCCL, NCCL_EP = "NCCL src/device/generate.py", "NCCL contrib/nccl_ep"
SYMMETRIC = "torch csrc/distributed/c10d/symm_mem"
NS = r"(?:\w+::)*"  # any namespaces
NCCL_OPERATIONS = {
    "AllGather": GATHER, "ReduceScatter": SCATTER, "AllReduce": REDUCE, "Broadcast": BROADCAST, "Reduce": "reduce", "SendRecv": P2P,
}  # fmt: skip

ROWS = (
    Row(rf"{NS}userbuffers_fp16_sum_inplace_gpu_(?:rr|rw|mc)_ag", COMMUNICATION, GATHER, TP, f"{UB}:664,757,1190,1266"),
    Row(rf"{NS}userbuffers_fp16_sum_inplace_gpu_(?:rr|mc)_rs\w*", COMMUNICATION, SCATTER, TP, f"{UB}:261-1099"),
    Row(rf"{NS}userbuffers_fp16_sum_inplace_gpu_(?:rw|rr|mc)", COMMUNICATION, REDUCE, TP, f"{UB}:68,154,399,741"),
    Row(rf"{NS}kuserbuffers_pushrecv", WAITING, RING, TP, f"{UB}:2063"),
    Row(rf"{NS}kuserbuffers_(?:pull|push)(?:send|recv|sendrecv)\w*", COMMUNICATION, RING, TP, f"{UB}:1981-2204"),
    Row(rf"{NS}kuserbuffers_(?:inc|dummy)", WAITING, SIGNAL, TP, UB),
    Row(rf"{NS}(?:reset_counters_kernel|producer_kernel|consumer_kernel|consumer_batch_kernel|tiny_delay_kern)", WAITING, SIGNAL, TP, UB),
    Row(rf"{NS}reduce_(?:bf16_cuda|fp8_in_bf16_out_cuda)", PART, SCATTER, TP, UB),
    Row(rf"{NS}nvshmem_waitkernel", WAITING, SIGNAL, UNKNOWN, "TransformerEngine transformer_engine/common/nvshmem_api"),
    Row(r"deep_ep::(?:\w+::)*get_dispatch_layout", PART, ALL_TO_ALL, EP, DEEP_EP),
    Row(r"deep_ep::(?:\w+::)*clean_low_latency_buffer", MEMORY, UNKNOWN, EP, DEEP_EP),
    Row(r"deep_ep::(?:\w+::)*(?:barrier|barrier_impl)", WAITING, SIGNAL, EP, DEEP_EP),
    Row(r"deep_ep::(?:\w+::)*(?:dispatch|combine|notify_dispatch|cached_notify\w*)", COMMUNICATION, ALL_TO_ALL, EP, DEEP_EP),
    Row(r"deep_ep::elastic::(?:dispatch_copy|combine_reduce)_epilogue_impl", PART, ALL_TO_ALL, EP, DEEP_EP),
    Row(r"deep_ep::elastic::(?:hybrid_)?(?:dispatch|combine)_impl", COMMUNICATION, ALL_TO_ALL, EP, DEEP_EP),
    Row(r"deep_ep::elastic::(?:pp_send_impl|pp_recv_impl)", COMMUNICATION, P2P, "PP", DEEP_EP),
    Row(r"deep_ep::elastic::engram_fetch_impl", COMMUNICATION, GATHER, EP, DEEP_EP),
    Row(r"hybrid_ep::(?:\w+::)*(?:dispatch_kernel|combine_kernel|ag_nvl_kernel)", COMMUNICATION, ALL_TO_ALL, EP, HYBRID_EP),
    Row(r"hybrid_ep::(?:\w+::)*(?:device_sync_kernel|rdma_sync_kernel)", WAITING, SIGNAL, EP, HYBRID_EP),
    Row(r"hybrid_ep::(?:\w+::)*\w+", PART, ALL_TO_ALL, EP, HYBRID_EP),
    Row(r"nccl_ep_jit_ht_(?:dispatch|combine)_kernel", COMMUNICATION, ALL_TO_ALL, EP, NCCL_EP),
    Row(r"nccl_ep::(?:\w+::)*(?:dispatch|combine)", COMMUNICATION, ALL_TO_ALL, EP, NCCL_EP),
    Row(rf"nccl_ep_jit_ht_scan_kernel|{NS}convert_topk_to_routing_map_kernel|{NS}(?:sparse_to_dense|dense_to_sparse)_prob\w*", PART, ALL_TO_ALL, EP, NCCL_EP),
    Row(rf"{NS}oneRankReduce\w*", MEMORY, UNKNOWN, UNKNOWN, "NCCL: a group of one rank"),
    Row(r"ncclSymkDevKernel_(AllGather|AllReduce|ReduceScatter)(?:_\w+)?", COMMUNICATION, UNKNOWN, UNKNOWN, "NCCL src/device/symmetric/generate.py"),
    Row(r"nccl(?:Dev)?Kernel_(AllGather|AllReduce|ReduceScatter|Broadcast|Reduce|SendRecv)(?:_\w+)?", COMMUNICATION, UNKNOWN, UNKNOWN, f"{NCCL}; seen (A100, V100, B200)"),
    Row(r"ncclDevKernel_Generic\w*", COMMUNICATION, UNKNOWN, UNKNOWN, f"{NCCL}; seen (MI300)"),
    Row(rf"{NS}multimem_(?:one_shot_)?all_reduce_kernel\w*", COMMUNICATION, REDUCE, TP, f"{SYMMETRIC}; seen (B200)"),
    Row(rf"{NS}multimem_all_gather_kernel\w*", COMMUNICATION, GATHER, TP, SYMMETRIC),
    Row(rf"{NS}(?:one|two)_shot_all_reduce_kernel\w*", COMMUNICATION, REDUCE, TP, SYMMETRIC),
    Row(rf"{NS}(?:barrier_all_\w+|stream_write_value32\w*)", WAITING, SIGNAL, TP, SYMMETRIC),
    Row(r"Memcpy PtoP.*", COMMUNICATION, COPY, UNKNOWN, "Kineto CuptiActivity.h"),
    Row(r"Memcpy .*|Memset.*", MEMORY, UNKNOWN, UNKNOWN, "Kineto cupti_strings.cpp"),
)  # fmt: skip
_PATTERNS = tuple(re.compile(row.pattern) for row in ROWS)
PAYLOAD = re.compile(r"Memcpy (?:PtoP|DtoD).*")
"""Copies that carry what userbuffers exchange, on a stream of userbuffers: `userbuffers_send` copies with the copy engine
by default. Whether CUPTI calls a copy to a peer's mapping PtoP or DtoD is not known without two GPUs; both are taken."""
OF_USERBUFFERS = re.compile(rf"{NS}kuserbuffers_\w+")
SUSPECT = re.compile(
    r"nccl|rccl|userbuffers|nvshmem|deep_?ep|hybrid_?ep|all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|symm_?mem",
    re.IGNORECASE,
)
"""Names that no row knows and that sound like communication: told to the reader, and counted as compute meanwhile."""


@dataclass(frozen=True)
class Named:
    """What a name says. operation and dimension are empty where it does not say them."""

    kind: str
    operation: str = ""
    dimension: str = ""
    of_userbuffers: bool = False
    payload: bool = False
    suspect: bool = False


PLAIN = Named(COMPUTE)
"""Of every name that says nothing but compute; the very object, so that it is told apart quickly."""


@lru_cache(maxsize=100_000)  # a trace has millions of events and hundreds of names
def named(name: str) -> Named:
    """What an event of a GPU is by its name, as Kineto or Nsight print it."""
    bare = identifier(name)
    payload = bool(PAYLOAD.fullmatch(name))
    for row, pattern in zip(ROWS, _PATTERNS, strict=True):
        found = pattern.fullmatch(bare)
        if found:
            said = NCCL_OPERATIONS[found[1]] if found.lastindex else row.operation
            return Named(row.kind, said, row.dimension, bool(OF_USERBUFFERS.fullmatch(bare)), payload)
    return Named(COMPUTE, suspect=True) if SUSPECT.search(bare) else PLAIN


def identifier(name: str) -> str:
    """`void ns::(anonymous namespace)::kernel<int, 4>(float*)` -> `ns::kernel`; names of copies stay as they are."""
    if name.startswith(("Memcpy", "Memset")):
        return name
    text = name.replace("(anonymous namespace)::", "")
    end = min((at for at in (text.find("<"), text.find("(")) if at > 0), default=len(text))
    return text[:end].strip().rpartition(" ")[2]
