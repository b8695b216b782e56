"""The error on input that is not read at all: a file or a command line that is no text, is too large, or contains itself."""

from typing import ClassVar

from ..errors import USAGE, HydraOverlapError
from ..findings import Finding, Place, render

HEADLINE = "This configuration cannot be read; nothing was started."


class UnreadableError(HydraOverlapError):
    """A configuration that cannot be read, as one finding. Exit code 2."""

    exit_code: ClassVar[int] = USAGE

    def __init__(self, title: str, why: str, *places: Place) -> None:
        self.findings = (Finding(rule="FILE", severity="error", title=title, why=why, where=places),)
        super().__init__(title)

    @property
    def headline(self) -> str:
        """That nothing runs."""
        return HEADLINE

    def __str__(self) -> str:
        return f"{HEADLINE}\n\n{render(self.findings[0])}"


def unreadable_in(error: BaseException) -> UnreadableError | None:
    """The UnreadableError that `error` is or was raised while handling: omegaconf wraps what a resolver raises without naming it as cause."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UnreadableError):
        found = found.__cause__ or found.__context__
    return found
