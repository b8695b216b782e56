"""What ranks of a plan hold, at any world size, in one process without a GPU: megatron-core's own objects, unallocated.

Process groups of our own (fake_world.py) answer for all other ranks, and every tensor lies on the meta device, which knows
shapes and holds no bytes. So parallel state, model chunks, DistributedDataParallel with its buckets, and the optimizer with
its shards are those of a run (`build.build`), for one chosen rank after another. One rank of every stage also takes a step,
and its calls to process groups are recorded (recorded_step.py). What ranks hold is counted in holdings.py, what all that sums up
to printed by report.py.

The fake world belongs to the whole process and stays: nothing else can run in it afterwards.
"""

import contextlib
import functools
import gc
import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import dotted
from ..errors import HydraOverlapError, LaunchError
from ..findings import yaml_value
from ..launch.plan import Plan, world_size
from ..megatron import configs, cpu, rehearsal
from . import collectives
from .collectives import Collective, Event
from .estimate import require_affordable
from .holdings import RankFigures, held_by
from .progress import Told

# Of a plan that megatron-core refuses, what is said beside its layout.
SIZES = (
    "model.num_layers",
    "model.num_attention_heads",
    "model.num_query_groups",
    "model.vocab_size",
    "model.num_moe_experts",
    "training.micro_batch_size",
    "training.global_batch_size",
)
STEP_COSTS = 5  # times as long as building a rank takes a step of it, more with many microbatches


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One step of one rank."""

    rank: int
    stage: int
    """Pipeline stage. All its ranks make the same calls, in groups of their own."""
    events: tuple[Event, ...]
    """Works of the schedule and calls between them, in order."""
    collectives: tuple[Collective, ...]
    """All calls, counted; modelled ones too."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a dry run found."""

    ranks: tuple[RankFigures, ...]
    """The chosen ones, by rank."""
    stages: tuple[Recorded, ...]
    """One rank of every pipeline stage, by stage."""


def ranks_to_build(plan: Plan) -> tuple[int, ...]:
    """launch.dry_run_ranks, or the first and last rank of every pipeline stage.

    megatron-core numbers ranks so that a stage is a contiguous block: `pp` is the last of its order `tp-cp-ep-dp-pp`.
    Source: megatron-core core_v0.16.1 megatron/core/parallel_state.py, initialize_model_parallel.
    """
    world, wanted = world_size(plan), plan.request.launch.dry_run_ranks
    stages = plan.request.parallelism.pipeline_model_parallel_size
    if not wanted:
        block = world // stages
        return tuple(sorted({rank for first in range(0, world, block) for rank in (first, first + block - 1)}))
    return tuple(sorted(set(wanted)))


def _most_ranks(plan: Plan) -> int:
    """How many ranks are built at most, counted without listing them: those that are chosen, and one of every stage."""
    stages, wanted = plan.request.parallelism.pipeline_model_parallel_size, plan.request.launch.dry_run_ranks
    return stages + (len(set(wanted)) if wanted else min(stages, world_size(plan) - stages))


def without_cuda(plan: Plan) -> tuple[Plan, list[str]]:
    """(the plan with what only CUDA has replaced, one line for each such thing). Layout, shapes and batches stay."""
    changed, _, left_out = rehearsal.replace_cuda_only(plan)
    return changed, left_out


