"""What ranks of a plan hold, at any world size, in one process without a GPU: megatron-core's own objects, unallocated.

torch's fake process group answers for all other ranks, and every tensor lies on the meta device, which knows shapes and
holds no bytes. So parallel state, model chunks, DistributedDataParallel with its buckets, and the optimizer with its
shards are those of a run (`build.build`), for one chosen rank after another. What they sum up to is printed by
report/dry_run.py; activations, which exist only while a step runs, are estimated in activations.py.

The fake world belongs to the whole process and stays: nothing else can run in it afterwards.
"""

import contextlib
import copy
import gc
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import presets
from ..errors import HydraOverlapError, LaunchError
from ..findings import yaml_value
from ..plan import Plan, world_size
from . import activations, configs, cpu, rehearsal

MAIN_BYTES = 4  # of one main parameter, or one value of an optimizer's state: fp32
STATES = {"adam": 2, "sgd": 1}  # values an optimizer keeps per parameter: two moments; one momentum
MIB = 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One model chunk of one rank."""

    layers: tuple[int, ...]
    """Numbers of its transformer layers, from 1."""
    embedding: bool
    """Whether it holds the input embedding."""
    output: bool
    """Whether it holds the output layer."""
    parameters: int
    """Of this rank: its share of every split tensor."""
    buckets: tuple[int, ...]
    """Parameters of each DDP bucket, padding included, dense buffers first, in the order of backward."""
    bucket_bytes: tuple[int, ...]
    """Bytes of each bucket's gradients."""


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """What one rank holds. Bytes throughout; all of it computed."""

    rank: int
    stage: int
    """Pipeline stage."""
    chunks: tuple[Chunk, ...]
    data_parallel_size: int
    """Replicas of the model; a dense bucket is shared by this times context_parallel_size ranks."""
    num_microbatches: int
    in_flight: tuple[int, ...]
    """Per chunk: microbatches of which it keeps activations at the peak."""
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """fp32 main parameters and the optimizer's state: this rank's shard, with the distributed optimizer."""
    userbuffers_bytes: int
    activations_bytes: int
    """Estimate, see activations.py."""

    @property
    def parameters(self) -> int:
        """Of all chunks."""
        return sum(chunk.parameters for chunk in self.chunks)

    @property
    def total_bytes(self) -> int:
        """What is counted here; a GPU holds more (report/dry_run.py says what)."""
        states = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return states + self.userbuffers_bytes + self.activations_bytes


def asked(plan: Plan) -> bool:
    """Whether the plan is to be dry-run. Raises LaunchError for ranks of a dry run that is not asked for."""
    launch = plan["request"]["launch"]
    if launch["dry_run_ranks"] and not launch["dry_run"]:
        raise LaunchError(
            "Ranks of a dry run are named, and none is asked for",
            where=[f"launch.dry_run_ranks={yaml_value(launch['dry_run_ranks'])}", "launch.dry_run=false"],
            fixes=[("launch.dry_run=true", "builds them"), ("launch.dry_run_ranks=[]", "starts the run")],
            source="hydra_overlap/megatron/dry_run.py",
        )
    return bool(launch["dry_run"])


def ranks_to_build(plan: Plan) -> tuple[int, ...]:
    """launch.dry_run_ranks, or the first and last rank of every pipeline stage. Raises LaunchError for one beyond the world.

    megatron-core numbers ranks so that a stage is a contiguous block: `pp` is the last of its order `tp-cp-ep-dp-pp`.
    Source: megatron-core core_v0.16.1 megatron/core/parallel_state.py, initialize_model_parallel.
    """
    world, wanted = world_size(plan), plan["request"]["launch"]["dry_run_ranks"]
    stages = plan["request"]["parallelism"]["pipeline_model_parallel_size"]
    if not wanted:
        block = world // stages
        return tuple(sorted({rank for first in range(0, world, block) for rank in (first, first + block - 1)}))
    beyond = [rank for rank in wanted if not 0 <= rank < world]
    if beyond:
        raise LaunchError(
            f"There is no rank {beyond[0]} among {world}",
            where=[f"launch.dry_run_ranks={yaml_value(wanted)}", f"parallelism.world_size={world}"],
            why=f"Ranks are numbered from 0 to {world - 1}.",
            fixes=[("launch.dry_run_ranks=[]", "builds the first and last rank of every pipeline stage")],
            source="hydra_overlap/megatron/dry_run.py",
        )
    return tuple(sorted(set(wanted)))


def without_cuda(plan: Plan) -> tuple[Plan, list[str]]:
    """(the plan with what only CUDA has replaced, one line for each such thing). Layout, shapes and batches stay."""
    changed = copy.deepcopy(plan)
    _, left_out = rehearsal.replace_cuda_only(changed)
    return changed, left_out


