"""The launch environment of a plan as a shell file: `source env.sh` before the ranks start."""

from collections.abc import Collection

from .. import quoting
from ..resolver.resolution import Resolution
from ._base import Files, effective, header

NAME = "env.sh"


def text(resolution: Resolution, command: str) -> str:
    """`export NAME=value` lines, sorted; each value is what every rank must find."""
    reasons = {row.field.removeprefix("env."): row.reason for row in resolution.ledger}
    lines = [
        quoting.shell_export(name, value) + (f"  {quoting.comment(reasons[name])}" if name in reasons else "")
        for name, value in sorted(resolution.env.items())
    ]
    if not lines:
        lines = ["# nothing to set: this plan promises no variables"]
    notes = ("Set before the program starts: CUDA, NCCL and Transformer Engine read it when they start.",)
    return header("a POSIX shell", command, effective(resolution), *notes) + "\n".join(lines) + "\n"


def export(resolution: Resolution, command: str = "", *, asked: Collection[str] | None = None) -> Files:
    """The launch environment of a plan as env.sh."""
    return {NAME: text(resolution, command)}
