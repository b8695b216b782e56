"""megatron-core's objects, built from a plan and wired as Megatron-LM wires them.

The wiring (order of construction, which functions the schedules get) follows Megatron-LM core_v0.16.1
megatron/training/training.py: get_model, get_optimizer_param_scheduler, train. The process group is the caller's.
"""

import gc
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..launch.plan import Plan, known
from . import batches, configs, initial_weights, layer_specs


@dataclass(frozen=True, kw_only=True)
class Built:
    """Everything one rank trains with."""

    model: list[Any]
    """DistributedDataParallel, one per model chunk."""
    optimizer: Any
    """MegatronOptimizer, chained: dense parameters, then experts."""
    scheduler: Any
    """OptimizerParamScheduler."""
    config: Any
    """The TransformerConfig that the model holds and the schedules read."""
    layers: str
    """Whose layers: Transformer Engine's or megatron-core's own."""
    forward_backward: Any
    """The schedule: no pipelining, 1F1B or interleaved."""
    num_microbatches: int
    """Forwards of one rank per step of a full global batch."""


def peak_memory_gib() -> float:
    """The most memory any rank held: what CUDA allocated, or resident in a rehearsal. Every rank calls it."""
    on_gpu = torch.cuda.is_available()
    kib = 0 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    held = torch.tensor(
        [torch.cuda.max_memory_allocated() if on_gpu else kib * 1024.0],
        dtype=torch.float64,
        device="cuda" if on_gpu else "cpu",
    )
    torch.distributed.all_reduce(held, op=torch.distributed.ReduceOp.MAX)
    return float(held.item()) / 2**30


def plan_of_rank_0(plan: Plan) -> Plan:
    """The plan as rank 0 holds it: ranks that torchrun or srun started composed one each, with other output folders."""
    box = [plan]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def release() -> None:
    """Forget megatron-core's process groups. What still holds one when Python exits aborts the process (gloo's threads)."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    gc.collect()


def initialize_parallel_state(plan: Plan) -> None:
    """Process groups of the layout, and random states that differ between TP ranks and stages as Megatron-LM's do."""
    from megatron.core import parallel_state, tensor_parallel

    layout = plan.request.parallelism
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor_model_parallel_size,
        pipeline_model_parallel_size=layout.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline_model_parallel_size,
        context_parallel_size=layout.context_parallel_size,
        expert_model_parallel_size=layout.expert_model_parallel_size,
        expert_tensor_parallel_size=layout.expert_tensor_parallel_size,
        num_distributed_optimizer_instances=plan.request.ddp.num_distributed_optimizer_instances,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=plan.request.launch.distributed_timeout_minutes,
    )
    seed = plan.request.training.seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def build(plan: Plan) -> Built:
    """Model chunks, DDP, optimizer, learning-rate schedule and pipeline schedule. Every rank calls it.

    Needs initialize_parallel_state. Initial weights do not depend on the layout unless this runs on GPUs.
    """
    from megatron.core.optimizer import get_megatron_optimizer, get_standard_config_overrides
    from megatron.core.pipeline_parallel import get_forward_backward_func

    on_gpu = torch.cuda.is_available()
    use_te = on_gpu and layer_specs.transformer_engine_works()
    config = configs.transformer_config(plan, on_gpu)
    model = _wrap(plan, config, _chunks(plan, config, on_gpu, use_te))
    optimizer_config = configs.optimizer_config(plan)
    optimizer = get_megatron_optimizer(
        optimizer_config,
        model,
        config_overrides=get_standard_config_overrides(config=optimizer_config),
        use_gloo_process_groups=False,
    )
    _wire(config, model, optimizer)
    return Built(
        model=model,
        optimizer=optimizer,
        scheduler=_scheduler(plan, optimizer),
        config=config,
        layers="Transformer Engine's" if use_te else "megatron-core's own",
        forward_backward=get_forward_backward_func(),
        num_microbatches=_num_microbatches(plan),
    )


def _chunks(plan: Plan, config: Any, on_gpu: bool, use_te: bool) -> list[Any]:
    """The GPTModels of this rank: one, or one per virtual stage."""
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.enums import ModelType
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.module import Float16Module

    model = plan.request.model
    stages = plan.request.parallelism.virtual_pipeline_model_parallel_size
    chunks = []
    for vp_stage in range(stages) if stages else [None]:
        spec = layer_specs.layer_spec(config, use_te, vp_stage)
        chunk = GPTModel(
            config=config,
            transformer_layer_spec=spec,
            mtp_block_spec=layer_specs.multi_token_prediction_spec(config, spec, use_te, vp_stage),
            vocab_size=configs.padded_vocab_size(plan),
            max_sequence_length=model.seq_length,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
            parallel_output=True,
            share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
            position_embedding_type=model.position_embedding_type,
            rotary_base=model.rotary_base,
            vp_stage=vp_stage,
        )
        chunk.model_type = ModelType.encoder_or_decoder
        for parameter in chunk.parameters():
            tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
        if on_gpu:
            chunk.cuda(torch.cuda.current_device())
        else:
            initial_weights.initialise(chunk, plan.request.training.seed)
        half = plan.request.precision.bf16 or plan.request.precision.fp16
        chunks.append(Float16Module(config, chunk) if half else chunk)
    return chunks


