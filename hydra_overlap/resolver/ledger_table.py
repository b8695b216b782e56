"""The ledger on a terminal: every overlap field, what holds, and because of what."""

from collections.abc import Iterable
from itertools import groupby

from rich.console import Console
from rich.text import Text

from ..findings import yaml_value
from ..screen import print_pairs
from .ledger import LedgerRow


def print_ledger(rows: Iterable[LedgerRow], console: Console) -> None:
    """Every row, below the node that it belongs to."""
    for node, members in groupby(rows, lambda row: row.field.rpartition(".")[0]):
        if node:
            console.print(Text(node, "bold"))
        pairs = [(setting(row, name=row.field.rpartition(".")[2]), because(row)) for row in members]
        print_pairs(pairs, console, indent=2 if node else 0)


def setting(row: LedgerRow, *, name: str = "") -> Text:
    """`field=value`, as it is typed on the command line; on is green. name: instead of the whole field."""
    style = "bold green" if row.effective is True else "" if row.effective else "dim"
    return Text.assemble(f"{name or row.field}=", (yaml_value(row.effective), style))


def because(row: LedgerRow) -> str:
    """Where the value was asked for, or the rule that decided it and its reason; first what was asked, if that does not hold."""
    more = row.reason.partition("asked; ")[2]
    said = f"{row.rule} {row.reason}" if row.rule else f"{row.origin}; {more}" if more else row.origin
    lost = row.asked is not None and row.asked != row.effective
    return f"asked: {yaml_value(row.asked)}; {said}" if lost else said
