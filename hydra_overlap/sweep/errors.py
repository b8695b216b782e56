"""A sweep that cannot start. Hydra's class as well: apps that know nothing of ours print it without a traceback."""

from typing import Any

from hydra.errors import ConfigCompositionException

from ..errors import LaunchError
from ..findings import render


class SweepError(LaunchError, ConfigCompositionException):  # type: ignore[misc]
    """A sweep as asked for makes no sense, or nothing of it is left. Nothing was started.

    example: a refused point and its whole refusal, printed below.
    """

    def __init__(self, title: str, *, example: str = "", **details: Any) -> None:
        super().__init__(title, **details)
        self.example = example

    @property
    def headline(self) -> str:
        """That nothing runs."""
        return "This sweep cannot start; nothing was started."

    @property
    def footer(self) -> str:
        """The refused point that is the example."""
        return f"refused in the job: {self.example}" if self.example else ""

    def __str__(self) -> str:
        return "\n\n".join(part for part in (self.headline, render(self.finding), self.footer) if part)
