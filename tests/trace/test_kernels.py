"""Every row of the table has a name of its own kind, and names that only look alike are none of its."""

import re

import pytest

from hydra_overlap.trace.kernels import (
    ALL_TO_ALL,
    COMMUNICATION,
    COMPUTE,
    COPY,
    GATHER,
    MEMORY,
    P2P,
    PART,
    REDUCE,
    RING,
    ROWS,
    SCATTER,
    SIGNAL,
    WAITING,
    identifier,
    named,
)

UB = "void userbuffers_fp16_sum_inplace_gpu_"
KNOWN = [
    (f"{UB}rr_ag<8>(int, int, int)", COMMUNICATION, GATHER, "TP"),
    (f"{UB}mc_ag<4>(int)", COMMUNICATION, GATHER, "TP"),
    (f"{UB}rr_rs_oop_stride_multiatomic<8>(int)", COMMUNICATION, SCATTER, "TP"),
    (f"{UB}mc_rs<8>(int)", COMMUNICATION, SCATTER, "TP"),
    (f"{UB}rw<8>(int)", COMMUNICATION, REDUCE, "TP"),
    ("kuserbuffers_pushrecv(int, int, int*)", WAITING, RING, "TP"),
    ("kuserbuffers_pushsendrecv_multiatomic(int*)", COMMUNICATION, RING, "TP"),
    ("kuserbuffers_pullsend(int)", COMMUNICATION, RING, "TP"),
    ("kuserbuffers_inc(int*)", WAITING, SIGNAL, "TP"),
    ("reset_counters_kernel(void*, int, int)", WAITING, SIGNAL, "TP"),
    ("void reduce_bf16_cuda<2>(void*, void*, int)", PART, SCATTER, "TP"),
    ("transformer_engine::nvshmem_waitkernel(unsigned long*)", WAITING, SIGNAL, ""),
    ("void deep_ep::legacy::intranode::dispatch<8, 768, 8192>(int4*)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("void deep_ep::internode_ll::combine<true, 7168>(void*)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("void deep_ep::intranode::cached_notify_dispatch<8>(int)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("void deep_ep::layout::get_dispatch_layout<256, 4, 8>(long*)", PART, ALL_TO_ALL, "EP"),
    ("deep_ep::internode_ll::clean_low_latency_buffer(int*)", MEMORY, "", "EP"),
    ("void deep_ep::intranode::barrier<8>(int**)", WAITING, SIGNAL, "EP"),
    ("void deep_ep::elastic::hybrid_dispatch_impl<4>(int)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("void deep_ep::elastic::combine_reduce_epilogue_impl<4>(int)", PART, ALL_TO_ALL, "EP"),
    ("void deep_ep::elastic::pp_send_impl<4>(int)", COMMUNICATION, P2P, "PP"),
    ("void deep_ep::elastic::engram_fetch_impl<4>(int)", COMMUNICATION, GATHER, "EP"),
    ("void hybrid_ep::dispatch_kernel<__half>(int)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("hybrid_ep::device_sync_kernel(int*)", WAITING, SIGNAL, "EP"),
    ("void hybrid_ep::permute_kernel<__half>(int)", PART, ALL_TO_ALL, "EP"),
    ("nccl_ep_jit_ht_dispatch_kernel", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("void nccl_ep::internode_ll::dispatch<1>(int)", COMMUNICATION, ALL_TO_ALL, "EP"),
    ("nccl_ep_jit_ht_scan_kernel", PART, ALL_TO_ALL, "EP"),
    ("void oneRankReduce<FuncPreMulSum<float>>(void*)", MEMORY, "", ""),
    ("ncclSymkDevKernel_AllGather_STMC(ncclSymkDevWorkArgs)", COMMUNICATION, GATHER, ""),
    ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", COMMUNICATION, SCATTER, ""),
    ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", COMMUNICATION, P2P, ""),
    ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", COMMUNICATION, REDUCE, ""),
    ("ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)", COMMUNICATION, "", ""),
    ("void c10d::symmetric_memory::(anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*)", COMMUNICATION, REDUCE, "TP"),
    ("void multimem_all_gather_kernel<16>(char*)", COMMUNICATION, GATHER, "TP"),
    ("void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<float>(float*)", COMMUNICATION, REDUCE, "TP"),
    ("(anonymous namespace)::barrier_all_kernel(int)", WAITING, SIGNAL, "TP"),
    ("Memcpy PtoP (Device -> Device)", COMMUNICATION, COPY, ""),
    ("Memcpy DtoD (Device -> Device)", MEMORY, "", ""),
    ("Memset (Device)", MEMORY, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "operation", "dimension"), KNOWN, ids=[identifier(row[0]) for row in KNOWN])
def test_a_name_is_what_its_source_says(name: str, kind: str, operation: str, dimension: str) -> None:
    found = named(name)
    assert (found.kind, found.operation, found.dimension) == (kind, operation, dimension)


def test_every_row_of_the_table_is_the_first_that_takes_some_name() -> None:
    first = {next(n for n, row in enumerate(ROWS) if re.fullmatch(row.pattern, identifier(name))) for name, *_ in KNOWN}
    assert [ROWS[number].pattern for number in range(len(ROWS)) if number not in first] == []
    assert all(row.source for row in ROWS)


@pytest.mark.parametrize(
    "name",
    [
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)",
        "void cub::DeviceScanKernel<dispatch>(int)",  # `dispatch` is a common word
        "void at::native::dispatch(int)",
        "hipLaunchKernel_gemm",  # `hip` begins the name of every kernel on another vendor's GPU
        "void my_combine<int>(int)",
        "void flash::compute_attn_reduce_scattered(int)",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas",
    ],
)
def test_what_only_sounds_alike_is_compute(name: str) -> None:
    assert named(name).kind == COMPUTE


def test_a_name_that_sounds_like_communication_and_is_in_no_row_is_told_and_not_guessed() -> None:
    found = named("void my_fused_all_gather_gemm<int>(int)")
    assert found.kind == COMPUTE and found.suspect
    assert not named("void flash_fwd_kernel<int>(int)").suspect