def run(plan: Plan) -> list[RankFigures]:
    """Build the chosen ranks one after another; -> what each holds, by rank.

    Raises LaunchError for a plan that train.py or megatron-core does not build. Leaves CUDA's names redirected in this
    process.
    """
    plan, _ = without_cuda(plan)
    configs.require_model(plan)
    configs.require_built(plan)
    ranks = ranks_to_build(plan)
    with warnings.catch_warnings(), _refusing(plan, "any rank"), _no_cuda():
        warnings.simplefilter("ignore")  # megatron-core's, on what is not installed here and is not used
        _enter()
        figures = []
        for rank in ranks:
            with _refusing(plan, f"rank {rank}"), _fake_world(rank, world_size(plan)):
                figures.append(_figures(plan, rank))
        return figures


@contextlib.contextmanager
def _no_cuda() -> Iterator[None]:
    """Hide GPUs; ranks that a later job of a sweep starts from this process see them again."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _enter() -> None:
    """CUDA's names mean the meta device from here on.

    torch lists the factories that a device context redirects when one is first entered; that must come before
    `cpu.install` wraps them.
    """
    import torch

    with torch.device("meta"):
        torch.empty(0)
    cpu.install()
    torch.cuda.current_device = lambda: torch.device("meta")  # type: ignore[assignment, return-value]
    tensor: Any = torch.Tensor
    original = tensor.type
    # megatron-core's optimizers tell parameters apart by these names (distrib_optimizer.py:361, optimizer.py:671).
    names = {torch.bfloat16: "BFloat16", torch.float16: "Half", torch.float32: "Float"}

    def type_of(self: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None and self.is_meta and self.dtype in names:
            return f"torch.cuda.{names[self.dtype]}Tensor"
        return original(self, dtype, *args, **kwargs)

    tensor.type = type_of


@contextlib.contextmanager
def _fake_world(rank: int, size: int) -> Iterator[None]:
    """Be rank `rank` of `size` ranks, none of which exists."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from . import build

    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        build.release()
        dist.destroy_process_group()


def _figures(plan: Plan, rank: int) -> RankFigures:
    import torch
    from megatron.core import parallel_state

    from . import build

    build.initialize_parallel_state(plan)
    configs.transformer_config(
        plan, on_gpu=False
    )  # megatron-core's checks of the planned layout, context parallelism too
    with torch.device("meta"):
        built = build.build(_without_context_parallel_layers(plan))
    chunks = tuple(_chunk(ddp) for ddp in built.model)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    held = in_flight(built.config, built.num_microbatches, [len(chunk.layers) for chunk in chunks])
    figures = RankFigures(
        rank=rank,
        stage=stage,
        chunks=chunks,
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        num_microbatches=built.num_microbatches,
        in_flight=held,
        weights_bytes=sum(_weights_bytes(ddp) for ddp in built.model),
        gradients_bytes=sum(sum(chunk.bucket_bytes) for chunk in chunks),
        optimizer_bytes=_optimizer_bytes(built.optimizer, plan["request"]["optimizer"]["optimizer"]),
        userbuffers_bytes=_userbuffers_bytes(plan),
        activations_bytes=activations.rank_bytes(
            {**plan["request"], "model": {**plan["request"]["model"], "vocab_size": configs.padded_vocab_size(plan)}},
            [len(chunk.layers) for chunk in chunks],
            held,
            first=any(chunk.embedding for chunk in chunks),
            last=any(chunk.output for chunk in chunks),
        ),
    )
    del built
    gc.collect()
    return figures


def _without_context_parallel_layers(plan: Plan) -> Plan:
    """The plan for layers: megatron-core's own attention refuses CP > 1 (dot_product_attention.py:57).

    CP splits no parameter. The groups that reduce gradients and shard the optimizer come from parallel state, which has
    the planned size.
    """
    parallelism = {**plan["request"]["parallelism"], "context_parallel_size": 1}
    model = {**plan["request"]["model"], "cp_comm_type": None}
    return {**plan, "request": {**plan["request"], "parallelism": parallelism, "model": model}}


def _chunk(ddp: Any) -> Chunk:
    from megatron.core.utils import get_attr_wrapped_model

    if not all(parameter.is_meta for parameter in ddp.parameters()):
        raise HydraOverlapError("A dry run allocated a parameter; please report this plan.")
    model = get_attr_wrapped_model(ddp, "decoder", return_model_obj=True)
    buckets = [bucket for buffer in _buffers(ddp) for bucket in buffer.buckets]
    return Chunk(
        layers=tuple(layer.layer_number for layer in model.decoder.layers),
        embedding=bool(model.pre_process),
        output=bool(model.post_process),
        parameters=sum(parameter.numel() for parameter in ddp.parameters()),
        buckets=tuple(bucket.grad_data.numel() for bucket in buckets),
        bucket_bytes=tuple(bucket.grad_data.numel() * bucket.grad_data.element_size() for bucket in buckets),
    )


