"""What is said of a fault of our own: a short report, and a file with the details for whoever mends it."""

import os
import platform
import re
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._version import __version__
from .findings import Finding, visible
from .quoting import command
from .rules import secret_names

RULE = "BUG"
TITLE = "hydra-overlap failed; this is a fault of hydra-overlap, not of your configuration"
FULL = "HYDRA_FULL_ERROR"  # the variable with which Hydra shows tracebacks
LONGEST = 500  # characters of an exception's text in the report; the file has it whole

_HERE = Path(__file__).parent
_ASSIGNED = re.compile(r"[-+~]*(?P<name>[\w.@/-]+)=(?P<value>.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is told of one unexpected exception. details: the file with the traceback; None where none could be written."""

    problem: str
    place: str
    details: Path | None

    @property
    def finding(self) -> Finding:
        """The report for programs and for a terminal."""
        where = "" if self.details is None else f" The details are in {self.details}: please report them."
        why = f"{self.problem}, in {self.place}.{where} {FULL}=1 shows the traceback."
        return Finding(rule=RULE, severity="error", title=TITLE, why=why)

    def __str__(self) -> str:
        kept = "could not be written" if self.details is None else f"{self.details} (please send it with a report)"
        lines = [f"what:      {self.problem}", f"where:     {self.place}", f"details:   {kept}"]
        return "\n".join([f"{TITLE}.", *lines, f"traceback: {FULL}=1 in the environment shows it here"])


def report(
    error: BaseException,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
) -> Report:
    """Write the details of an unexpected exception to a file of its own; -> what to tell.

    words: the command line. The file lies in the directory for temporary files. Secrets of the environment and of the command
    line are in neither. Raises nothing: a report that fails would hide what it is of.
    """
    text = visible(_without_secrets(_one_line(error), words, environment))
    problem = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return Report(problem=problem, place=_place(error), details=_written(error, words, environment))


def in_our_hands(error: BaseException) -> bool:
    """Whether it was raised in our code or in a library that we called, and not in a file of the user's own."""
    *_, innermost = ["", *(frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))]
    paths = sysconfig.get_paths()
    ours = [
        _HERE,
        _HERE.parent / "hydra_plugins",
        *(Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")),
    ]
    return innermost.startswith("<") or any(Path(innermost).is_relative_to(place) for place in ours)


def _one_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an exception whose text is broken is still one to tell of
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    """The innermost line of ours that the exception went through."""
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(Path(name), line) for name, line in steps if Path(name).is_relative_to(_HERE)]
    if not own:
        return "no line of hydra_overlap"
    path, line = own[-1]
    return f"{path.relative_to(_HERE.parent)}:{line}"


def _written(error: BaseException, words: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    trace = "".join(traceback.format_exception(error))
    text = f"hydra-overlap {__version__}\n{_versions()}\ncommand: {command(words)}\n\n{trace}"
    try:
        handle, name = tempfile.mkstemp(prefix="hydra-overlap-fault-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_without_secrets(text, words, environment))
    except OSError:
        return None
    return Path(name)


def _versions() -> str:
    from importlib import metadata

    found = [f"Python {platform.python_version()} on {platform.platform()}"]
    for name in ("hydra-core", "omegaconf", "click", "torch", "megatron-core", "transformer-engine"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} is not installed")
    return "\n".join(found)


def _without_secrets(text: str, words: Sequence[str], environment: Mapping[str, str]) -> str:
    """A text in which the values of secret variables, and of overrides with such a name, are their names alone."""
    secrets = {value: name for name, value in secret_names.values(environment).items()}
    for word in words:
        said = _ASSIGNED.fullmatch(word)
        if said and secret_names.is_secret(re.split(r"[.@/]", said["name"])[-1].replace("-", "_")):
            secrets[said["value"]] = said["name"]
    for value in sorted(secrets, key=len, reverse=True):  # the longest first: one may hold another
        text = text.replace(value, f"<{secrets[value]}>")
    return text


def show_traceback(error: BaseException) -> None:
    """Print the traceback on standard error, if the environment asks for it."""
    if os.environ.get(FULL) == "1":
        traceback.print_exception(error, file=sys.stderr)
