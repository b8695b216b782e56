"""What a rehearsal keeps, shrinks, replaces and refuses."""

import pytest

from hydra_overlap import LaunchError, resolve
from hydra_overlap.launch import preflight
from hydra_overlap.megatron.rehearsal import HIDDEN, rehearse
from hydra_overlap.run.rehearsal_notice import print_rehearsal
from hydra_overlap.screen import make_console
from tests.plans import plan_of

BIG = ("comm_overlap=tp4_h100", "model=llama3_70b", "parallelism.world_size=64", "training.global_batch_size=256")


def replaced(plan):
    return {change.key: change.rehearsed for change in plan.rehearsal.replaced}


def shrunk(plan):
    return {change.key: (change.planned, change.rehearsed) for change in plan.rehearsal.shrunk}


def test_keeps_layout_layers_batches_and_every_overlap_flag():
    plan = plan_of(*BIG)
    rehearsed = rehearse(plan)
    assert rehearsed.request.parallelism == plan.request.parallelism
    assert rehearsed.request.training == plan.request.training
    assert rehearsed.request.model.num_layers == 80
    assert rehearsed.resolution.transformer_config == plan.resolution.transformer_config
    assert rehearsed.resolution.optimizer_config == plan.resolution.optimizer_config
    assert rehearsed.resolution.env == plan.resolution.env


def test_shrinks_tensors_and_says_from_what_to_what():
    assert shrunk(rehearse(plan_of(*BIG)))["model.hidden_size"] == (8192, HIDDEN)


def test_leaves_the_plan_it_was_given_alone():
    plan = plan_of(*BIG)
    rehearse(plan)
    assert plan.rehearsal is None
    assert plan.request.model.hidden_size == 8192


def test_a_model_that_is_small_already_stays_as_it_is():
    assert shrunk(rehearse(plan_of())) == {}


def test_cuts_the_shrunk_chunk_into_as_many_buckets():
    plan = plan_of(*BIG, "comm_overlap.dp.bucket_size=500000000")
    planned, rehearsed = shrunk(rehearse(plan))["comm_overlap.dp.bucket_size"]
    assert planned == 500_000_000
    assert 0 < rehearsed < planned // 100


@pytest.mark.parametrize(
    "overrides",
    [
        BIG,
        ("comm_overlap=tp8_h100", "model=llama31_405b"),
        ("comm_overlap=tp8_b200", "model=gpt3_175b"),
        ("comm_overlap=pp_interleaved", "model=llama3_8b"),
        ("parallelism=ep8", "model=qwen3_30b_a3b"),
    ],
    ids=lambda overrides: " ".join(overrides[:2]),
)
def test_a_shrunk_request_is_as_legal_as_the_planned_one(overrides):
    resolve(rehearse(plan_of(*overrides)).resolution.request)


def test_tensor_parallel_ranks_keep_whole_heads_and_grouped_queries():
    model = rehearse(plan_of("comm_overlap=tp4_h100", "model=llama3_70b")).request.model
    assert model.num_attention_heads % 4 == 0
    assert model.num_attention_heads > model.num_query_groups


def test_names_userbuffers_and_the_environment_as_not_exercised():
    left_out = " ".join(rehearse(plan_of("comm_overlap=tp4_h100")).rehearsal.not_exercised)
    assert "userbuffers" in left_out
    assert "CUDA_DEVICE_MAX_CONNECTIONS" in left_out


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("bf16", ["bf16 matrices are multiplied in fp32 and rounded to bf16 once, on every CPU"]),
        ("fp16", ["fp16 matrices are multiplied in fp32 and rounded to fp16 once, on every CPU"]),
        ("fp8_delayed", ["bf16 matrices are multiplied in fp32 and rounded to bf16 once, on every CPU"]),
        ("fp32", []),
    ],
)
def test_says_how_it_multiplies(precision, said):
    rehearsed = rehearse(plan_of("platform=h100", f"precision={precision}"))
    assert rehearsed.rehearsal.arithmetic == tuple(said)
    console = make_console()
    with console.capture() as shown:
        print_rehearsal(rehearsed, console)
    assert all(f"{text}.\n" in shown.get() for text in said)
    assert said or "multiplied in fp32" not in shown.get()


def test_replaces_what_only_cuda_has_in_request_and_settings():
    plan = plan_of(
        "comm_overlap=pp_interleaved", "platform=h100", "comm_overlap.pp.defer_embedding_wgrad_compute=true",
        "comm_overlap.dp.overlap_grad_reduce=false", "model.gradient_accumulation_fusion=true", "precision=fp8_delayed",
        "training.global_batch_size=32",
    )  # fmt: skip
    rehearsed = rehearse(plan)
    assert plan.resolution.transformer_config["defer_embedding_wgrad_compute"] is True
    assert rehearsed.resolution.transformer_config["defer_embedding_wgrad_compute"] is False
    assert {"precision.fp8", "model.gradient_accumulation_fusion"} <= replaced(rehearsed).keys()
    assert rehearsed.request.precision.fp8 is None


def test_names_nothing_as_replaced_that_was_not_asked():
    assert replaced(rehearse(plan_of("platform=h100"))) == {}


def test_experts_are_not_gathered_while_they_step():
    experts = ("model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall")
    asked = (
        "platform=h100", "comm_overlap=pp_interleaved", "parallelism=pp2_vpp2", "parallelism.world_size=4",
        "comm_overlap.dp.overlap_param_gather_with_optimizer_step=true",
    )  # fmt: skip
    key = "comm_overlap.dp.overlap_param_gather_with_optimizer_step"
    name = key.rpartition(".")[2]
    dense = rehearse(plan_of(*asked))
    assert key not in replaced(dense) and dense.resolution.optimizer_config[name] is True
    sparse = rehearse(plan_of(*asked, *experts, "parallelism.expert_model_parallel_size=2"))
    assert replaced(sparse)[key] is sparse.resolution.optimizer_config[name] is False
    assert any("with the optimizer step" in line for line in sparse.rehearsal.not_exercised)


def test_refuses_context_parallelism_which_has_no_cpu_path():
    with pytest.raises(LaunchError, match="Context parallelism cannot be rehearsed"):
        preflight.require_rehearsable(
            plan_of("platform=h100", "parallelism.context_parallel_size=2", "parallelism.world_size=2")
        )
