"""Combinations that megatron-core alone accepts and trains wrong with, on CPU: the reason for PP003, PP008, PP012, DP029, EP024.

A legal plan is built and read back as always; then each rank sets, on megatron-core's own objects, what our rules refuse.
No exception and no warning follows: only the losses differ from those of the legal plan, same weights, same text. Seen
with megatron-core 0.16.1 after five steps: 5.8349 as planned, 6.0388 on batched p2p (gradient norm 871 in place of 6), 5.9677
with the deferral. In the third step: 5.6455 as planned and 5.7987 with the deferral beside multi-token prediction; 5.5766 as
planned, 5.6928 with experts gathered in the optimizer step and 5.6243 with experts split otherwise than the rest.
"""

import json
from pathlib import Path

import pytest

from hydra_overlap.launch import preflight
from hydra_overlap.megatron import rehearsal
from tests import ranks
from tests.overrides import refusing
from tests.plans import plan_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("trains wrong")]

ROOT = Path(__file__).parents[2]
RUN = (
    "training=smoke", "training.global_batch_size=8", "data=mock", "precision=fp32", "platform=cpu", "optimizer.lr=0.01",
)  # fmt: skip
TOLERANCE = 2e-6  # relative; only the order of fp32 sums differs (test_layouts.py)
WRONG = 5e-3  # relative; thousands of times that

RANK = """
import copy, sys, types
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
from hydra_overlap.megatron import readback

original = readback.read_back
def then_changed(plan, built):
    found = original(plan, built)
    change(built)
    return found
readback.read_back = then_changed

{change}
local.as_rank(train.train, local.plan_of_this_rank())
"""

AS_PLANNED = "def change(built): pass"

BATCHED_P2P = """
def change(built):
    built.config.overlap_p2p_comm, built.config.batch_p2p_comm = False, True
"""

PLAIN_P2P = """
def change(built):
    built.config.overlap_p2p_comm, built.config.batch_p2p_comm = False, False
"""

# The deferral needs Apex's fused kernel and Transformer Engine's layers. The kernel is one line: main_grad += dY^T X. Of
# megatron-core's own layers every column-parallel one reads the flag as the output layer does, so the others get a config
# of their own in which it is off.
DEFERRED = """
def accumulate(inputs, grad_output, main_grad):
    main_grad.add_(grad_output.detach().t().matmul(inputs.detach()))  # like a kernel, unseen by autograd

kernel = types.ModuleType("fused_weight_gradient_mlp_cuda")
kernel.wgrad_gemm_accum_fp32 = kernel.wgrad_gemm_accum_fp16 = accumulate
sys.modules[kernel.__name__] = kernel

def change(built):
    from megatron.core.tensor_parallel import ColumnParallelLinear
    from megatron.core.utils import get_attr_wrapped_model

    undeferred = copy.copy(built.config)
    for chunk in built.model:
        gpt = get_attr_wrapped_model(chunk, "post_process", return_model_obj=True)
        for layer in gpt.modules():
            if isinstance(layer, ColumnParallelLinear):
                layer.config = undeferred
        if gpt.post_process:
            output = gpt.output_layer
            output.config, output.gradient_accumulation_fusion = built.config, True
            gpt.embedding_activation_buffer = output.embedding_activation_buffer = []
            gpt.grad_output_buffer = output.grad_output_buffer = []
    built.config.gradient_accumulation_fusion = built.config.defer_embedding_wgrad_compute = True
"""

# The products of the right pairs, added to the weight that forward used: with both the deferral is sound.
DEFERRED_AND_MENDED = (
    DEFERRED
    + """
defer = change

def change(built):
    from megatron.core.pipeline_parallel import schedules
    from megatron.core.utils import get_attr_wrapped_model

    defer(built)
    output = getattr(get_attr_wrapped_model(built.model[-1], "post_process", return_model_obj=True), "output_layer", None)
    drain = schedules.drain_embedding_wgrad_compute

    def mended(config, inputs, output_gradients, weight, tp_group):
        inputs[:] = [inputs[index ^ 1] for index in range(len(inputs))]  # of each microbatch: prediction, main loss
        drain(config, inputs, output_gradients, output.weight, tp_group)

    schedules.drain_embedding_wgrad_compute = mended
"""
)

# Whether parameters are gathered in the optimizer step decides how the optimizer is split, so it is built again.
GATHERED_IN_STEP = """
def change(built):
    from megatron.core.optimizer import get_megatron_optimizer, get_standard_config_overrides

    config = built.optimizer.config
    config.overlap_param_gather_with_optimizer_step = True
    overrides = get_standard_config_overrides(config=config)
    optimizer = get_megatron_optimizer(config, built.model, config_overrides=overrides, use_gloo_process_groups=False)
    built.config.grad_scale_func = optimizer.scale_loss
    built.scheduler.optimizer = optimizer
    built.scheduler.step(0)
    object.__setattr__(built, "optimizer", optimizer)
"""