def ranks_to_record(plan: Plan, chosen: Sequence[int]) -> tuple[int, ...]:
    """One rank of every pipeline stage: the first chosen one, or the stage's first."""
    block = world_size(plan) // plan.request.parallelism.pipeline_model_parallel_size
    first = {first // block: first for first in range(0, world_size(plan), block)}
    return tuple(sorted((first | {rank // block: rank for rank in sorted(chosen, reverse=True)}).values()))


def run(plan: Plan, told: Told = lambda *_: None) -> DryRun:
    """Build the chosen ranks one after another, and record a step on one of every stage.

    told: hears before each piece of work how far this is. Raises LaunchError for a plan that megatron-core does not
    build, and, before anything is built, for one that would take longer than launch.dry_run_minutes. Leaves CUDA's names
    redirected in this process.
    """
    plan, _ = without_cuda(plan)
    cost = require_affordable(plan, _most_ranks(plan))
    ranks = ranks_to_build(plan)
    recorded = ranks_to_record(plan, ranks)
    looks = sorted({*ranks, *recorded})
    work = _Work(told, len(looks) + STEP_COSTS * len(recorded))
    figures, steps = [], []
    with warnings.catch_warnings(), _quiet(), _refusing(plan, "any rank"), _no_cuda():
        warnings.simplefilter("ignore")  # megatron-core's, on what is not installed here and is not used
        work.begins(f"{cost} in all; importing torch and megatron-core", cost=0)
        _enter()
        with _modules_left_alone():
            for rank in looks:
                with _refusing(plan, f"rank {rank}"), _fake_world(rank, world_size(plan)):
                    found, step = _look(plan, rank, work, recorded=rank in recorded)
                gc.collect()
                figures += [found] if rank in ranks else []
                steps += [step] if step else []
    return DryRun(ranks=tuple(figures), stages=tuple(steps))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """megatron-core lists every bucket of every rank at level INFO; the tables say the same."""
    logger = logging.getLogger("megatron.core")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _modules_left_alone() -> Iterator[None]:
    """What was imported has some hundred thousand objects, and stays: garbage is looked for among a rank's own."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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


@functools.cache
def _enter() -> None:
    """CUDA's names mean the meta device from here on; done once in a process.

    torch lists the factories that a device context redirects when one is first entered; that must come before
    `cpu.install` wraps them.
    """
    import torch

    with torch.device("meta"):
        torch.empty(0)
    cpu.install()
    cpu.finish()
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

    from ..megatron import build
    from . import fake_world

    fake_world.register()
    dist.init_process_group(fake_world.BACKEND, rank=rank, world_size=size, store=FakeStore())
    try:
        with fake_world.objects_of_everyone(), fake_world.own_groups_only(rank):
            yield
    finally:
        build.release()
        dist.destroy_process_group()


class _Work:
    """What there is to do, in units of about the time in which a rank is built; said before each piece begins."""

    def __init__(self, told: Told, total: int) -> None:
        self._told, self._total, self._done = told, total, 0

    def begins(self, what: str, cost: int) -> None:
        self._told(what, self._done, self._total)
        self._done += cost


def _look(plan: Plan, rank: int, work: _Work, *, recorded: bool) -> tuple[RankFigures, Recorded | None]:
    """Build one rank in its world; record a step of it if that is asked for."""
    import torch

    from ..megatron import build
    from .recorded_step import record
    from .shapes_once import SHAPES

    work.begins(f"building rank {rank:,}", cost=1)
    build.initialize_parallel_state(plan)
    configs.transformer_config(
        plan, on_gpu=False
    )  # megatron-core's checks of the planned layout, context parallelism too
    layers = _without_context_parallel_layers(plan)
    with torch.device("meta"), SHAPES:
        built = build.build(layers)
    found = held_by(plan, built, rank)
    if not recorded:
        return found, None
    work.begins(f"a step of rank {rank:,}, without values", cost=STEP_COSTS)
    with _refusing(plan, f"a step of rank {rank}, without values,", verb="run"):
        events = record(layers, built)
    calls = collectives.of_step(plan, events, [len(chunk.layers) for chunk in found.chunks])
    return found, Recorded(rank=rank, stage=found.stage, events=events, collectives=calls)


def _without_context_parallel_layers(plan: Plan) -> Plan:
    """The plan for layers: megatron-core's own attention refuses CP > 1 (dot_product_attention.py:57).

    CP splits no parameter. The groups that reduce gradients and shard the optimizer come from parallel state, which has
    the planned size.
    """
    return plan.with_values({"parallelism.context_parallel_size": 1, "model.cp_comm_type": None})


@contextlib.contextmanager
def _refusing(plan: Plan, who: str, verb: str = "build") -> Iterator[None]:
    """What megatron-core refuses to build or run becomes a LaunchError that says where and why."""
    try:
        yield
    except HydraOverlapError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file = Path(frame.filename)
        place = "/".join(file.parts[file.parts.index("megatron") :]) if "megatron" in file.parts else file.name
        raise LaunchError(
            f"megatron-core does not {verb} {who} of this plan",
            where=_layout(plan),
            why=f"{type(error).__name__}: {str(error) or frame.line}",
            fixes=[("--cfg job --resolve", "shows the plan without building it")],
            source=f"{place}:{frame.lineno}",
        ) from None


def _layout(plan: Plan) -> Sequence[str]:
    request = plan.resolution.request
    values = {f"parallelism.{name}": value for name, value in request["parallelism"].items()}
    values |= {key: dotted.get(request, key) for key in SIZES}
    return [f"{key}={yaml_value(value)}" for key, value in values.items() if value not in (None, False, 1)]
