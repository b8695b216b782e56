"""The table of `hydra-overlap doctor`."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from ..resolver.ledger_table import make_console
from .doctor import MISSING, NOTE, OK, UNSET, WRONG, Diagnosis

_STYLES = {OK: "green", UNSET: "dim", NOTE: "yellow", MISSING: "yellow", WRONG: "bold red"}


def print_diagnoses(diagnoses: Iterable[Diagnosis]) -> None:
    """What was looked at, its state, what was found, what that means."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("", "", "found", "consequence"):
        table.add_column(column, overflow="fold")
    for diagnosis in diagnoses:
        state = Text(diagnosis.state, style=_STYLES[diagnosis.state])
        so = Text(diagnosis.consequence)
        if diagnosis.source:
            so.append(f"\nsource  {diagnosis.source}", style="dim")
        table.add_row(Text(diagnosis.what), state, Text(diagnosis.found), so)
    make_console().print(table)
