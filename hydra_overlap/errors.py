"""Every error a user can cause, each printed as what, where, why, the override that fixes it, and the source.

    HydraOverlapError
    ├── GatingError      gating rules refuse the configuration; carries .findings
    ├── DiskFullError    a file found no room
    └── LaunchError      the configuration is fine, this machine or its data cannot run it

Entry points print these without a traceback and exit with code 1.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeVar

from .findings import Finding, Fix, Place, render

Kind = TypeVar("Kind", bound=BaseException)

REFUSED, USAGE = 1, 2  # exit codes; 0 is fine


class HydraOverlapError(Exception):
    """Base of all errors a user can cause; `str()` is what is printed, `exit_code` what a command then ends with.

    headline, findings, footer: the parts of that text, for a terminal that shows them in colours and at its own width.
    An error without findings is its text alone.
    """

    exit_code: ClassVar[int] = REFUSED
    findings: tuple[Finding, ...] = ()

    @property
    def headline(self) -> str:
        """The verdict, above the findings."""
        return str(self)

    @property
    def footer(self) -> str:
        """What stands below the findings; mostly nothing."""
        return ""


class GatingError(HydraOverlapError):
    """Gating rules refuse this configuration.

    findings: every finding of severity `error`, in rule order. Programs read them; the text is a view on them. job: the
    overrides of the refused job, if it is one of a sweep.
    """

    job: str = ""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(self.findings)

    @property
    def headline(self) -> str:
        """How many rules refuse."""
        count = len({finding.rule for finding in self.findings})
        return f"refused by {count} rule{'' if count == 1 else 's'}; nothing was started."

    @property
    def footer(self) -> str:
        """Which job of a sweep is refused."""
        return f"refused in the job: {self.job}" if self.job else ""

    def __str__(self) -> str:
        return "\n\n".join([self.headline, *(render(finding) for finding in self.findings)])


class LaunchError(HydraOverlapError):
    """A legal configuration that cannot run here. Nothing was started.

    title: what is wrong, in one sentence ("No complete checkpoint in checkpoint.load"). where: lines such as
    `launch.max_ranks=2`. fixes: (override, effect) pairs.
    """

    def __init__(
        self,
        title: str,
        *,
        where: Iterable[str] = (),
        why: str = "",
        fixes: Iterable[tuple[str, str]] = (),
        source: str = "",
    ) -> None:
        self.finding = Finding(
            rule="RUN",
            severity="error",
            title=title,
            why=why,
            where=tuple(Place(*_split(line)) for line in where),
            fixes=tuple(Fix(override, effect) for override, effect in fixes),
            source=source,
        )
        self.findings = (self.finding,)
        super().__init__(title)

    @property
    def headline(self) -> str:
        """That nothing runs."""
        return "This configuration cannot run here; nothing was started."

    def __str__(self) -> str:
        return f"{self.headline}\n\n{render(self.finding)}"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, below the limit of a file's size


class DiskFullError(HydraOverlapError):
    """A file could not be written for want of room, wherever a run stood."""

    def __init__(self, error: OSError) -> None:
        place = f"{error.filename}: " if error.filename else ""
        super().__init__(
            f"A file could not be written, so this ended: {place}{error.strerror}.\n"
            "Checkpoints that were complete still are. Make room, or choose another place: "
            "hydra.run.dir=ANOTHER, checkpoint.save=ANOTHER, data.cache_dir=ANOTHER."
        )


def disk_full(error: BaseException) -> DiskFullError | None:
    """What to tell of an error that a full disk is the cause of; None for any other."""
    found = raised_from(error, OSError)
    return DiskFullError(found) if found is not None and found.errno in FULL else None


def raised_from(error: BaseException, kind: type[Kind]) -> Kind | None:
    """The exception of a kind that `error` is or was raised from: Hydra 1.3 wraps ours in one without a text."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__
    return cause


def _split(line: str) -> tuple[str, str, str]:
    """`key=value` or a plain place -> (key, value, origin)."""
    key, _, value = line.partition("=")
    return key, value, ""