def _wrap(plan: Plan, config: Any, chunks: list[Any]) -> list[Any]:
    """DistributedDataParallel around every chunk; only the first chunk is cut into buckets."""
    from megatron.core.distributed import DistributedDataParallel

    one_bucket = plan.resolution.optimizer_config.get("overlap_param_gather_with_optimizer_step", False)
    ddp_config = configs.ddp_config(plan)
    return [
        DistributedDataParallel(config, ddp_config, chunk, disable_bucketing=index > 0 or bool(one_bucket))
        for index, chunk in enumerate(chunks)
    ]


def _wire(config: Any, model: list[Any], optimizer: Any) -> None:
    """The functions the pipeline schedules call: loss scale, gradient and parameter synchronisation."""
    from megatron.core.distributed import finalize_model_grads

    ddp_config = model[0].ddp_config
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    if ddp_config.overlap_grad_reduce:
        config.no_sync_func = _one_or_list([chunk.no_sync for chunk in model])
        # Megatron-LM's align_grad_reduce, on by default: pipeline stages start their reduces together.
        config.grad_sync_func = _one_or_list([chunk.start_grad_sync for chunk in model])
    if ddp_config.overlap_param_gather and ddp_config.align_param_gather:
        config.param_sync_func = _one_or_list([chunk.start_param_sync for chunk in model])


def _one_or_list(functions: list[Any]) -> Any:
    return functions[0] if len(functions) == 1 else functions


def _scheduler(plan: Plan, optimizer: Any) -> Any:
    """Learning rate and weight decay over training; megatron-core counts steps in samples."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    wanted, training = plan.request.optimizer, plan.request.training
    samples = batches.consumed(training, training.train_iters)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=wanted.lr,
        min_lr=wanted.min_lr,
        lr_warmup_steps=batches.consumed(training, wanted.lr_warmup_iters),
        lr_decay_steps=samples,
        lr_decay_style=wanted.lr_decay_style,
        start_wd=wanted.weight_decay,
        end_wd=wanted.weight_decay,
        wd_incr_steps=samples,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,  # what is asked holds, whatever a checkpoint was written with
    )


def _num_microbatches(plan: Plan) -> int:
    """Of a full global batch, through megatron-core's calculator, which its own modules may ask."""
    from megatron.core import num_microbatches_calculator as calculator
    from megatron.core import parallel_state

    training = plan.request.training
    ranks = parallel_state.get_data_parallel_world_size()
    calculator.destroy_num_microbatches_calculator()
    calculator.init_num_microbatches_calculator(
        rank=torch.distributed.get_rank(),
        rampup_batch_size=training.rampup_batch_size,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        data_parallel_size=ranks,
        decrease_batch_size_if_needed=False,
    )
    return known(training.global_batch_size) // (training.micro_batch_size * ranks)


def num_microbatches(batch: batches.Batch) -> int:
    """Forwards of one rank for the batch of a ramp, as megatron-core's calculator says once the samples before are taken.

    Raises RuntimeError if it takes another size for the batch than the plan's arithmetic.
    """
    from megatron.core import num_microbatches_calculator as calculator

    calculator.update_num_microbatches(batch.first, consistency_check=True)
    if calculator.get_current_global_batch_size() != batch.size:
        raise RuntimeError(
            f"After {batch.first} samples megatron-core ramps to {calculator.get_current_global_batch_size()} samples, "
            f"hydra_overlap/megatron/batches.py to {batch.size}."
        )
    return int(calculator.get_num_microbatches())


@contextmanager
def parameters_gathered(built: Built) -> Iterator[None]:
    """Every rank holds all updated parameters: with overlap_param_gather they are gathered in the next forward only.

    Forward hooks that gather are off within, as Megatron-LM has them off while it saves and evaluates. Before megatron-core 0.18
    that leaves quantized parameters old: such plans are refused (ADV009).
    """
    if not built.model[0].ddp_config.overlap_param_gather:
        yield
        return
    restage = getattr(built.optimizer, "prepare_model_params_for_param_sync", None)
    if restage is not None:  # from 0.19 on: parameters go back into the buffer that they share with gradients (ADV010)
        restage()
    for chunk in built.model:
        chunk.disable_forward_pre_hook()
    try:
        yield
    finally:
        for chunk in built.model:
            chunk.enable_forward_pre_hook()
