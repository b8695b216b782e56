"""A number whose unit was mistaken is answered with what it means, and with what was probably meant."""

import pytest

from hydra_overlap import Finding, resolve
from hydra_overlap.presets.catalogue import catalogue
from tests.overrides import remarks, request_of

DP = ("parallelism.world_size=2",)
MODEL = (
    "model.num_layers=32", "model.hidden_size=4096", "model.num_attention_heads=32", "model.vocab_size=32000",
    "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true", "precision.bf16=true",
)  # fmt: skip


def finding(rule: str, *overrides: str) -> Finding:
    return next(one for one in resolve(request_of(*overrides)).findings if one.rule == rule)


@pytest.mark.parametrize("size", [1, 25, 128, 4096, 999_999])
def test_warns_of_a_bucket_of_few_parameters(size: int) -> None:
    assert "DP205" in remarks(*DP, *MODEL, f"comm_overlap.dp.bucket_size={size}")


@pytest.mark.parametrize("size", ["1000000", "25000000", "134217728", "null"])
def test_allows_a_bucket_of_a_million_parameters(size: str) -> None:
    assert "DP205" not in remarks(*DP, *MODEL, f"comm_overlap.dp.bucket_size={size}")


def test_a_base_value_of_ddp_is_warned_of_as_well() -> None:
    assert "DP205" in remarks(*DP, *MODEL, "ddp.bucket_size=25")


def test_a_small_model_may_be_cut_into_a_few_small_buckets() -> None:
    tiny = ("model.num_layers=4", "model.hidden_size=128", "model.num_attention_heads=8", "model.vocab_size=512")
    assert "DP205" not in remarks(*DP, *tiny, "comm_overlap.dp.bucket_size=100000")
    assert "DP205" in remarks(*DP, *tiny, "comm_overlap.dp.bucket_size=25")


def test_says_what_a_bucket_is_in_mib_and_how_many_there_are() -> None:
    found = finding("DP205", *DP, *MODEL, "comm_overlap.dp.bucket_size=25", "precision.grad_reduce_in_fp32=true")
    assert found.why.startswith("25 parameters are 100 bytes of gradients, 9.5e-05 MiB: the 8,721,006,592 parameters")
    assert "up to 348,840,264 buckets" in found.why
    assert [fix.override for fix in found.fixes] == [
        "comm_overlap.dp.bucket_size=6553600",
        "comm_overlap.dp.bucket_size=null",
    ]
    in_bf16 = finding("DP205", *DP, *MODEL, "comm_overlap.dp.bucket_size=25")
    assert "50 bytes" in in_bf16.why and in_bf16.fixes[0].override == "comm_overlap.dp.bucket_size=13107200"
    assert in_bf16.fixes[0].effect == "keeps the overlap, in buckets of 25 MiB"


def test_a_number_that_is_no_number_of_mib_either_is_not_turned_into_one() -> None:
    found = finding("DP205", *DP, *MODEL, "comm_overlap.dp.bucket_size=500000")
    assert [fix.override for fix in found.fixes] == ["comm_overlap.dp.bucket_size=null"]


@pytest.mark.parametrize(("size", "warned"), [(2, True), (2048, True), (65535, True), (65536, False), (2097152, False)])
def test_warns_of_a_chunk_of_few_bytes(size: int, warned: bool) -> None:
    found = remarks("parallelism.pipeline_model_parallel_size=2", f"launch.nccl_pp_comm_chunksize={size}")
    assert ("ENV203" in found) == warned


def test_says_what_a_chunk_is_in_mib() -> None:
    found = finding("ENV203", "parallelism.pipeline_model_parallel_size=2", "launch.nccl_pp_comm_chunksize=2048")
    assert found.why.startswith("2,048 bytes are 0.002 MiB: a message of 2 MiB takes 1,024 chunks.")


@pytest.mark.parametrize(("margin", "warned"), [(20, False), (66, False), (67, True), (100, True)])
def test_warns_of_a_margin_that_leaves_less_than_half_of_the_sms(margin: int, warned: bool) -> None:
    found = remarks(f"launch.layernorm_sm_margin={margin}", "platform.num_sms=132")
    assert ("ENV204" in found) == warned


@pytest.mark.parametrize(("memory", "warned"), [("80", False), ("288", False), ("81559", True), ("null", False)])
def test_warns_of_memory_that_is_in_mib(memory: str, warned: bool) -> None:
    assert ("ENV205" in remarks(f"platform.memory_gib={memory}")) == warned


@pytest.mark.parametrize(("entry", "warned"), [
    ("proj_fprop={method:pipeline,num_sm:1}", True), ("proj_fprop={method:pipeline,num_sm:4}", False),
    ("qkv_fprop={method:ring_exchange,num_sm:16}", True), ("qkv_fprop={num_sm:1}", False),
    ("qkv_wgrad={method:bulk,num_sm:2}", False),
])  # fmt: skip
def test_warns_of_a_number_of_sms_that_no_preset_has(entry: str, warned: bool) -> None:
    assert ("UB206" in remarks(f"userbuffers.layers.{entry}")) == warned


def test_no_published_preset_is_warned_of() -> None:
    for preset in catalogue():
        plan = {"userbuffers": {"layers": {gemm: dict(entry) for gemm, entry in preset.layers.items()}}}
        plan["userbuffers"]["layers"] = {
            gemm: {name: value for name, value in entry.items() if name != "atomic_gemm"}
            for gemm, entry in plan["userbuffers"]["layers"].items()
        }
        assert "UB206" not in {one.rule for one in resolve(plan).findings}, preset.name
