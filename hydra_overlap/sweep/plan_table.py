"""The plan of a sweep, before anything starts: what runs, what is refused and why, what is the same as another."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ..screen import Column, print_prose, print_rows
from .words import short_key

if TYPE_CHECKING:
    from .judge import Judged

SHORT = 40  # points up to which every one has a row of its own
EXAMPLES = 12  # rows of a long sweep's points that run
NUMBERS = 6  # numbers of points named as examples of one reason


def print_plan(judged: Sequence["Judged"], console: Console, *, whole: int | None = None, merged: bool = True) -> None:
    """Print the verdict on every point; of a long sweep, what runs by example and what is refused by reason.

    whole: points of the grid that a sample was drawn from. merged: whether equal points run once.
    """
    console.print(Text(headline(judged, whole=whole, merged=merged), style="bold"), soft_wrap=True)
    if len(judged) <= SHORT:
        _print_table(judged, console, merged=merged)
        _print_reasons(judged, console, by_number=False)
        return
    running = [verdict for verdict in judged if _runs(verdict, merged)]
    _print_table(running[:EXAMPLES], console, merged=merged)
    if len(running) > EXAMPLES:
        console.print(Text(f"... and {len(running) - EXAMPLES:,} more that run", style="dim"))
    _print_reasons(judged, console, by_number=True)
    same = [verdict for verdict in judged if verdict.same_as is not None]
    if same:
        console.print(Text("\nthe same run under another name", style="bold"))
        pairs = ", ".join(f"#{verdict.point.number} as #{verdict.same_as}" for verdict in same[:NUMBERS])
        console.print(Text(f"  {len(same):,} points: {pairs}{', ...' if len(same) > NUMBERS else ''}"), soft_wrap=True)


def headline(judged: Sequence["Judged"], *, whole: int | None = None, merged: bool = True) -> str:
    """One line such as `9 points: 4 run, 3 refused, 2 the same as another`."""
    refused = sum(verdict.refusal is not None for verdict in judged)
    same = sum(verdict.same_as is not None for verdict in judged)
    runs = sum(_runs(verdict, merged) for verdict in judged)
    drawn = f" of {whole:,} drawn" if whole is not None and whole != len(judged) else ""
    parts = [f"{runs:,} run{'s' if len(judged) == 1 else ''}"]
    if refused:
        parts.append(f"{refused:,} refused")
    if same:
        parts.append(f"{same:,} the same as another{'' if merged else ', which run as well'}")
    return f"{len(judged):,} point{'' if len(judged) == 1 else 's'}{drawn}: {', '.join(parts)}."


def _runs(verdict: "Judged", merged: bool) -> bool:
    return verdict.refusal is None and not (merged and verdict.same_as is not None)


def _print_table(judged: Sequence["Judged"], console: Console, *, merged: bool) -> None:
    keys = tuple(dict.fromkeys(key for verdict in judged for key in verdict.point.swept))
    named = any(verdict.point.name for verdict in judged)
    columns = [Column(title="#", right=True)]
    columns += [Column(title="name")] if named else []
    columns += [
        *(Column(title=short_key(key, keys), prose=True) for key in keys),
        Column(title="ranks", right=True),
        Column(title=""),
    ]
    rows = []
    for verdict in judged:
        style = "" if _runs(verdict, merged) else "dim"
        name = [verdict.point.name] if named else []
        swept = [verdict.point.swept.get(key, "") for key in keys]
        ranks = "" if verdict.ranks is None else str(verdict.ranks)
        cells = [Text(cell, style) for cell in [str(verdict.point.number), *name, *swept, ranks]]
        rows.append([*cells, _outcome(verdict, merged)])
    print_rows(columns, rows, console)


def _outcome(verdict: "Judged", merged: bool) -> Text:
    if verdict.refusal is not None:
        return Text(f"refused  {', '.join(verdict.rules) or _id(verdict.reason)}", style="red")
    if verdict.same_as is not None:
        return Text(f"{'' if merged else 'runs, '}same as #{verdict.same_as}", style="yellow")
    return Text("runs", style="green")


def _id(reason: str) -> str:
    """The id that a one-line reason begins with, if it does; else all of it."""
    first = reason.partition(" ")[0]
    return first if first[-1:].isdigit() and first[:1].isupper() else reason


def _print_reasons(judged: Sequence["Judged"], console: Console, *, by_number: bool) -> None:
    """Why points are refused, most common reason first: how many, which, and what they have in common."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for verdict in judged:
        if verdict.refusal is not None:
            for reason in verdict.reason.split("; ") if verdict.rules else [verdict.reason]:
                groups[reason].append(verdict)
    if not groups:
        return
    console.print(Text("\nrefused because", style="bold"))
    for reason, verdicts in sorted(groups.items(), key=lambda item: -len(item[1])):
        numbers = ", ".join(f"#{verdict.point.number}" for verdict in verdicts[:NUMBERS])
        more = ", ..." if len(verdicts) > NUMBERS else ""
        count = f"{len(verdicts):,} point{'' if len(verdicts) == 1 else 's'}: " if by_number else ""
        print_prose(f"  {reason}", console, style="red", hanging=4)
        always = ", ".join(_in_common(verdicts, judged))
        said = f"      {count}{numbers}{more}{f'   always {always}' if always else ''}"
        print_prose(said, console, style="dim", hanging=8)


def _in_common(verdicts: Sequence["Judged"], judged: Sequence["Judged"]) -> Iterator[str]:
    """`key=value` of every swept key that has one value in all of `verdicts`, and others elsewhere."""
    if len(verdicts) < 2:
        return
    for key in verdicts[0].point.swept:
        values = {verdict.point.swept.get(key) for verdict in verdicts}
        if len(values) == 1 and any(verdict.point.swept.get(key) not in values for verdict in judged):
            yield f"{key}={values.pop()}"
