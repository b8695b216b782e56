"""An audit on a terminal: the verdict on each command in colour, its findings, and what was not judged."""

from rich.console import Console
from rich.text import Text

from ..findings import PROSE
from ..screen import print_findings, wrapped
from .verdict import Audit, Audits

_STYLES = {"accepted": "bold green", "undecided": "bold yellow", "refused": "bold red"}


def print_audit(found: Audit | Audits, console: Console) -> None:
    """Print what `str(found)` says, for the width of this terminal."""
    for number, line in enumerate(wrapped(found.headline, console.width - 2)):
        console.print(Text(f"  {line}" if number else line, _STYLES[found.verdict]), soft_wrap=True)
    if isinstance(found, Audits):
        for one in found.commands:
            console.print()
            print_audit(one, console)
        return
    print_findings(found.findings, console)
    if found.wanted:
        console.print()
        console.print(Text(found.wanted, "yellow"), soft_wrap=True)
    if found.asides:
        console.print()
    for aside in found.asides:
        for number, line in enumerate(wrapped(aside, min(console.width, PROSE) - 2)):
            console.print(Text(f"  {line}" if number else line, "dim"), soft_wrap=True)
