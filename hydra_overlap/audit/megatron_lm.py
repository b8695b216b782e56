"""A Megatron-LM command line or launch script, as text -> the arguments of its training commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..export._base import FACTS_MARK
from . import megatron_arguments, openings, shell
from .intake import Intake, UnreadableError
from .launchers import Launch, launch
from .megatron_arguments import KIND, say
from .megatron_flags import flagged, known_flags

__all__ = ["KIND", "looks_like", "read", "say", "trains"]

TRAINS = re.compile(r"train|finetun|sft")  # in the name of a script
TOOL = re.compile(r"(^|/)tools/")


def looks_like(text: str) -> bool:
    """Whether the text has flags of pretrain_gpt.py in it."""
    return any(word.partition("=")[0] in known_flags() for word in re.findall(r"--[a-z][\w-]*=?", text))


def read(text: str, around: shell.Around = shell.NOTHING, core: str | None = None) -> list[Intake]:
    """One for each training command, and for each way in which conditions that nobody can evaluate may turn out.

    core: version of megatron-core, whose flags these are.

    Raises UnreadableError.
    """
    try:
        script = shell.read(_typed(text), around)
    except ValueError as error:
        raise UnreadableError(f"This is not a shell script: {error}.") from error
    chosen, others = _training([_Run.of(command, script.directives) for command in script.commands])
    if not chosen:
        raise UnreadableError("No training command in this text has flags of pretrain_gpt.py.")
    intakes = [_intake(run, around.folder, core) for run in chosen]
    intakes[0].notes += script.notes
    for run in others:
        what = run.started.program or (run.started.outer[0] if run.started.outer else "")
        why = f"{what} is not a training program" if what else "these flags belong to no command"
        intakes[0].notes.append(f"not judged: line {run.command.line}, {why}")
        if run.command.cut is not None:
            intakes[0].notes.append(f"not judged: line {run.command.cut.line}, these flags belong to no command")
    return intakes


def _typed(text: str) -> str:
    """The text as one would type it: our own exports list flags for `$(...)`, after which a shell looks for no `|` and no `(`."""
    if FACTS_MARK not in text:
        return text
    listed = (shlex.join(line.split()) if line.startswith("--") else line for line in text.splitlines())
    return "\n".join(listed)


@dataclass
class _Run:
    """A command, what it starts, and its arguments from the first flag of Megatron's parser on."""

    command: shell.Command
    started: Launch
    words: list[str]

    @classmethod
    def of(cls, command: shell.Command, directives: list[str]) -> "_Run":
        words = [*command.outer, *command.words]
        started = launch(words, command.variables, directives)
        if started.program and not started.program.startswith(("-", "$")):
            return cls(command, started, list(started.arguments))
        scripts = [i for i, word in enumerate(words) if word.endswith(".py") and not word.startswith("-")]
        first = next((i for i in scripts if "pretrain" in Path(words[i]).name), scripts[0] if scripts else None)
        start = next((i for i, word in enumerate(words) if word.partition("=")[0] in known_flags()), len(words))
        start = start if first is None else first + 1
        program = "" if first is None else words[first]
        outer = tuple(words[: start if first is None else first])
        found = Launch(program=program, outer=outer, launchers=started.launchers, ranks=started.ranks, env=started.env, inherited=started.inherited, removed=started.removed)  # fmt: skip
        return cls(command, found, words[start:])

    @property
    def flagged(self) -> bool:
        return flagged(self.words)


def trains(started: Launch) -> bool:
    """Whether a program is one that trains: by its name, or because several ranks of it are started."""
    return not TOOL.search(started.program) and (
        started.starts_ranks or bool(TRAINS.search(Path(started.program).name))
    )


def _training(runs: list[_Run]) -> tuple[list[_Run], list[_Run]]:
    """(commands that train, other programs with flags of Megatron's). Flags without any program are one command."""
    runs = [run for run in runs if run.flagged]
    scripts = [run for run in runs if run.started.program]
    chosen = [run for run in scripts if trains(run.started)] or [
        run for run in scripts if not TOOL.search(run.started.program)
    ]
    if scripts:
        return chosen, [run for run in runs if run not in chosen]
    bare = [run for run in runs if not run.started.outer]
    if bare:  # one flag a line is a list, not a script
        bare[0].words = [word for run in bare for word in run.words]
    return [*bare[:1], *(run for run in runs if run.started.outer)], []


def _intake(run: _Run, folder: Path | None, core: str | None) -> Intake:
    intake = megatron_arguments.read(run.words, run.started.ranks, folder, run.started.program, core)
    intake.lines = (run.command.line,) if run.started.outer or run.started.program else ()
    variables = {name: value for name, value in run.command.variables.items() if name.isupper()}
    exported = {name: value for name, value in variables.items() if name in run.command.exported}
    intake.env = run.started.environment(exported)
    intake.unexported = frozenset(variables) - frozenset(intake.env)
    intake.notes += shell.conditions(run.command)
    intake.ways, intake.group = run.command.ways, run.command.group
    openings.ranks(intake, run.started.outer)
    openings.take(intake, run.command, run.words)
    return intake
