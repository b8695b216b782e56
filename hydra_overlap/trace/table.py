"""The figures of traces on a terminal: a line for each dimension of a rank, and what was not measured."""

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.text import Text

from ..screen import Column, print_prose, print_rows
from .meter import ALL, Measured

RANKS_SHOWN = 4  # with more, the middle and the worst of all ranks in one table
MS = 1e6  # nanoseconds

_COLUMNS = (
    Column(title="dimension", prose=True),
    Column(title="calls", right=True),
    Column(title="MiB", right=True, spare=True),
    Column(title="volume ms", right=True),
    Column(title="hidden", right=True),
    Column(title="exposed ms", right=True),
    Column(title="blocking ms", right=True),
    Column(title="waiting ms", right=True, spare=True),
    Column(title="exposed, of the step", right=True, prose=True),
)
MEANING = (
    "a step of one rank, by the GPU's own clock. hidden: share of the volume with compute at the same time. exposed: without "
    "compute, the most that better overlap could win. blocking: exposed, and compute went on only when it had ended. waiting: "
    "spins on a flag, part of the volume"
)


def print_measured(found: Sequence[Measured], console: Console) -> None:
    """Print the figures of every rank, or of many ranks their spread."""
    if len(found) <= RANKS_SHOWN:
        for one in found:
            _print_rank(one, console)
    else:
        _print_spread(found, console)
    print_prose(MEANING, console, style="dim")
    for sentence in dict.fromkeys(sentence for one in found for sentence in asides(one)):
        print_prose(sentence, console, style="yellow")


def asides(one: Measured) -> list[str]:
    """What a reader has to know of what was left out."""
    said = []
    if one.unknown:
        names = ", ".join(f"{name} ({calls})" for name, calls in list(one.unknown.items())[:3])
        said.append(f"Not recognised, and counted as compute: {names}. These names sound like communication.")
    if "unknown group" in one.dimensions:
        said.append(
            "unknown group: the trace names no process group for these, as torch before 2.4 did, or without a process group's description."
        )
    if one.windows[0].step is None:
        said.append("The trace holds no profiled steps; the figures are of all of it.")
    return said


def _print_rank(one: Measured, console: Console) -> None:
    steps = len(one.windows)
    compute = sum(window.compute for window in one.windows)
    idle = sum(window.idle for window in one.windows)
    name = "rank" if one.rank is not None else one.path
    title = f"{name} {one.rank}" if one.rank is not None else name
    headline = f"{title}: {steps} step{'s' if steps > 1 else ''} of {one.length / steps / MS:.2f} ms, {compute / one.length:.0%} compute, {idle / one.length:.0%} idle"
    console.print(Text(headline, "bold"), soft_wrap=True)
    if not one.dimensions:
        print_prose("This rank communicated nothing.", console)
    else:
        rows = [_row(one, name) for name in one.dimensions]
        said = [number for number, cells in enumerate(zip(*rows, strict=True)) if any(map(str, cells))]
        print_rows([_COLUMNS[number] for number in said], [[row[number] for number in said] for row in rows], console)
    console.print()


def _row(one: Measured, name: str) -> tuple[str | Text, ...]:
    total, steps = one.total(name), len(one.windows)
    hidden = "" if total.hidden is None else f"{total.hidden:.0%}"
    return (
        Text(name, "bold" if name == ALL else ""),
        f"{total.calls / steps:,.0f}",
        f"{total.bytes / steps / 2**20:,.1f}" if total.bytes else "",
        f"{total.volume / steps / MS:.2f}",
        hidden,
        f"{total.exposed / steps / MS:.2f}",
        f"{total.blocking / steps / MS:.2f}",
        f"{total.waiting / steps / MS:.2f}" if total.waiting else "",
        f"{total.exposed / one.length:.1%}",
    )


def _print_spread(found: Sequence[Measured], console: Console) -> None:
    columns = (
        Column(title="dimension", prose=True),
        Column(title="volume ms", right=True),
        Column(title="hidden", right=True),
        Column(title="exposed ms, median", right=True, prose=True),
        Column(title="most", right=True),
        Column(title="of rank", right=True),
    )
    rows = []
    names = dict.fromkeys(name for one in found for name in one.dimensions)
    for name in names:
        totals = [(one, one.total(name)) for one in found if name in one.dimensions]
        exposed = [total.exposed / len(one.windows) / MS for one, total in totals]
        worst, rank = max(zip(exposed, (one.rank for one, _ in totals), strict=True), key=lambda pair: pair[0])
        volume = median(total.volume / len(one.windows) / MS for one, total in totals)
        hidden = median(total.hidden or 0 for _, total in totals)
        who = "" if rank is None else str(rank)
        rows.append((name, f"{volume:.2f}", f"{hidden:.0%}", f"{median(exposed):.2f}", f"{worst:.2f}", who))
    console.print(Text(f"{len(found)} ranks; medians of a step", "bold"))
    print_rows(columns, rows, console)
    console.print()
