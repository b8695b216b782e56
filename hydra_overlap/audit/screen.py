"""An audit on a terminal: the verdict on each command in colour, its findings, and what was not judged."""

from rich.console import Console
from rich.text import Text

from ..screen import print_findings, print_prose
from .verdict import Audit, Audits

_STYLES = {"accepted": "bold green", "undecided": "bold yellow", "refused": "bold red"}


def print_audit(found: Audit | Audits, console: Console) -> None:
    """Print what `str(found)` says, for the width of this terminal."""
    print_prose(found.headline, console, style=_STYLES[found.verdict], most=console.width)
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
        print_prose(aside, console, style="dim")
