"""The results of a sweep in the terminal: the best point, what each key did, every point; and where the files are."""

import textwrap

from rich.console import Console
from rich.text import Text

from ..screen import Column, print_prose, print_rows
from . import job
from .outputs import REPORT, RESULTS_CSV, RESULTS_JSON
from .results import MERGED, ORDER, REFUSED, Row, Table, effects
from .words import REHEARSED, columns, label, percent, ranks, says, short_key

NOTE = 60  # characters of why a job failed; the whole of it stands in the report
SHORT = 40  # rows up to which every point that was to run has one
STYLES = {job.COMPLETED: "green", MERGED: "dim", REFUSED: "red", job.FAILED: "bold red", job.STOPPED: "bold yellow"}


def print_results(table: Table, console: Console) -> None:
    """Print the table of a sweep that ended; refused points are counted, their reasons stand in the plan and the report."""
    shown = [row for row in table.shown if row.status != REFUSED]
    if len(shown) > SHORT:
        ended_badly = [row for row in shown if row.status not in (job.COMPLETED, MERGED)]
        shown = [*table.measured[: SHORT // 2], *ended_badly[: SHORT // 2]]
    console.print()
    _print_points(table, shown, console)
    if len(shown) < len(table.rows) - table.counts[REFUSED]:
        which = "without those that do not fit" if table.dry else "the best and those that failed"
        print_prose(f"{which}; all {len(table.rows):,} points stand in {RESULTS_CSV}", console, style="dim")
    _print_effects(table, console)
    console.print()
    counts = [f"{table.counts[status]:,} {status}" for status in ORDER if table.counts[status]]
    print_prose(f"{len(table.rows):,} points: {', '.join(counts)}", console, style="bold")
    _print_best(table, console)
    if _left(table):
        print_prose("hydra.sweeper.resume=true added to the same command runs what did not complete", console)
    console.print(Text(f"{REPORT}, {RESULTS_CSV}, {RESULTS_JSON} in {table.folder}"), soft_wrap=True)


def _left(table: Table) -> int:
    return sum(table.counts[status] for status in table.counts if status not in (job.COMPLETED, MERGED, REFUSED))


def _print_best(table: Table, console: Console) -> None:
    if table.best is None:
        by = f" by {table.metric.name}" if table.metric else ""
        if table.counts[job.COMPLETED] and not table.dry:
            print_prose(f"nothing was measured, so no point is called the best{by}", console)
        return
    assert table.metric is not None
    by = f"{'smallest' if table.metric.less_is_better else 'greatest'} {table.metric.name}"
    text = f"best ({by}): {label(table.best, table.keys)}: {says(table, table.best)}"
    print_prose(text, console, style="bold green", hanging=6)
    others = ", ".join(f"#{row.number}" for row in table.within_spread[:8])
    below = (
        (f"not told apart by the spread of their steps: {others}" if others else "", ""),
        (ranks(table), ""),
        (f"{REHEARSED}." if table.rehearsed else "", "yellow"),
    )
    for sentence, style in below:
        if sentence:
            print_prose(f"      {sentence}", console, style=style, hanging=6)


def _print_points(table: Table, rows: list[Row], console: Console) -> None:
    figures = columns(table, rows)
    named = any(row.name for row in rows)
    titles = [
        Column(title="#", right=True),
        *([Column(title="name", prose=True)] if named else []),
        *(Column(title=short_key(key, table.keys), prose=True) for key in table.keys),
        Column(title="status"),
        *(Column(title=title, right=True) for title, _ in figures),
        Column(title="", prose=True),
    ]
    cells = []
    for row in rows:
        before = [str(row.number), *([row.name] if named else []), *(row.swept.get(key, "") for key in table.keys)]
        after = [cell(row) for _, cell in figures]
        note = (
            f"same as #{row.same_as}"
            if row.same_as is not None
            else textwrap.shorten(row.reason, NOTE, placeholder=" ...")
        )
        status = Text(row.status, style=STYLES.get(row.status, ""))
        style = "bold" if table.best is not None and row.number == table.best.number else ""
        plain = [[Text(cell, style) for cell in part] for part in (before, after)]
        cells.append((*plain[0], status, *plain[1], Text(note, "dim")))
    print_rows(titles, cells, console)


def _print_effects(table: Table, console: Console) -> None:
    """One line a value that was compared with the first of its key."""
    lines = []
    for key, found in effects(table).items():
        first = found[0].value
        for effect in found[1:]:
            if effect.median is not None:
                count = len(effect.ratios)
                spread = f", {percent(min(effect.ratios))} to {percent(max(effect.ratios))}" if count > 1 else ""
                pairs = f"{count} pair{'s' if count > 1 else ''}{spread}"
                lines.append(
                    (
                        f"{short_key(key, table.keys)}={effect.value}",
                        percent(effect.median),
                        f"against {first} ({pairs})",
                    )
                )
    if not lines or table.metric is None:
        return
    titles = (
        Column(title=f"effect on {table.metric.name}", prose=True),
        Column(title="", right=True),
        Column(title="", prose=True),
    )
    console.print()
    print_rows(titles, lines, console)
