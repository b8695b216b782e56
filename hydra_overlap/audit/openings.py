"""Words of a training command that may hold settings nobody can read, and flags that the text cuts off from it."""

from collections.abc import Iterator, Sequence

from ..export.megatron_lm_parser import rows
from ..findings import Finding, Fix, Place
from .intake import BEARS_ON_OVERLAP, Intake
from .shell import Command, Cut
from .shell_holes import Word

WORLD = "parallelism.world_size"
RULE = "BASH"
TITLE = "Flags are cut off from their command"
BASH = "bash(1), COMMENTS and QUOTING: a comment ends with its line, and a backslash continues a line only as its last character"
ELSEWHERE = {
    "--use-checkpoint-args": "the checkpoint, which --use-checkpoint-args lets overrule the model's flags",
    "--yaml-cfg": "the file that --yaml-cfg names, whose settings replace the flags",
}


def ranks(intake: Intake, outer: Sequence[str]) -> None:
    """A number of ranks that stands there only by default is no fact. outer: the words in front of the program."""
    defaults = {name: value for word in outer if isinstance(word, Word) for name, value in word.defaults.items()}
    if defaults and WORLD in intake.said:
        names = ", ".join(f"{name}={value}" for name, value in defaults.items())
        intake.by_default = (intake.flat.pop(WORLD), f"{intake.said.pop(WORLD)}, by default ({names})")


def take(intake: Intake, command: Command, words: Sequence[str]) -> None:
    """Note what the words of a command leave open. words: its arguments."""
    maybe: list[str] = []
    surely: list[str] = []
    for word in _open(words):
        (surely if word.filled else maybe).append(word.open)
    for flag, what in ELSEWHERE.items():
        if any(word.partition("=")[0] == flag for word in words):
            surely.append(what)
    intake.maybe = tuple(dict.fromkeys(maybe))
    intake.surely = tuple(dict.fromkeys(surely))
    if command.unread and intake.surely:
        intake.notes.append(f"not read: {command.unread}")
    if command.cut is not None:
        intake.findings.append(_cut(command.cut))


def _open(words: Sequence[str]) -> Iterator[Word]:
    """Those that may be several words or none, and that are not the value of a flag."""
    before = ""
    for word in words:
        if isinstance(word, Word) and word.open and before not in _with_value():
            yield word
        before = word if word.startswith("--") and "=" not in word else ""


def _with_value() -> frozenset[str]:
    return frozenset(flag for row in rows() if row["action"] == "store" for flag in row["flags"])


def _cut(cut: Cut) -> Finding:
    flags = [word for word in cut.words if word.startswith("-")]
    lost = [flag for flag in flags if BEARS_ON_OVERLAP.search(flag.lower().replace("-", "_"))]
    named = ", ".join(lost or flags)
    return Finding(
        rule=RULE, severity="error" if lost else "warning", title=TITLE, source=BASH,
        where=(Place(" ".join(cut.words), "", f"line {cut.line}"),),
        why=f"The flags on line {cut.line} on belong to no command: {cut.why}. The run does not get them: {named}.",
        fixes=(Fix("one unbroken command", "move the comment out of it; let each line end with a backslash"),),
    )  # fmt: skip
