"""The results of a sweep in the terminal: the best point, what each key did, every point; and where the files are."""

import textwrap

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

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
    console.print(_rows(table, shown))
    if table.dry and len(shown) < len(table.rows) - table.counts[REFUSED]:
        text = f"without those that do not fit; all {len(table.rows):,} points stand in {RESULTS_CSV}"
        console.print(Text(text, style="dim"), soft_wrap=True)
    elif len(shown) < len(table.rows) - table.counts[REFUSED]:
        console.print(
            Text(f"the best and those that failed; all {len(table.rows):,} points stand in {RESULTS_CSV}", style="dim")
        )
    _print_effects(table, console)
    console.print()
    counts = [f"{table.counts[status]:,} {status}" for status in ORDER if table.counts[status]]
    console.print(Text(f"{len(table.rows):,} points: {', '.join(counts)}", style="bold"), soft_wrap=True)
    _print_best(table, console)
    if _left(table):
        console.print("hydra.sweeper.resume=true added to the same command runs what did not complete", soft_wrap=True)
    console.print(Text(f"{REPORT}, {RESULTS_CSV}, {RESULTS_JSON} in {table.folder}"), soft_wrap=True)


def _left(table: Table) -> int:
    return sum(table.counts[status] for status in table.counts if status not in (job.COMPLETED, MERGED, REFUSED))


def _print_best(table: Table, console: Console) -> None:
    if table.best is None:
        by = f" by {table.metric.name}" if table.metric else ""
        if table.counts[job.COMPLETED] and not table.dry:
            console.print(f"nothing was measured, so no point is called the best{by}")
        return
    assert table.metric is not None
    by = f"{'smallest' if table.metric.less_is_better else 'greatest'} {table.metric.name}"
    text = f"best ({by}): {label(table.best, table.keys)}: {says(table, table.best)}"
    console.print(Text(text, style="bold green"), soft_wrap=True)
    if table.within_spread:
        others = ", ".join(f"#{row.number}" for row in table.within_spread[:8])
        console.print(Text(f"      not told apart by the spread of their steps: {others}"), soft_wrap=True)
    for sentence in (ranks(table), f"{REHEARSED}." if table.rehearsed else ""):
        if sentence:
            console.print(
                Text(f"      {sentence}", style="yellow" if sentence.startswith(REHEARSED) else ""), soft_wrap=True
            )


def _rows(table: Table, rows: list[Row]) -> Grid:
    figures = columns(table, rows)
    grid = Grid(header_style="bold", box=None, pad_edge=False)
    grid.add_column("#", justify="right", no_wrap=True)
    named = any(row.name for row in rows)
    if named:
        grid.add_column("name", overflow="fold")
    for key in table.keys:
        grid.add_column(short_key(key, table.keys), overflow="fold")
    grid.add_column("status", no_wrap=True)
    for title, _ in figures:
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("", overflow="fold")
    for row in rows:
        cells = [str(row.number), *([row.name] if named else []), *(row.swept.get(key, "") for key in table.keys)]
        cells_after = [cell(row) for _, cell in figures]
        note = (
            f"same as #{row.same_as}"
            if row.same_as is not None
            else textwrap.shorten(row.reason, NOTE, placeholder=" ...")
        )
        status = Text(row.status, style=STYLES.get(row.status, ""))
        style = "bold" if table.best is not None and row.number == table.best.number else ""
        grid.add_row(*map(Text, cells), status, *map(Text, cells_after), Text(note, style="dim"), style=style)
    return grid


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
    grid = Grid(header_style="bold", box=None, pad_edge=False)
    for title, justify in ((f"effect on {table.metric.name}", "left"), ("", "right"), ("", "left")):
        grid.add_column(title, justify=justify)  # type: ignore[arg-type]
    for line in lines:
        grid.add_row(*map(Text, line))
    console.print()
    console.print(grid)
