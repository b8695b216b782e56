"""The list of rules on a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from ..rules import Rule
from ..screen import STYLES, Column, print_rows

COLUMNS = (Column(title=""), Column(title=""), Column(title="", prose=True))


def print_rules(rules: Iterable[type[Rule]], console: Console) -> None:
    """One line a rule: id, severity, and the problem that it reports."""
    rows = [(Text(one.__name__, "bold"), Text(one.severity, STYLES[one.severity]), one.title()) for one in rules]
    print_rows(COLUMNS, rows, console)
