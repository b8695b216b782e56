"""The table of `hydra-overlap doctor`."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from ..screen import STYLES, Column, print_pairs, print_rows
from .doctor import MISSING, NOTE, OK, UNSET, WRONG, Diagnosis

_STYLES = {OK: "green", UNSET: "dim", NOTE: "bold blue", MISSING: "bold yellow", WRONG: "bold red"}
_COLUMNS = (
    Column(title="checked"),
    Column(title=""),
    Column(title="found", prose=True),
    Column(title="so", prose=True),
)


def print_diagnoses(diagnoses: Iterable[Diagnosis], console: Console) -> None:
    """The verdict, then what was looked at, its state, what was found, what that means."""
    found = list(diagnoses)
    wrong, missing = (sum(one.state == state for one in found) for state in (WRONG, MISSING))
    counts = [f"{count} {word}" for count, word in ((wrong, "wrong"), (missing, "missing")) if count]
    style = "bold red" if wrong else "bold yellow" if missing else "bold green"
    console.print(Text(f"{len(found)} checked: {', '.join(counts) or 'all in order'}\n", style), soft_wrap=True)
    rows = [(one.what, Text(one.state, _STYLES[one.state]), one.found, one.consequence) for one in found]
    print_rows(_COLUMNS, rows, console)
    sources = [(Text(one.what), one.source) for one in found if one.source]
    if sources:
        console.print(Text("\nsources", STYLES["label"]))
        print_pairs(sources, console)
