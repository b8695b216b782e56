"""What built ranks hold, as tables: memory, and model chunks with their DDP buckets; ranks that hold the same share a line."""

import dataclasses
from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from ..screen import Column, Rows
from .holdings import Chunk, RankFigures
from .sizes import common_unit

_CHUNKS = (
    Column(title="stage", right=True),
    Column(title="chunk"),
    Column(title="layers", prose=True),
    Column(title="in flight", right=True),
    Column(title="buckets", right=True),
    Column(title="each", prose=True),
)
BUCKETS_SHOWN = 4  # per chunk; the file has all


def rank_classes(figures: Sequence[RankFigures]) -> list[tuple[RankFigures, ...]]:
    """Built ranks that hold the same, but for which elements of the optimizer's shards are padding; by stage."""

    def key(one: RankFigures) -> tuple[object, ...]:
        return (one.stage, dataclasses.replace(one, rank=0, optimizer_bytes=0))

    ordered = sorted(figures, key=lambda one: (one.stage, one.rank))
    return [tuple(group) for _, group in groupby(ordered, key)]


def memory_table(classes: Sequence[tuple[RankFigures, ...]]) -> tuple[str, Rows]:
    """(unit, table): memory of the fullest rank of every class, by what it is for."""
    parts = ("weights", "gradients", "optimizer", "userbuffers", "activations")
    fullest = [max(ranks, key=lambda rank: rank.optimizer_bytes) for ranks in classes]
    unit, unit_bytes = common_unit(max(one.total_bytes for one in fullest))
    used = [name for name in parts if name != "userbuffers" or any(one.userbuffers_bytes for one in fullest)]
    columns = [
        Column(title="stage", right=True),
        Column(title="ranks built"),
        Column(title="parameters", right=True, spare=True),
        *(Column(title=name, right=True) for name in used),
        Column(title="sum", right=True),
    ]
    rows: list[tuple[str | Text, ...]] = [
        (
            str(one.stage),
            _ranks(ranks),
            f"{one.parameters:,}",
            *(f"{getattr(one, f'{name}_bytes') / unit_bytes:.2f}" for name in used),
            Text(f"{one.total_bytes / unit_bytes:.2f}", "bold"),
        )
        for one, ranks in zip(fullest, classes, strict=True)
    ]
    return unit, Rows(columns, rows)


def chunks_table(classes: Sequence[tuple[RankFigures, ...]]) -> Rows:
    """Chunks of a stage that have as many layers and the same buckets share a line."""
    rows = []
    for ranks in classes:
        one = ranks[0]
        numbered = list(enumerate(zip(one.chunks, one.in_flight, strict=True)))
        for (_, in_flight), same in groupby(numbered, lambda item: (_shape(item[1][0]), item[1][1])):
            members = list(same)
            first, last, chunk = members[0][0], members[-1][0], members[0][1][0]
            rows.append(
                (
                    str(one.stage),
                    str(first) if first == last else f"{first}-{last}",
                    "; ".join(_layers(member[1][0]) for member in members),
                    f"{in_flight:,}",
                    str(len(chunk.buckets)),
                    _sizes(chunk.buckets),
                )
            )
    return Rows(_CHUNKS, rows)


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
