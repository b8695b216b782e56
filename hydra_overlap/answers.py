"""What `--json` prints: one shape for every command, with a number that changes when the shape does (docs/json.md)."""

import json
from collections.abc import Iterable
from typing import Any

from ._version import __version__
from .findings import Finding

FORMAT = 1
"""Counts up when a program that reads an answer would have to change; a new key alone does not."""
USAGE_RULE = "USE"


def answer(command: str, verdict: str, exit_code: int, *, findings: Iterable[Finding] = (), result: Any = None) -> str:
    """The answer of one command as JSON.

    command: as it is typed, `presets show`. verdict: a word that says what the exit code means. result: what the command
    found, in the command's own form; None where it found nothing.
    """
    return json.dumps(
        {
            "format": FORMAT,
            "version": __version__,
            "command": command,
            "verdict": verdict,
            "exit_code": exit_code,
            "findings": [finding.to_dict() for finding in findings],
            "result": result,
        },
        indent=1,
    )


def usage_error(command: str, message: str, exit_code: int) -> str:
    """The answer to a command line that the command cannot read."""
    finding = Finding(rule=USAGE_RULE, severity="error", title="This command line cannot be read", why=message)
    return answer(command, "usage error", exit_code, findings=(finding,))
