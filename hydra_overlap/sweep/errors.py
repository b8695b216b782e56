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

    def __str__(self) -> str:
        text = "This sweep cannot start; nothing was started.\n\n" + render(self.finding)
        return f"{text}\n\nrefused in the job: {self.example}" if self.example else text