def _buffers(ddp: Any) -> list[Any]:
    """megatron-core's _ParamAndGradBuffers of one chunk: dense, then experts."""
    return [*ddp.buffers, *ddp.expert_parallel_buffers]


def _weights_bytes(ddp: Any) -> int:
    """Parameters as they lie in memory: with the distributed optimizer in DDP's padded buffer."""
    buffers = _buffers(ddp)
    if all(buffer.param_data is not None for buffer in buffers):
        return sum(buffer.param_data.numel() * buffer.param_data.element_size() for buffer in buffers)
    return sum(parameter.numel() * parameter.element_size() for parameter in ddp.parameters())


def _optimizer_bytes(optimizer: Any, kind: str) -> int:
    """fp32 copies of 16-bit parameters, and the states of every parameter that this rank's optimizers step.

    States are allocated at the first step, in fp32, beside the main parameter.
    """
    total = 0
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        stepped = sum(parameter.numel() for group in one.param_groups for parameter in group["params"])
        groups = getattr(one, "shard_fp32_from_float16_groups", None) or getattr(one, "fp32_from_float16_groups", [])
        main = sum(parameter.numel() for group in groups for parameter in group if parameter is not None)
        total += MAIN_BYTES * (main + STATES[kind] * stepped)
    return total


def _userbuffers_bytes(plan: Plan) -> int:
    """Transformer Engine's userbuffers on each rank, if the plan has them (see presets_gemms.memory_mib)."""
    if not plan["resolution"]["transformer_config"].get("tp_comm_overlap"):
        return 0
    memory = presets.memory_of(plan["request"], plan["resolution"]["userbuffers"] or {})
    return int((memory or 0) * MIB)


def in_flight(config: Any, num_microbatches: int, layers: Sequence[int]) -> tuple[int, ...]:
    """Microbatches of which each chunk of this rank keeps activations, at the point of a step where most layers do.

    config: the TransformerConfig. layers: of each chunk. Walks through a step in the order of megatron-core's schedules,
    one forward and one backward in turn after warm-up; needs parallel state.
    Source: megatron-core core_v0.16.1 megatron/core/pipeline_parallel/schedules.py:738-830 (warm-up, order), 1079-1084
    (backward goes through the chunks from the last).
    """
    from megatron.core.pipeline_parallel import schedules

    chunks, group = len(layers), config.microbatch_group_size_per_vp_stage
    total, _, warm_up, _ = schedules.get_pp_rank_microbatches(
        num_microbatches, chunks, group, overlap_moe_expert_parallel_comm=config.overlap_moe_expert_parallel_comm
    )
    if chunks == 1:
        return (min(total, warm_up + 1),)
    order = [chunk for _, chunk in schedules.get_schedule_table(num_microbatches, chunks, group)]
    held, most = [0] * chunks, [0] * chunks
    for number, chunk in enumerate(order):
        held[chunk] += 1
        if _layers_kept(held, layers) > _layers_kept(most, layers):
            most = list(held)
        if number >= warm_up:
            held[chunks - 1 - order[number - warm_up]] -= 1
    return tuple(most)


def _layers_kept(held: Sequence[int], layers: Sequence[int]) -> int:
    return sum(microbatches * number for microbatches, number in zip(held, layers, strict=True))


@contextlib.contextmanager
def _refusing(plan: Plan, who: str) -> Iterator[None]:
    """What megatron-core refuses to build becomes a LaunchError that says where and why."""
    try:
        yield
    except HydraOverlapError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file = Path(frame.filename)
        place = "/".join(file.parts[file.parts.index("megatron") :]) if "megatron" in file.parts else file.name
        raise LaunchError(
            f"megatron-core does not build {who} of this plan",
            where=_layout(plan),
            why=f"{type(error).__name__}: {str(error) or frame.line}",
            fixes=[("--cfg job --resolve", "shows the plan, builds nothing")],
            source=f"{place}:{frame.lineno}",
        ) from None


def _layout(plan: Plan) -> Sequence[str]:
    request = plan["request"]
    values = {f"parallelism.{name}": value for name, value in request["parallelism"].items()}
    values |= {
        f"model.{name}": request["model"][name] for name in ("num_layers", "num_attention_heads", "num_query_groups")
    }
    values |= {f"model.{name}": request["model"][name] for name in ("vocab_size", "num_moe_experts")}
    values |= {f"training.{name}": request["training"][name] for name in ("micro_batch_size", "global_batch_size")}
    return [f"{key}={yaml_value(value)}" for key, value in values.items() if value not in (None, False, 1)]
