"""What `hydra-overlap trace` does: finds traces, measures them, and holds their ranks apart."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .events import TraceError, read
from .meter import Measured, measure

ENDINGS = (".json", ".json.gz")


def measured(paths: Sequence[Path]) -> list[Measured]:
    """The figures of every trace, in order of rank. paths: traces, or folders that hold some.

    Raises TraceError for what cannot be read, and for two traces of one rank.
    """
    found = [measure(read(path)) for path in files(paths)]
    ranks: dict[int, str] = {}
    for one in found:
        if one.rank is not None and one.rank in ranks:
            raise TraceError(
                f"{ranks[one.rank]} and {one.path} are both of rank {one.rank}. Name the traces of one run."
            )
        if one.rank is not None:
            ranks[one.rank] = one.path
    return sorted(found, key=lambda one: -1 if one.rank is None else one.rank)


def files(paths: Iterable[Path]) -> list[Path]:
    """The traces that paths name: of a folder all that lie in it. Raises TraceError for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.name.endswith(ENDINGS) and one.is_file())
            if not inside:
                raise TraceError(f"{path} holds no trace: no file in it ends in {' or '.join(ENDINGS)}.")
            found += inside
        else:
            found.append(path)
    return found
