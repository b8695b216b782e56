"""PAR026 to PAR032: models that megatron-core refuses, each beside the nearest that it builds."""

from tests.each import each
from tests.overrides import refusing

MOE, SELECTIVE = "model.num_moe_experts=4", "model.recompute_granularity=selective"
TP2 = ("parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true")
FP8 = ("precision.fp8=hybrid", "precision.bf16=true")
FLEX = (MOE, "model.moe_token_dispatcher_type=flex")


@each("overrides, rules", [
    ((MOE, "model.moe_router_topk=1"), ["PAR026"]),
    ((MOE, "model.moe_router_topk=1", "model.moe_router_pre_softmax=true"), []),
    ((MOE, "model.moe_router_topk=1", "model.moe_router_score_function=sigmoid"), []),
    ((MOE, "model.moe_router_topk=1", "model.moe_router_load_balancing_type=sinkhorn"), []),
    (("model.moe_router_topk=1",), []),
    ((MOE, "model.moe_router_topk=5"), ["PAR027"]),
    ((MOE, "model.moe_router_topk=4"), []),
    ((MOE, "model.add_bias_linear=true", *TP2), ["PAR028"]),
    ((MOE, "model.add_bias_linear=true", *TP2, "parallelism.expert_tensor_parallel_size=1", "parallelism.expert_model_parallel_size=2"), []),
    ((MOE, "model.add_bias_linear=true"), []),
    (("model.add_bias_linear=true", *TP2), []),
    ((SELECTIVE, "model.recompute_modules=[layernorm]", *FP8), ["PAR030"]),
    ((SELECTIVE, "model.recompute_modules=[layernorm]", *FP8, "precision.fp8_recipe=tensorwise"), []),
    ((SELECTIVE, "model.recompute_modules=[layernorm]"), []),
    ((SELECTIVE, *FP8), []),
    (FLEX, ["PAR031"]),
    ((*FLEX, "parallelism.expert_model_parallel_size=2"), []),
    ((*FLEX, *TP2), []),
    ((*FLEX, "model.moe_flex_dispatcher_backend=hybridep", "software.megatron_core=0.17.1"), []),
    ((*FLEX, "model.moe_flex_dispatcher_backend=hybridep", "software.megatron_core=0.16.1"), ["PAR031"]),
    ((MOE, "model.moe_router_load_balancing_type=sinkhorn", "model.moe_aux_loss_coeff=0.01"), ["PAR029"]),
    ((MOE, "model.moe_router_load_balancing_type=sinkhorn"), []),
    ((MOE, "model.moe_aux_loss_coeff=0.01"), []),
])  # fmt: skip
def test_refuses_what_megatron_core_refuses_and_nothing_beside_it(overrides: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(*overrides) == rules
