"""DP: edges of gradient-reduce and parameter-gather overlap."""

import pytest

from hydra_overlap import Resolution, resolve
from hydra_overlap.rules.layout import bucketed_parameters
from tests.overrides import errors_of, flat_of, overridden, refusing, request_of

DP = "comm_overlap.dp."
REDUCE, GATHER, STEP, ALIGN, BUCKET = (
    f"{DP}{name}"
    for name in (
        "overlap_grad_reduce", "overlap_param_gather", "overlap_param_gather_with_optimizer_step", "align_param_gather",
        "bucket_size",
    )
)  # fmt: skip
SHARDED = ("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
DP2 = "parallelism.world_size=2"
INTERLEAVED = (
    "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
    "parallelism.world_size=4",
)  # fmt: skip


def answer(*overrides: str) -> Resolution:
    return resolve(request_of(*overrides))


def reason(resolution: Resolution, key: str) -> str:
    return next(row.reason for row in resolution.ledger if row.field == key)


def test_derives_both_overlaps_from_ranks_and_optimizer() -> None:
    def both(*overrides: str) -> tuple[bool, bool]:
        fields = answer(*overrides).ddp_config
        return fields["overlap_grad_reduce"], fields["overlap_param_gather"]

    assert both() == both(*SHARDED) == (False, False)
    assert both(DP2) == (True, False)
    assert both(DP2, *SHARDED) == (True, True)


def test_context_parallel_ranks_reduce_gradients_too() -> None:
    cp2 = "parallelism.context_parallel_size=2"
    assert refusing(f"{REDUCE}=true", cp2) == []
    assert answer(cp2, *SHARDED).ddp_config["overlap_param_gather"] is True


def test_refuses_gradient_reduce_overlap_on_one_rank() -> None:
    assert refusing(f"{REDUCE}=true") == ["DP001"]
    assert refusing(f"{REDUCE}=true", DP2) == []
    assert refusing(f"{REDUCE}=true", "parallelism.tensor_model_parallel_size=2", DP2) == ["DP001"]


def test_refuses_parameter_gather_overlap_without_sharding_ranks_or_gradient_overlap() -> None:
    assert refusing(f"{GATHER}=true", DP2) == ["DP002"]
    assert refusing(f"{GATHER}=true", *SHARDED) == ["DP003"]
    assert refusing(f"{GATHER}=true", f"{REDUCE}=false", DP2, *SHARDED) == ["DP004"]
    assert refusing(f"{GATHER}=true", DP2, *SHARDED) == []


def test_allows_gradient_overlap_without_gather_overlap() -> None:
    assert refusing(f"{GATHER}=false", f"{REDUCE}=true", DP2, *SHARDED) == []


def test_derives_no_gather_where_gradients_are_not_reduced_in_backward() -> None:
    resolution = answer(f"{REDUCE}=false", DP2, *SHARDED)
    assert resolution.ddp_config["overlap_param_gather"] is False
    assert "DP004" in reason(resolution, GATHER)


def test_refuses_gathering_with_the_optimizer_step_outside_the_interleaved_schedule() -> None:
    assert refusing(f"{STEP}=true", DP2, *SHARDED) == ["DP005"]
    assert refusing(f"{STEP}=true", *INTERLEAVED, *SHARDED) == []
    assert refusing(f"{STEP}=true", f"{GATHER}=false", *INTERLEAVED, *SHARDED) == ["DP006"]


def test_the_optimizer_config_has_the_two_fields_that_belong_to_it() -> None:
    resolution = answer(f"{STEP}=true", *INTERLEAVED, *SHARDED)
    assert resolution.optimizer_config == {
        "overlap_param_gather": True, "overlap_param_gather_with_optimizer_step": True,
    }  # fmt: skip


def test_refuses_aligning_what_is_not_interleaved_or_not_gathered() -> None:
    assert refusing(f"{ALIGN}=true", DP2, *SHARDED) == ["DP007"]
    assert refusing(f"{ALIGN}=true", f"{GATHER}=false", *INTERLEAVED, *SHARDED) == ["DP007"]
    assert refusing(f"{ALIGN}=true", *INTERLEAVED, *SHARDED) == []


def test_refuses_an_interleaved_gather_that_nothing_launches() -> None:
    assert refusing(f"{ALIGN}=false", *INTERLEAVED, *SHARDED) == ["DP008"]
    assert refusing(f"{ALIGN}=false", f"{GATHER}=false", *INTERLEAVED, *SHARDED) == []
    assert refusing(f"{ALIGN}=false", DP2, *SHARDED) == []


def test_refuses_a_bucket_size_that_megatron_core_would_drop() -> None:
    assert refusing(f"{BUCKET}=1000000") == refusing(f"{BUCKET}=1000000", f"{REDUCE}=false", DP2) == ["DP009"]
    assert refusing(f"{BUCKET}=1000000", DP2) == []


BASE = [
    ("ddp.overlap_grad_reduce", REDUCE), ("ddp.overlap_param_gather", GATHER),
    ("optimizer.overlap_param_gather", GATHER), ("ddp.align_param_gather", ALIGN),
    ("optimizer.overlap_param_gather_with_optimizer_step", STEP),
]  # fmt: skip


@pytest.mark.parametrize(("base", "key"), BASE)
def test_refuses_a_base_value_that_contradicts_the_overlap_flag(base: str, key: str) -> None:
    legal = (*INTERLEAVED, *SHARDED, f"{key}=true")
    assert refusing(*legal, f"{base}=false") == ["DP010"]
    assert refusing(*legal, f"{base}=true") == []


def test_refuses_a_base_bucket_size_that_contradicts() -> None:
    assert refusing(DP2, f"{BUCKET}=7", "ddp.bucket_size=8") == ["DP010"]
    assert refusing(DP2, f"{BUCKET}=7", "ddp.bucket_size=7") == []


@pytest.mark.parametrize(("base", "key"), BASE)
def test_a_base_value_alone_is_an_ask(base: str, key: str) -> None:
    resolution = answer(*INTERLEAVED, *SHARDED, f"{base}=true")
    row = next(row for row in resolution.ledger if row.field == key)
    assert (row.asked, row.effective, row.origin) == (True, True, base)
    assert refusing(f"{base}=true")  # one rank, no pipeline: refused like the flag itself


def test_refuses_two_base_values_that_contradict_each_other() -> None:
    sides = ("ddp.overlap_param_gather=true", "optimizer.overlap_param_gather=false")
    assert refusing(DP2, *SHARDED, *sides) == ["DP010"]


def test_refuses_half_a_distributed_optimizer() -> None:
    assert refusing(SHARDED[0]) == refusing(SHARDED[1]) == ["DP011"]
    assert refusing(*SHARDED) == []


TINY = {
    "num_layers": 4, "hidden_size": 128, "ffn_hidden_size": 384, "num_attention_heads": 4, "num_query_groups": 2,
    "vocab_size": 384,
}  # fmt: skip


def test_a_bucket_of_a_large_model_is_megatron_cores_default() -> None:
    large = ("model=llama3_70b", *SHARDED)
    assert answer(*large, "parallelism.world_size=8").ddp_config["bucket_size"] == 40_000_000
    assert answer(*large, "parallelism.world_size=64").ddp_config["bucket_size"] == 64_000_000


def test_the_bucket_counts_data_parallel_ranks_without_context_parallel_ones() -> None:
    split = ("model=llama3_70b", "parallelism.world_size=128", "parallelism.context_parallel_size=2")
    assert answer(*split).ddp_config["bucket_size"] == 64_000_000


def test_a_bucket_of_a_small_model_leaves_several() -> None:
    resolution = resolve({"model": TINY, "parallelism": {"world_size": 2}})
    (chunk,) = bucketed_parameters(flat_of(overridden(resolution.request)))
    assert chunk == 4 * (128 * 32 * (2 * 4 + 2 * 2) + 3 * 128 * 384) + 384 * 128
    assert resolution.ddp_config["bucket_size"] == chunk // 4
    assert "quarter" in reason(resolution, BUCKET)


@pytest.mark.parametrize("size", [None, 1000])
def test_the_ledger_says_that_a_bucket_size_cuts_the_first_stage_alone(size: int | None) -> None:
    model = {"model": TINY}
    stages = {"parallelism": {"pipeline_model_parallel_size": 2, "world_size": 4}}
    bucket = {"comm_overlap": {"dp": {"bucket_size": size}}}
    assert "first chunk of the first pipeline stage" in reason(resolve(model | stages | bucket), BUCKET)
    assert "pipeline" not in reason(resolve(model | bucket | {"parallelism": {"world_size": 4}}), BUCKET)


@pytest.mark.parametrize(
    ("ranks", "instances", "rules"), [(4, 2, []), (4, 4, []), (4, 3, ["DP012"]), (1, 2, ["DP012"])]
)
def test_refuses_optimizer_instances_that_ranks_cannot_be_dealt_to(
    ranks: int, instances: int, rules: list[str]
) -> None:
    asked = f"ddp.num_distributed_optimizer_instances={instances}"
    assert refusing(asked, *SHARDED, f"parallelism.world_size={ranks}") == rules


def test_refuses_gathering_among_instances_that_share_nothing() -> None:
    apart = ("ddp.num_distributed_optimizer_instances=4", *SHARDED, "parallelism.world_size=4")
    assert refusing(*apart, f"{GATHER}=true") == ["DP003"]
    assert answer(*apart).ddp_config["overlap_param_gather"] is False
    assert "DP003" in reason(answer(*apart), GATHER)
    assert refusing(*apart, "ddp.num_distributed_optimizer_instances=2", f"{GATHER}=true") == []


def test_derives_no_gradient_overlap_where_instances_would_reduce_unfinished_gradients() -> None:
    instances = ("ddp.num_distributed_optimizer_instances=2", *SHARDED, "parallelism.world_size=4")
    early, mended = (f"software.megatron_core={version}" for version in ("0.16.1", "0.17.0"))
    assert answer(*instances, early).ddp_config["overlap_grad_reduce"] is False
    assert "ADV001" in reason(answer(*instances, early), REDUCE)
    assert answer(*instances, mended).ddp_config["overlap_grad_reduce"] is True
    assert refusing(*instances, early, f"{REDUCE}=true") == ["ADV001"]


def test_allows_sgd_without_the_distributed_optimizer() -> None:
    assert refusing(*SHARDED, "optimizer.optimizer=sgd") == ["DP013"]
    assert refusing("optimizer.optimizer=sgd", DP2) == []


CUT = 4 * (128 * 32 * (2 * 4 + 2 * 2) + 3 * 128 * 384)  # parameters of TINY's layers
VOCABULARY = 384 * 128


def bucketed(size: int, **model: object) -> list[str]:
    request = {
        "model": {**TINY, **model}, "parallelism": {"world_size": 2}, "comm_overlap": {"dp": {"bucket_size": size}},
    }  # fmt: skip
    return [finding.rule for finding in errors_of(request)]


def test_refuses_a_bucket_that_holds_the_whole_chunk() -> None:
    assert bucketed(CUT + VOCABULARY) == []  # the output layer's gradient comes first, the embedding's last
    assert bucketed(CUT + VOCABULARY + 1) == ["DP014"]
    tied = {"share_embeddings_and_output_weights": True}
    assert bucketed(CUT, **tied) == []
    assert bucketed(CUT + 1, **tied) == ["DP014"]
    assert bucketed(10**9, num_layers=None) == []  # nobody can tell


def test_allows_any_bucket_where_model_chunks_overlap_each_other() -> None:
    chunks = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "world_size": 4}
    request = {"model": TINY, "comm_overlap": {"dp": {"bucket_size": 10**9}}}
    assert errors_of(request | {"parallelism": chunks}) == ()
    plain = chunks | {"virtual_pipeline_model_parallel_size": None}
    assert [finding.rule for finding in errors_of(request | {"parallelism": plain})] == ["DP014"]


