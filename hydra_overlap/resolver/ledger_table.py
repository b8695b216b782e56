"""The ledger as a table: every overlap field, what was asked, what holds, why."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..findings import render, yaml_value
from .ledger import LedgerRow
from .resolution import Resolution

PLAIN_WIDTH = 140  # columns where there is no terminal to ask
VALUE_WIDTH = 14  # columns; a preset's name is longer, and stands whole in the file it came from
_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def make_console() -> Console:
    """A console on standard output; wide enough for a log file where that is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_ledger(resolution: Resolution, console: Console) -> None:
    """Print every row of the ledger, then warnings and notes."""
    console.print(ledger_table(resolution.ledger))
    for finding in resolution.findings:
        console.print(Text(f"\n{finding.severity}: {render(finding)}", style=_STYLES[finding.severity]), soft_wrap=True)


def ledger_table(rows: Iterable[LedgerRow]) -> Table:
    """What was asked of every field, what holds, and because of what: where it was asked, or the rule that derived it."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("overlap", no_wrap=True)
    for column in ("asked", "effective"):
        table.add_column(column, no_wrap=True, max_width=VALUE_WIDTH)
    table.add_column("because", overflow="fold")
    node = ""
    for row in rows:
        parent, _, name = row.field.rpartition(".")
        if parent != node:
            node = parent
            if parent:
                table.add_row(Text(parent, style="bold cyan"))
        asked = "" if row.asked is None else yaml_value(row.asked)
        more = row.reason.partition("asked; ")[2]
        because = f"{row.rule} {row.reason}" if row.rule else f"{row.origin}; {more}" if more else row.origin
        style = "bold green" if row.effective is True else "" if row.effective else "dim"
        table.add_row(
            Text(f"  {name}" if parent else name, style="" if parent else "bold cyan"),
            Text(asked),
            Text(yaml_value(row.effective), style=style),
            Text(because, style="dim"),
        )
    return table
