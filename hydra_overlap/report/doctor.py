"""The table of `hydra-overlap doctor`."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from ..doctor import MISSING, OK, WRONG, Diagnosis
from .ledger import make_console

_STYLES = {OK: "green", MISSING: "yellow", WRONG: "bold red"}


def print_diagnoses(diagnoses: Iterable[Diagnosis]) -> None:
    """What was looked at, its state, what was found, what that means."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("", "", "found", "so"):
        table.add_column(column, overflow="fold")
    for diagnosis in diagnoses:
        state = Text(diagnosis.state, style=_STYLES[diagnosis.state])
        table.add_row(Text(diagnosis.what), state, Text(diagnosis.found), Text(diagnosis.consequence))
    make_console().print(table)
