"""Pipeline layouts written down layer by layer: what they mean, what is derived from them, and what is refused."""

import pytest

from hydra_overlap import resolve
from hydra_overlap.rules.pipeline_layout import LONGEST, LayoutError, stages_of, text_of
from tests.each import each
from tests.overrides import errors_of, refusing, request_of

LAYOUT, VPP = "model.pipeline_model_parallel_layout", "parallelism.virtual_pipeline_model_parallel_size"
PP, LAYERS, MTP = "parallelism.pipeline_model_parallel_size", "model.num_layers", "model.mtp_num_layers"


def layout(text: str) -> str:
    return f"{LAYOUT}='{text}'"


@each("text, stages", [
    ("EtL", ("EtL",)), ("Et|tL", ("Et", "tL")), ("Ett|(tt|)*2,L", ("Ett", "tt", "tt", "L")), ("Et*3|L", ("Ettt", "L")),
    ("E|t|*3tL", ("E", "t", "", "", "tL")), ("(|ab)*0EtL", ("EtL",)), ("Et|(tt|)*30L", ("Et", *["tt"] * 30, "L")),
])  # fmt: skip
def test_a_layout_is_written_out_stage_by_stage(text: str, stages: tuple[str, ...]) -> None:
    assert stages_of(text) == stages


@each("text", ["Et L", "Ed|L", "((tt|)*2)*2", "Et*9999999999L", "E(t*9999)*9999L", "t" * (LONGEST + 1)])
def test_a_text_that_is_no_layout_or_has_no_end_is_named(text: str) -> None:
    with pytest.raises(LayoutError):
        stages_of(text)


def test_a_list_of_stages_is_the_same_layout_as_one_text() -> None:
    stages = [["embedding", "decoder"], ["decoder"] * 2, ["Decoder ", "mtp", "loss"]]
    assert text_of(stages) == "Et|tt|tmL"
    with pytest.raises(LayoutError, match="encoder"):
        text_of([["encoder"]])


def test_61_layers_over_16_stages_of_two_chunks_are_accepted_and_make_the_interleaved_schedule() -> None:
    request = request_of(f"{PP}=16", f"{LAYERS}=61", layout("Et|(tt|)*30L"))
    resolution = resolve(request)
    assert resolution.request["parallelism"]["virtual_pipeline_model_parallel_size"] == 2
    assert resolution.transformer_config["overlap_p2p_comm"] is True
    request["parallelism"]["virtual_pipeline_model_parallel_size"] = 2
    assert errors_of(request) == ()


def test_expert_parallel_overlap_runs_in_the_chunks_that_a_layout_makes() -> None:
    experts = (
        "model.num_moe_experts=8", "parallelism.expert_model_parallel_size=4", "model.moe_token_dispatcher_type=alltoall",
        "comm_overlap.ep.overlap_moe_expert_parallel_comm=true", "precision.bf16=true", "software.torch=2.11.0",
        f"{PP}=2", f"{LAYERS}=13",
    )  # fmt: skip
    assert refusing(*experts, layout("Et*3|(tt|)*4t*2L")) == []
    assert "EP005" in refusing(*experts, layout("Et*7|t*6L"))


@each("overrides, rules", [
    ((f"{PP}=2", f"{LAYERS}=2", layout("Et|tL")), []),
    ((f"{PP}=2", f"{LAYERS}=2", layout("Et|tx")), ["PAR021"]),
    ((f"{PP}=2", f"{LAYERS}=2", layout("Et|t|L")), ["PAR022"]),
    ((f"{PP}=2", f"{LAYERS}=2", f"{VPP}=2", layout("Et|tL")), ["PAR022"]),
    ((f"{PP}=2", f"{LAYERS}=2", f"{VPP}=2", layout("Et|t||L")), []),
    ((f"{LAYERS}=2", layout("Et|tL")), ["PAR022"]),
    ((f"{LAYERS}=2", layout("EttL")), []),
    ((f"{PP}=2", f"{LAYERS}=3", layout("Et|tL")), ["PAR023"]),
    ((f"{PP}=2", f"{LAYERS}=2", layout("t|EtL")), ["PAR023"]),
    ((f"{PP}=2", f"{LAYERS}=2", layout("Et|tLL")), ["PAR023"]),
    ((f"{PP}=2", f"{LAYERS}=2", layout("Et|tmL")), ["PAR023"]),
    ((f"{PP}=2", f"{LAYERS}=2", f"{MTP}=1", layout("Et|tmL")), []),
    ((f"{PP}=2", f"{LAYERS}=2", f"{MTP}=1", layout("Et|tm||L")), ["PAR024"]),
    ((f"{PP}=2", f"{LAYERS}=2", f"{MTP}=1", layout("Et|t|m|L")), []),
    ((f"{PP}=2", f"{LAYERS}=2", f"{MTP}=1", layout("Em|ttL")), ["PAR024"]),
    ((f"{PP}=2", f"{LAYERS}=2", "model.num_layers_in_last_pipeline_stage=1", layout("Et|tL")), ["PAR025"]),
    ((f"{PP}=2", f"{LAYERS}=3", layout("Et|ttL")), []),
])  # fmt: skip
def test_refuses_a_layout_that_megatron_core_would_not_build(overrides: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*overrides) == rules


def test_the_largest_chunk_of_a_layout_decides_how_large_a_bucket_may_be() -> None:
    plan = (
        f"{PP}=2", "parallelism.world_size=4", "model.hidden_size=1024", "model.num_attention_heads=16",
        "model.vocab_size=1024", "comm_overlap.dp.overlap_grad_reduce=true", "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true",
    )  # fmt: skip
    bucket = "comm_overlap.dp.bucket_size=60000000"  # a layer has 16.8 million parameters
    assert "DP014" in refusing(*plan, bucket, f"{LAYERS}=6")
    assert refusing(*plan, bucket, f"{LAYERS}=6", layout("E|t*6L")) == []
