"""What built ranks hold, as tables: memory, and model chunks with their DDP buckets; ranks that hold the same share a line."""

import dataclasses
from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from .holdings import Chunk, RankFigures

GIB = 2**30  # bytes
BUCKETS_SHOWN = 4  # per chunk; the file has all


def rank_classes(figures: Sequence[RankFigures]) -> list[tuple[RankFigures, ...]]:
    """Built ranks that hold the same, but for which elements of the optimizer's shards are padding; by stage."""

    def key(one: RankFigures) -> tuple[object, ...]:
        return (one.stage, dataclasses.replace(one, rank=0, optimizer_bytes=0))

    ordered = sorted(figures, key=lambda one: (one.stage, one.rank))
    return [tuple(group) for _, group in groupby(ordered, key)]


def memory_table(classes: Sequence[tuple[RankFigures, ...]]) -> Table:
    """GiB of the fullest rank of every class, by what they are for."""
    columns = (
        "stage",
        "ranks built",
        "parameters",
        "weights",
        "gradients",
        "optimizer",
        "userbuffers",
        "activations",
        "sum",
    )
    table = _table(*columns)
    for ranks in classes:
        one = max(ranks, key=lambda rank: rank.optimizer_bytes)
        parts = (
            one.weights_bytes,
            one.gradients_bytes,
            one.optimizer_bytes,
            one.userbuffers_bytes,
            one.activations_bytes,
        )
        table.add_row(
            str(one.stage),
            _ranks(ranks),
            f"{one.parameters:,}",
            *(f"{size / GIB:.2f}" for size in parts),
            Text(f"{one.total_bytes / GIB:.2f}", "bold"),
        )
    return table


def chunks_table(classes: Sequence[tuple[RankFigures, ...]]) -> Table:
    """Chunks of a stage that have as many layers and the same buckets share a line."""
    table = _table("stage", "chunk", "layers", "in flight", "buckets", "each")
    for ranks in classes:
        one = ranks[0]
        numbered = list(enumerate(zip(one.chunks, one.in_flight, strict=True)))
        for (_, in_flight), same in groupby(numbered, lambda item: (_shape(item[1][0]), item[1][1])):
            members = list(same)
            first, last, chunk = members[0][0], members[-1][0], members[0][1][0]
            table.add_row(
                str(one.stage),
                str(first) if first == last else f"{first}-{last}",
                "; ".join(_layers(member[1][0]) for member in members),
                f"{in_flight:,}",
                str(len(chunk.buckets)),
                _sizes(chunk.buckets),
            )
    return table


def _shape(chunk: Chunk) -> tuple[object, ...]:
    return (len(chunk.layers), chunk.embedding, chunk.output, chunk.buckets)


def _layers(chunk: Chunk) -> str:
    """`embedding 1-2`, `31 output`."""
    layers = list(chunk.layers)
    numbers = [] if not layers else [str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"]
    return (
        " ".join((["embedding"] if chunk.embedding else []) + numbers + (["output"] if chunk.output else [])) or "none"
    )


def _sizes(buckets: Sequence[int]) -> str:
    """Sizes in the order of backward, equal neighbours counted together, the first of them if there are many."""
    runs = [(size, len(list(same))) for size, same in groupby(buckets)]
    shown = [f"{size:,}" if count == 1 else f"{count} x {size:,}" for size, count in runs[:BUCKETS_SHOWN]]
    return ", ".join(shown + ([f"... {runs[-1][0]:,}"] if len(runs) > BUCKETS_SHOWN else []))


def _ranks(ranks: Sequence[RankFigures]) -> str:
    return ", ".join(str(rank.rank) for rank in ranks)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        words = column in ("ranks built", "layers", "each", "chunk")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table