# The experts are left out of the gather in the step; the schedule does not gather them later: their first forward does.
DENSE_GATHERED_IN_STEP = (
    GATHERED_IN_STEP
    + """
gather_in_step = change

def change(built):
    gather_in_step(built)
    chunk = built.model[0]
    start, experts = chunk.start_param_sync, chunk.expert_parallel_bucket_groups

    def start_dense_param_sync(*args, force_dispatch=False, **options):
        chunk.expert_parallel_bucket_groups = [] if force_dispatch else experts
        start(*args, force_dispatch=force_dispatch, **options)
        chunk.expert_parallel_bucket_groups = experts

    chunk.start_param_sync = start_dense_param_sync
"""
)


@pytest.fixture
def losses_of(tmp_path):
    """`losses_of(change, *overrides)`: losses of the plan's five steps, after `change` was made in every rank.

    layout: what is put into the plan beside what was judged.
    """

    def run(change, *overrides, layout=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        plan = plan_of(*RUN, *overrides, output_dir=folder)
        plan = plan.with_values({f"parallelism.{name}": value for name, value in (layout or {}).items()})
        world_size = plan.request.parallelism.world_size
        script = folder / "rank.py"
        script.write_text(RANK.format(root=str(ROOT), change=change))
        ranks.start(rehearsal.rehearse(plan), str(script), preflight.rank_environment(plan, world_size))
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


def right(losses, reference):
    return losses == pytest.approx(reference, rel=TOLERANCE)


def wrong(losses, reference):
    return any(abs(loss - other) > WRONG * other for loss, other in zip(losses, reference, strict=True))


def test_interleaved_stages_on_batched_p2p_train_wrong(losses_of):
    interleaved = ("parallelism=pp2_vpp2", "comm_overlap=pp_interleaved")
    legal = losses_of(AS_PLANNED, *interleaved)
    assert right(losses_of(PLAIN_P2P, *interleaved), legal)
    assert wrong(losses_of(BATCHED_P2P, *interleaved), legal)
    assert refusing(
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        "comm_overlap.pp.overlap_p2p_comm=false", "comm_overlap.pp.batch_p2p_comm=true",
    ) == ["PP003"]  # fmt: skip


def test_a_deferred_embedding_gradient_misses_an_overlapped_reduction(losses_of):
    stages = ("parallelism=pp2", "parallelism.world_size=4")
    apart, overlapped = (f"comm_overlap.dp.overlap_grad_reduce={value}" for value in ("false", "true"))
    legal = losses_of(AS_PLANNED, *stages, overlapped)
    assert right(losses_of(DEFERRED, *stages, apart), legal)  # deferred and not overlapped: the stand-in is sound
    assert wrong(losses_of(DEFERRED, *stages, overlapped), legal)
    assert refusing(
        "parallelism.pipeline_model_parallel_size=2", "parallelism.world_size=4", overlapped,
        "comm_overlap.pp.defer_embedding_wgrad_compute=true", "model.gradient_accumulation_fusion=true",
        "software.transformer_engine=2.12.0",
    ) == ["PP008"]  # fmt: skip


def test_a_deferred_embedding_gradient_of_multi_token_prediction_is_another_weights(losses_of):
    stages = ("parallelism=pp2", "model.mtp_num_layers=1")
    legal = losses_of(AS_PLANNED, *stages)
    assert right(losses_of(DEFERRED_AND_MENDED, *stages), legal)
    assert wrong(losses_of(DEFERRED, *stages), legal)
    assert refusing(
        "parallelism.pipeline_model_parallel_size=2", "model.mtp_num_layers=1",
        "comm_overlap.pp.defer_embedding_wgrad_compute=true", "model.gradient_accumulation_fusion=true",
        "software.transformer_engine=2.12.0",
    ) == ["PP012"]  # fmt: skip


def test_experts_gathered_in_the_step_of_the_dense_parameters_train_wrong(losses_of):
    stages = (
        "parallelism=pp2_vpp2", "comm_overlap=pp_interleaved", "model.num_moe_experts=4",
        "model.moe_token_dispatcher_type=alltoall",
    )  # fmt: skip
    experts = ("parallelism.expert_model_parallel_size=2", "parallelism.world_size=8", "launch.max_ranks=8")
    legal = losses_of(AS_PLANNED, *stages)  # two ranks are quicker than eight
    assert right(losses_of(DENSE_GATHERED_IN_STEP, *stages, *experts), legal)
    assert wrong(losses_of(GATHERED_IN_STEP, *stages, *experts), legal)
    assert refusing(
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        "parallelism.expert_model_parallel_size=2", "parallelism.world_size=8", "model.num_moe_experts=4",
        "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
        "comm_overlap.dp.overlap_param_gather_with_optimizer_step=true",
    ) == ["DP029"]  # fmt: skip


def test_experts_of_one_expert_parallel_rank_that_are_split_otherwise_train_wrong(losses_of):
    split = ("parallelism=tp2", "model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall")
    legal = losses_of(AS_PLANNED, *split)
    assert right(
        losses_of(
            AS_PLANNED, *split, "parallelism.expert_model_parallel_size=2", layout={"expert_tensor_parallel_size": 1}
        ),
        legal,
    )
    assert wrong(losses_of(AS_PLANNED, *split, layout={"expert_tensor_parallel_size": 1}), legal)
