"""EP: edges of expert-parallel overlap and of delayed weight gradients."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, remarks, request_of

OVERLAP = "comm_overlap.ep.overlap_moe_expert_parallel_comm=true"
DELAY = "comm_overlap.ep.delay_wgrad_compute=true"
EXPERTS = (
    "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall",
    "precision.bf16=true", "software.torch=2.11.0",
)  # fmt: skip
LEGAL = (*EXPERTS, OVERLAP)
TE212 = "software.transformer_engine=2.12.0"


def test_expert_overlap_is_opt_in() -> None:
    assert resolve(request_of(*EXPERTS)).transformer_config["overlap_moe_expert_parallel_comm"] is False
    assert resolve(request_of(*LEGAL)).transformer_config["overlap_moe_expert_parallel_comm"] is True


def test_refuses_expert_overlap_without_expert_parallelism_whatever_else_is_missing() -> None:
    assert refusing(OVERLAP) == ["EP001"]


def test_refuses_a_dense_model_through_its_layout() -> None:
    assert refusing(OVERLAP, *EXPERTS[1:]) == ["PAR011"]


@pytest.mark.parametrize(("change", "rules"), [
    ("model.moe_token_dispatcher_type=allgather", ["EP002"]),
    ("model.moe_token_dispatcher_type=flex", []),
    ("precision.bf16=false", ["EP003"]),
    ("software.torch=2.5.1", ["EP004"]),
    ("software.torch=2.6.0", []),
    ("software.torch=2.6.0a0+ecf3bae40a.nv25.01", ["EP004"]),
    ("parallelism.pipeline_model_parallel_size=2", ["EP005"]),
    ("model.recompute_method=uniform", ["EP006"]),
    ("model.recompute_num_layers=1", ["EP006"]),
    ("model.recompute_granularity=selective", []),
    ("model.recompute_modules=[core_attn]", []),
    ("model.recompute_modules=[core_attn,moe]", ["EP007"]),
    ("model.moe_shared_expert_intermediate_size=64", []),
    ("model.cuda_graph_scope=[attn,moe_router]", []),
    ("model.cuda_graph_scope=[attn,mlp]", ["CG003"]),
    ("model.cuda_graph_impl=local", ["EP013"]),
    ("model.cuda_graph_impl=transformer_engine", []),
    ("model.enable_cuda_graph=true", ["EP013"]),
    ("model.external_cuda_graph=true", []),
])  # fmt: skip
def test_expert_overlap_one_step_from_legal(change: str, rules: list[str]) -> None:
    assert refusing(*LEGAL, change) == rules


def test_allows_expert_overlap_in_fp16_and_in_the_interleaved_schedule() -> None:
    assert refusing(*LEGAL, "precision.bf16=false", "precision.fp16=true") == []
    pipeline = ("parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2")
    assert refusing(*LEGAL, *pipeline) == []


def test_refuses_both_overlaps_of_the_shared_expert() -> None:
    shared = ("model.moe_shared_expert_intermediate_size=64", "model.moe_shared_expert_overlap=true")
    assert refusing(*LEGAL, *shared) == ["EP008"]
    assert refusing(*EXPERTS, *shared) == []


@pytest.mark.parametrize(("layers", "core", "pipeline", "rules"), [
    (1, "0.16.1", False, ["EP009"]), (1, "0.16.1", True, []), (1, "0.18.2", False, []), (2, "0.19.0", True, ["EP009"]),
    (0, "0.18.2", False, ["EP009"]), (0, "0.19.0", False, []),
])  # fmt: skip
def test_mtp_layers_beside_expert_overlap_depend_on_megatron_core(
    layers: int, core: str, pipeline: bool, rules: list[str]
) -> None:
    schedule = ("parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2")
    asked = (*LEGAL, f"model.mtp_num_layers={layers}", f"software.megatron_core={core}")
    assert refusing(*asked, *(schedule if pipeline else ())) == rules


def test_refuses_delayed_weight_gradients_without_expert_overlap() -> None:
    assert refusing(DELAY) == refusing(DELAY, *EXPERTS, TE212) == ["EP010"]
    assert refusing(DELAY, *LEGAL, TE212) == []


def test_delayed_weight_gradients_reach_both_objects() -> None:
    resolution = resolve(request_of(DELAY, *LEGAL, TE212))
    assert resolution.transformer_config["delay_wgrad_compute"] is resolution.ddp_config["delay_wgrad_compute"] is True


@pytest.mark.parametrize(("te", "reduce", "rules"), [
    ("null", "false", ["EP011"]), ("2.6.0", "false", ["EP011"]), ("2.7.0", "false", []), ("2.7.0", "true", ["EP011"]),
    ("2.8.0", "true", []),
])  # fmt: skip
def test_delayed_weight_gradients_need_a_transformer_engine_new_enough(te: str, reduce: str, rules: list[str]) -> None:
    asked = (f"software.transformer_engine={te}", f"comm_overlap.dp.overlap_grad_reduce={reduce}")
    assert refusing(DELAY, *LEGAL, *asked) == rules


GRAPH = "model.cuda_graph_scope=[attn]"
GAF = "model.gradient_accumulation_fusion=true"
SHARED = "model.moe_shared_expert_intermediate_size=64"


@pytest.mark.parametrize(("changes", "rules"), [
    ((GRAPH,), ["EP012"]), ((GRAPH, GAF), []), ((GRAPH, GAF, "software.transformer_engine=2.11.0"), ["EP012"]),
    ((GRAPH, GAF, "model.add_bias_linear=true"), ["EP012"]), ((GRAPH, GAF, "model.add_qkv_bias=true"), ["EP012"]),
    (("model.cuda_graph_scope=[moe_router]",), []), (("model.cuda_graph_scope=[moe_router]", SHARED), ["EP012"]),
    (("model.cuda_graph_scope=[moe_router]", SHARED, GAF, "model.add_qkv_bias=true"), []),
])  # fmt: skip
def test_delayed_weight_gradients_inside_a_cuda_graph(changes: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(DELAY, *LEGAL, TE212, *changes) == rules


def test_refuses_shared_expert_overlap_that_would_hide_nothing() -> None:
    on = "model.moe_shared_expert_overlap=true"
    assert refusing(on) == refusing(on, *EXPERTS) == ["EP014"]
    assert refusing(on, SHARED, *EXPERTS, "model.moe_token_dispatcher_type=flex") == ["EP014"]
    assert refusing(on, SHARED, *EXPERTS) == []


def test_refuses_shared_expert_overlap_where_no_token_travels() -> None:
    alone = ("model.moe_shared_expert_overlap=true", SHARED, *EXPERTS, "parallelism.expert_model_parallel_size=1")
    assert refusing(*alone) == ["EP022"]
    assert refusing(*alone, "parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true") == []


@pytest.mark.parametrize(("layout", "core", "rules"), [
    ((1, 2, 1), "0.16.1", ["EP024"]), ((1, 2, 1), "0.18.2", ["EP024"]), ((1, 2, 1), "0.19.0", []),
    ((2, 2, 1), "0.16.1", []), ((1, 2, 2), "0.16.1", []), ((1, 1, 2), "0.16.1", ["EP024"]),
])  # fmt: skip
def test_refuses_experts_split_otherwise_whose_gradients_miss_their_ranks(
    layout: tuple[int, int, int], core: str, rules: list[str]
) -> None:
    ep, tp, etp = layout
    asked = (
        f"parallelism.expert_model_parallel_size={ep}", f"parallelism.tensor_model_parallel_size={tp}",
        f"parallelism.expert_tensor_parallel_size={etp}", f"parallelism.sequence_parallel={str(tp > 1).lower()}",
    )  # fmt: skip
    assert refusing(*EXPERTS, *asked, f"software.megatron_core={core}") == rules


@pytest.mark.parametrize(("core", "strategy", "rules"), [
    ("0.16.1", "optim_grads_params", ["EP023"]), ("0.17.1", "optim_grads_params", ["EP023"]),
    ("0.18.0", "optim_grads_params", []), ("0.16.1", "optim_grads", []),
])  # fmt: skip
def test_refuses_expert_overlap_that_passes_by_the_hooks_of_fsdp(core: str, strategy: str, rules: list[str]) -> None:
    sharded = (
        "ddp.use_megatron_fsdp=true", f"ddp.data_parallel_sharding_strategy={strategy}",
        "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true", "platform.sm=100", TE212,
    )  # fmt: skip
    assert refusing(*LEGAL, *sharded, f"software.megatron_core={core}") == rules


@pytest.mark.parametrize(("core", "rules"), [("0.16.1", ["EP014"]), ("0.17.1", ["EP014"]), ("0.18.2", [])])
def test_shared_expert_overlap_takes_the_flex_dispatcher_from_megatron_core_018(core: str, rules: list[str]) -> None:
    asked = ("model.moe_shared_expert_overlap=true", SHARED, *EXPERTS, "model.moe_token_dispatcher_type=flex")
    assert refusing(*asked, f"software.megatron_core={core}") == rules


@pytest.mark.parametrize(("granularity", "modules", "rules"), [
    ("selective", "[shared_experts]", ["EP016"]), ("selective", "[core_attn]", []), ("null", "[shared_experts]", []),
])  # fmt: skip
def test_shared_expert_overlap_excludes_recomputing_the_shared_expert(
    granularity: str, modules: str, rules: list[str]
) -> None:
    asked = (f"model.recompute_granularity={granularity}", f"model.recompute_modules={modules}")
    assert refusing("model.moe_shared_expert_overlap=true", SHARED, *EXPERTS, *asked) == rules


@pytest.mark.parametrize(("core", "rules"), [("0.17.1", ["EP013"]), ("0.18.2", [])])
def test_expert_overlap_inside_a_graph_of_the_whole_iteration_depends_on_megatron_core(
    core: str, rules: list[str]
) -> None:
    asked = ("model.cuda_graph_scope=[full_iteration]", f"software.megatron_core={core}")
    assert refusing(*LEGAL, *asked) == rules


@pytest.mark.parametrize(("te", "rules"), [("2.9.0", ["EP015"]), ("2.10.0", [])])
def test_delayed_weight_gradients_beside_any_partial_graph_need_transformer_engine_210(
    te: str, rules: list[str]
) -> None:
    asked = ("model.cuda_graph_scope=[moe_router]", f"software.transformer_engine={te}")
    assert refusing(DELAY, *LEGAL, *asked) == rules


@pytest.mark.parametrize("backend", ["deepep", "hybridep"])
def test_refuses_a_dispatcher_backend_that_nobody_reads(backend: str) -> None:
    asked = (*EXPERTS, f"model.moe_flex_dispatcher_backend={backend}")
    assert refusing(*asked) == ["EP017"]
    assert refusing(*asked, "model.moe_token_dispatcher_type=flex") == []


@pytest.mark.parametrize(("batch", "rules"), [(2, ["EP018"]), (4, []), (3, ["PAR009"])])
def test_expert_overlap_needs_a_second_microbatch(batch: int, rules: list[str]) -> None:
    assert refusing(*LEGAL, f"training.global_batch_size={batch}") == rules


def test_allows_expert_overlap_with_the_fewest_microbatches_of_a_pipeline() -> None:
    pipeline = ("parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2")
    assert refusing(*LEGAL, *pipeline, "training.global_batch_size=4") == []


def test_early_release_comes_with_expert_overlap() -> None:
    early = "model.ep_overlap_early_attn_memory_release=true"
    assert refusing(early, *EXPERTS) == ["EP019"]
    assert refusing(early, *LEGAL) == []


def test_dispatch_over_expert_weight_gradients_has_what_it_needs() -> None:
    on = ("model.overlap_dispatch_backward_with_experts_wgrad=true", "model.moe_grouped_gemm=true", TE212)
    assert refusing(*on, *EXPERTS) == refusing(*on, *EXPERTS, "software.megatron_core=0.18.2") == []
    assert refusing(*on, *EXPERTS, "software.megatron_core=0.17.1") == ["VER001"]
    assert refusing(*on, *LEGAL) == ["EP020"]
    assert refusing(*on, *EXPERTS, "model.moe_grouped_gemm=false") == ["EP021"]
    assert refusing(*on, *EXPERTS, "software.transformer_engine=null") == ["EP021"]
    assert refusing(*on, *EXPERTS, "parallelism.expert_model_parallel_size=1") == ["EP021"]


@pytest.mark.parametrize(("ranks", "domain", "noted"), [(2, 8, True), (4, 4, True), (4, 2, False), (8, 8, False)])
def test_a_note_asks_to_measure_expert_overlap_over_few_ranks(ranks: int, domain: int, noted: bool) -> None:
    asked = (f"parallelism.expert_model_parallel_size={ranks}", "model.num_moe_experts=8")
    assert remarks(*LEGAL, *asked, f"platform.nvlink_domain_size={domain}") == ["EP201"] * noted
