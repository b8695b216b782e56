"""The collectives of a step as a table, by dimension; equal on all ranks of a pipeline stage."""

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from ..screen import Column, Rows
from .build import Recorded
from .collectives import Collective
from .sizes import size

_COLUMNS = (
    Column(title="stage"),
    Column(title="dim"),
    Column(title="operation", prose=True),
    Column(title="group", prose=True, spare=True),
    Column(title="ranks", right=True),
    Column(title="calls a step", right=True, prose=True),
    Column(title="each", right=True, prose=True),
    Column(title="all of them", right=True, prose=True),
    Column(title="by", prose=True, spare=True),
)


def stage_groups(stages: Sequence[Recorded]) -> list[tuple[Recorded, ...]]:
    """Neighbouring stages that make the same calls."""
    return [tuple(same) for _, same in groupby(stages, lambda one: one.collectives)]


def collectives_table(stages: Sequence[Recorded]) -> Rows:
    """Calls of a step: of every group of stages that make the same, sizes between the smallest and the largest."""
    rows: list[tuple[str | Text, ...]] = []
    for group in stage_groups(stages):
        first, last = group[0].stage, group[-1].stage
        name = str(first) if first == last else f"{first}-{last}"
        for same in merged(group[0].collectives):
            one = same[0]
            rows.append(
                (
                    name,
                    Text(one.dimension, "bold"),
                    one.operation,
                    one.group,
                    f"{one.ranks:,}",
                    f"{sum(row.times for row in same):,}",
                    _sizes([row.bytes for row in same]),
                    size(sum(row.bytes_per_step for row in same)),
                    _by(same),
                )
            )
    return Rows(_COLUMNS, rows)


def merged(rows: Sequence[Collective]) -> list[list[Collective]]:
    """Rows that differ in size alone, together, in order of the first."""
    found: dict[tuple[object, ...], list[Collective]] = {}
    for row in rows:
        found.setdefault((row.dimension, row.operation, row.group, row.ranks, row.origin), []).append(row)
    return list(found.values())


def _sizes(sizes: Sequence[int]) -> str:
    low, high = size(min(sizes)), size(max(sizes))
    return low if low == high else f"{low} to {high}"


def _by(rows: Sequence[Collective]) -> str:
    """Who moves them."""
    moved, times = sum(row.userbuffers for row in rows), sum(row.times for row in rows)
    if moved:
        return "userbuffers" if moved == times else f"userbuffers {moved:,}, NCCL {times - moved:,}"
    return "NCCL" if rows[0].origin == "recorded" else "NCCL, modelled"
