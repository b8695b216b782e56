"""Whether the promise holds: every value of the plan, read back from megatron-core's objects and from the environment.

Runs in every rank after the objects are built and before the first step. What differs stops the run; what upstream is
known to do differently on some ranks is said, with its line.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import HydraOverlapError
from ..findings import yaml_value
from ..launch.plan import Plan
from ..resolver.resolution import PROVIDER_FIELD
from ..rules import env_conflicts
from . import userbuffers
from .build import Built

if TYPE_CHECKING:
    from rich.console import Console

SCHEDULES = {
    "forward_backward_no_pipelining": "no pipelining",
    "forward_backward_pipelining_without_interleaving": "1F1B",
    "forward_backward_pipelining_with_interleaving": "interleaved 1F1B",
}
_ABSENT = "(no such field)"


class ReadbackError(HydraOverlapError):
    """The objects of a rank do not hold what the plan promised; no step was taken."""


@dataclass(frozen=True)
class Difference:
    """One promise that does not hold. where: object and field, or variable."""

    rank: int
    where: str
    promised: str
    found: str

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.where} is {self.found}, promised {self.promised}"


def read_back(plan: Plan, built: Built) -> dict[str, Any]:
    """Compare on every rank, and collect what rank 0 puts into the manifest. Every rank calls it.

    -> {"fields": values compared, "env": variables as found in rank 0, "schedule", "buckets": per rank and chunk,
    "notes": known upstream effects}. Raises ReadbackError, with the differences of all ranks, in all ranks.
    """
    import torch.distributed as dist

    rank = dist.get_rank()
    compared = list(fields(plan, built))
    found = {
        "differences": differences(rank, compared) + _environment(plan, rank) + _objects(plan, built, rank),
        "buckets": [_num_buckets(chunk) for chunk in built.model],
    }
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    found_everywhere = [difference for other in everywhere for difference in other["differences"]]
    if found_everywhere:
        lines = "\n".join(f"  {difference}" for difference in found_everywhere)
        raise ReadbackError(f"What was built differs from what was promised; no step was taken.\n\n{lines}")
    buckets = [other["buckets"] for other in everywhere]
    return {
        "fields": len(compared),
        "env": {name: os.environ.get(name) for name in plan.resolution.env},
        "layers": built.layers,
        "schedule": SCHEDULES[built.forward_backward.__name__],
        "num_microbatches": built.num_microbatches,
        "buckets": buckets,
        "notes": _notes(plan, buckets),
    }


def fields(plan: Plan, built: Built) -> Iterator[tuple[str, Any, Any]]:
    """(where, promised, found) of every setting on every object that holds it."""
    resolution = plan.resolution
    for index, chunk in enumerate(built.model):
        for name, value in resolution.transformer_config.items():
            yield f"TransformerConfig.{name} of chunk {index}", value, getattr(chunk.config, name, _ABSENT)
        for name, value in resolution.ddp_config.items():
            yield (
                f"DistributedDataParallelConfig.{name} of chunk {index}",
                value,
                getattr(chunk.ddp_config, name, _ABSENT),
            )
        for where, promised, found in userbuffers.layer_fields(plan, chunk):
            yield f"{where} of chunk {index}", promised, found
    for index, optimizer in enumerate(getattr(built.optimizer, "chained_optimizers", [built.optimizer])):
        for name, value in resolution.optimizer_config.items():
            yield f"OptimizerConfig.{name} of optimizer {index}", value, getattr(optimizer.config, name, _ABSENT)


def differences(rank: int, compared: Iterable[tuple[str, Any, Any]]) -> list[Difference]:
    """Settings that did not arrive. A field the target lacks is a loss only if it asks for something."""
    return [
        Difference(rank, where, yaml_value(promised), found if found is _ABSENT else yaml_value(found))
        for where, promised, found in compared
        if found != promised and not (found is _ABSENT and (PROVIDER_FIELD in where or not promised))
    ]


def _environment(plan: Plan, rank: int) -> list[Difference]:
    """Promised variables that differ; and, on GPUs, those in force that take back what was asked for."""
    different = [
        Difference(rank, f"environment {name}", value, os.environ.get(name, "not set"))
        for name, value in plan.resolution.env.items()
        if os.environ.get(name) != value
    ]
    contrary = (
        [] if plan.rehearsal else env_conflicts.contrary(plan.resolution.request, plan.resolution.to_dict(), os.environ)
    )
    hurting = [
        Difference(rank, f"environment {one.name}", f"unset (it undoes {one.undoes})", one.value)
        for one in contrary
        if one.severity == "error"
    ]
    return different + hurting


def _objects(plan: Plan, built: Built, rank: int) -> list[Difference]:
    """What the settings must have led to: the schedule, and the functions the schedule calls."""
    layout, ddp = plan.request.parallelism, plan.resolution.ddp_config
    pp, vpp = layout.pipeline_model_parallel_size, layout.virtual_pipeline_model_parallel_size
    schedule = "no pipelining" if pp == 1 else "interleaved 1F1B" if (vpp or 1) > 1 else "1F1B"
    checks = [("schedule", schedule, SCHEDULES[built.forward_backward.__name__])]
    for name, wanted in (
        ("no_sync_func", ddp["overlap_grad_reduce"]),
        ("grad_sync_func", ddp["overlap_grad_reduce"]),
        ("param_sync_func", ddp["overlap_param_gather"] and ddp["align_param_gather"]),
    ):
        found = "set" if getattr(built.config, name) is not None else "not set"
        checks.append((f"TransformerConfig.{name}", "set" if wanted else "not set", found))
    return [Difference(rank, where, promised, found) for where, promised, found in checks if promised != found]


def _num_buckets(chunk: Any) -> int:
    return sum(len(group.buckets) for group in chunk.bucket_groups + chunk.expert_parallel_bucket_groups)


def _notes(plan: Plan, buckets: list[list[int]]) -> list[str]:
    ddp, layout = plan.resolution.ddp_config, plan.request.parallelism
    notes = []
    if ddp["bucket_size"] is not None and layout.pipeline_model_parallel_size > 1:
        notes.append(
            f"bucket_size={ddp['bucket_size']:,} holds for the first model chunk of pipeline rank 0 ({buckets[0][0]} "
            "buckets); elsewhere megatron-core uses one bucket a chunk (distributed_data_parallel.py:94-102)"
        )
    return notes


def describe(found: dict[str, Any], console: "Console") -> None:
    """Two lines on what was compared and found, and known upstream effects."""
    env_conflicts = ", ".join(f"{name}={value}" for name, value in found["env"].items()) or "no variables promised"
    console.print(
        f"read back on every rank: {found['fields']} fields, {env_conflicts}\n"
        f"built: {found['num_microbatches']} microbatches a step, {found['schedule']}, {found['layers']} layers, "
        f"{found['buckets'][0][0]} gradient buckets in the first chunk",
        highlight=False,
    )
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
