"""CG: CUDA graphs."""

import pytest

from tests.overrides import errors_of, overridden, refusing, remarks, request_of

CORE = "software.megatron_core"
MOE = ("model.num_moe_experts=4",)
PADDED = (*MOE, "model.moe_token_dispatcher_type=alltoall", "model.moe_expert_capacity_factor=1.0",
          "model.moe_pad_expert_input_to_capacity=true")  # fmt: skip
FSDP = ("ddp.use_megatron_fsdp=true", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
        "parallelism.world_size=2")  # fmt: skip
WHOLE = "model.cuda_graph_scope=[full_iteration]"


@pytest.mark.parametrize(("said", "rules"), [
    (("model.cuda_graph_impl=local",), []),
    (("model.cuda_graph_impl=local", "model.cuda_graph_scope=[attn]"), []),
    (("model.enable_cuda_graph=true",), []),
    (("model.enable_cuda_graph=true", "model.cuda_graph_impl=local"), ["CG001"]),
    (("model.enable_cuda_graph=true", "model.cuda_graph_impl=none"), []),
    (("model.cuda_graph_modules=[attn]",), []),
    (("model.cuda_graph_modules=[attn]", f"{CORE}=0.17.1"), ["VER001"]),
    (("model.cuda_graph_modules=[attn]", "model.cuda_graph_scope=[attn]"), ["CG001"]),
    (("model.cuda_graph_impl=full_iteration",), []),
    (("model.cuda_graph_impl=full_iteration", f"{CORE}=0.17.1"), ["VER003"]),
    (("model.cuda_graph_impl=full_iteration", "model.cuda_graph_modules=[attn]"), ["CG004"]),
    (("model.cuda_graph_impl=local", WHOLE), []),
    (("model.cuda_graph_impl=transformer_engine", WHOLE), ["CG004"]),
])  # fmt: skip
def test_graphs_are_said_once_and_in_words_of_the_release(said: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*said) == rules


@pytest.mark.parametrize(("said", "rules"), [
    (("model.cuda_graph_scope=[mlp]",), []),
    (("model.cuda_graph_scope=[mlp]", *MOE), ["CG003"]),
    (("model.cuda_graph_scope=[moe]",), ["CG003"]),
    (("model.cuda_graph_scope=[moe]", *MOE), ["CG003"]),
    (("model.cuda_graph_scope=[moe]", *PADDED), []),
    (("model.cuda_graph_scope=[moe_router]",), ["CG003"]),
    (("model.cuda_graph_scope=[moe_router,moe_preprocess]", *MOE), []),
    (("model.cuda_graph_scope=[moe_preprocess]", *MOE), ["CG004"]),
    (("model.cuda_graph_scope=[moe_preprocess]", "model.cuda_graph_impl=local", *MOE), []),
    (("model.cuda_graph_scope=[attn,mamba]",), []),
])  # fmt: skip
def test_a_graph_captures_what_the_model_has(said: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*said) == rules


def test_a_scope_without_an_implementation_is_said_to_be_read_by_nobody() -> None:
    assert "CG002" in remarks("model.cuda_graph_impl=none", "model.cuda_graph_scope=[attn]")
    assert "CG002" not in remarks("model.cuda_graph_scope=[attn]")


@pytest.mark.parametrize(("said", "rules"), [
    (("model.recompute_granularity=full", "model.recompute_method=uniform", "model.recompute_num_layers=1"), ["CG005"]),
    (("model.recompute_granularity=selective",), []),
    (("model.recompute_granularity=selective", "model.attention_dropout=0.1"), ["CG006"]),
    (("model.recompute_granularity=selective", "model.recompute_modules=[mlp]", "model.attention_dropout=0.1"), []),
])  # fmt: skip
def test_what_is_captured_is_not_recomputed_with_random_numbers(said: tuple[str, ...], rules: list[str]) -> None:
    assert refusing("model.cuda_graph_scope=[attn]", *said) == rules
    assert refusing(*said) == []


@pytest.mark.parametrize(("said", "rules"), [
    ((f"{CORE}=0.18.2",), []),
    ((f"{CORE}=0.17.1",), ["CG009"]),
    ((f"{CORE}=0.19.2", "ddp.megatron_fsdp_cuda_graph_mode=false"), ["CG009"]),
    ((f"{CORE}=0.19.2", "ddp.fsdp_all_gather_in_start_param_sync=true"), ["CG009"]),
    ((f"{CORE}=0.19.2", "ddp.fsdp_all_gather_in_start_param_sync=false", "ddp.megatron_fsdp_cuda_graph_mode=true"), []),
])  # fmt: skip
def test_fsdp_in_a_graph_of_the_whole_iteration_starts_no_gather_outside(
    said: tuple[str, ...], rules: list[str]
) -> None:
    assert refusing(*FSDP, WHOLE, *said) == rules


def test_the_finding_on_fsdp_names_the_two_fields_that_mend_it() -> None:
    request = request_of(*FSDP, WHOLE, f"{CORE}=0.18.2", "ddp.fsdp_all_gather_in_start_param_sync=true")
    (error,) = errors_of(request)
    assert (
        error.fixes[0].override
        == "ddp.megatron_fsdp_cuda_graph_mode=true ddp.fsdp_all_gather_in_start_param_sync=false"
    )
    assert errors_of(overridden(request, error.fixes[0].override)) == ()