@pytest.mark.parametrize("pipeline", [1, 2, 4])
@pytest.mark.parametrize("vocabulary", [384, 128256])
def test_a_derived_bucket_is_never_refused_and_cuts_the_layers(pipeline: int, vocabulary: int) -> None:
    layout = {"pipeline_model_parallel_size": pipeline, "world_size": 2 * pipeline}
    resolution = resolve({"model": TINY | {"vocab_size": vocabulary}, "parallelism": layout})
    cut = CUT // pipeline + (vocabulary * 128 if pipeline == 1 else 0)
    assert resolution.ddp_config["bucket_size"] == min(cut // 4, 40_000_000)


def test_experts_of_an_expert_parallel_rank_have_a_buffer_of_their_own() -> None:
    experts = {"num_moe_experts": 4, "moe_ffn_hidden_size": 384}
    of_experts = 4 * 3 * 128 * 384 * 2  # two experts a rank, more than all the rest
    dense = 4 * (128 * 32 * (2 * 4 + 2 * 2) + 128 * 4) + VOCABULARY  # attention, router, output layer

    def request(ranks: int) -> dict:
        return {"model": TINY | experts, "parallelism": {"world_size": ranks, "expert_model_parallel_size": 2}}

    # On two ranks nobody else has a rank's experts: what is reduced is all the rest.
    for ranks, cut in ((4, of_experts), (2, dense)):
        assert errors_of(request(ranks) | {"comm_overlap": {"dp": {"bucket_size": cut}}}) == ()
        refused = errors_of(request(ranks) | {"comm_overlap": {"dp": {"bucket_size": cut + 1}}})
        assert [finding.rule for finding in refused] == ["DP014"]
        assert resolve(request(ranks)).ddp_config["bucket_size"] == dense // 4  # both buffers are cut


def test_refuses_gathering_with_the_optimizer_step_in_mxfp8() -> None:
    fp8 = ("precision.bf16=true", "precision.fp8=e4m3", "software.transformer_engine=2.12.0", "platform=b200")
    asked = (f"{STEP}=true", *INTERLEAVED, *SHARDED, *fp8)
    assert refusing(*asked, "precision.fp8_recipe=mxfp8") == ["DP015"]
    assert refusing(*asked, "precision.fp8_recipe=tensorwise") == []


def test_refuses_optimizer_instances_without_a_distributed_optimizer_or_across_experts() -> None:
    asked = ("ddp.num_distributed_optimizer_instances=2", "parallelism.world_size=4")
    assert refusing(*asked) == ["DP012"]
    experts = ("model.num_moe_experts=4", "parallelism.expert_model_parallel_size=4")
    assert refusing(*asked, *SHARDED, *experts) == ["DP012"]


MUON = ("optimizer.optimizer=muon", DP2)
DIST_MUON = ("optimizer.optimizer=dist_muon", DP2)


@pytest.mark.parametrize(("said", "core", "rules"), [
    (MUON, "0.16.1", ["DP030"]), (DIST_MUON, "0.16.1", ["DP030"]), (MUON, "0.17.1", ["DP030"]), (DIST_MUON, "0.17.1", []),
    (MUON, "0.18.2", []), (DIST_MUON, "0.19.2", []), (MUON, "0.15.3", ["DP030", "VER003"]),
])  # fmt: skip
def test_muon_reduces_gradients_in_backward_where_its_release_can(
    said: tuple[str, ...], core: str, rules: list[str]
) -> None:
    asked = (*said, f"software.megatron_core={core}")
    assert refusing(*asked, "comm_overlap.dp.overlap_grad_reduce=true") == rules
    assert [rule for rule in refusing(*asked) if rule != "VER003"] == []


@pytest.mark.parametrize(("said", "core", "rules"), [
    (DIST_MUON, "0.17.1", []), (DIST_MUON, "0.19.2", []), (MUON, "0.19.2", ["DP002"]), ((*MUON, *SHARDED), "0.19.2", []),
    ((*MUON, *SHARDED), "0.17.1", ["DP013", "DP030"]),
])  # fmt: skip
def test_layers_sharded_over_ranks_are_gathered_in_forward(said: tuple[str, ...], core: str, rules: list[str]) -> None:
    asked = ("comm_overlap.dp.overlap_param_gather=true", "comm_overlap.dp.overlap_grad_reduce=true")
    assert refusing(*said, *asked, f"software.megatron_core={core}") == rules


@pytest.mark.parametrize("said", ["precision.fp16=true", "ddp.num_distributed_optimizer_instances=2"])
def test_an_emerging_optimizer_is_refused_what_it_is_not_written_for(said: str) -> None:
    assert "DP031" in refusing(*MUON, said)
