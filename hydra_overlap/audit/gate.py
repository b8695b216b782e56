"""A launch judged as it stands: the words and the environment that a shell passes, nothing of them guessed."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from . import megatron_arguments, megatron_bridge, megatron_flags
from .intake import Intake, UnreadableError
from .launchers import Launch, launch
from .surroundings import facts
from .verdict import Audit, Audits, concluded, core_said

MAY_READ = "Flags of Megatron-LM's pretrain_gpt.py and overrides of Megatron-Bridge are what can be judged."


def judge(
    words: Sequence[str], environment: Mapping[str, str], overrides: Sequence[str] = (), *, folder: Path | None = None
) -> Audit | Audits:
    """The verdict on one launch. words: launcher and all. environment: of the process that would call it.

    overrides: what neither says (`platform=h100`); they win. folder: where files are looked for; the one it is called in.
    Raises UnreadableError where nothing of it can be judged, GatingError and OverrideError for a wrong override.
    """
    return concluded(
        [read(words, environment, Path.cwd() if folder is None else folder, core_said(overrides))], overrides
    )


def read(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, core: str | None = None
) -> tuple[Intake, Callable[[str], str]]:
    """What a launch says, and how a fix is said there. core: version of megatron-core that was said. Raises UnreadableError."""
    started = launch(words, environment, exact=True)
    found = facts(started, environment, folder)
    here = found.get("software.megatron_core", (None, ""))[0]
    intake, say = _read(started, folder, core or here)
    intake.env = started.environment(environment)
    intake.exact = not started.contained
    for key, (value, said) in found.items():
        intake.take(key, value, said)
    return intake, say


def _read(started: Launch, folder: Path, core: str | None) -> tuple[Intake, Callable[[str], str]]:
    if started.script:
        raise UnreadableError(
            f"{started.program} runs a script, and what that starts is not among these words. Put `hydra-overlap gate --` in "
            "front of the launcher inside the script, or judge all its launches with `hydra-overlap record -- "
            f"{' '.join([started.program, *started.arguments[:1]])}`."
        )
    if not started.program:
        raise UnreadableError(f"No program is started here. {MAY_READ}")
    if megatron_flags.flagged(started.arguments):
        return megatron_arguments.read(
            started.arguments, started.ranks, folder, started.program
        ), megatron_arguments.say
    nested = megatron_bridge.overrides(started.arguments)
    if megatron_bridge.looks_like(nested):
        intake = megatron_bridge.read(megatron_bridge.Content(nested))
        megatron_arguments.take_ranks(intake, started.ranks)
        return intake, megatron_bridge.say
    other = _other(started, core)
    if other is None:
        raise UnreadableError(f"{started.program} has no arguments that can be judged. {MAY_READ}")
    return other


def _other(started: Launch, core: str | None) -> tuple[Intake, Callable[[str], str]] | None:
    """A program of another format (verl, NeMo-Launcher, ms-swift), whose words an audit reads as well."""
    from . import dialects, shell  # the reader of scripts

    found = dialects.read(shlex.join([*started.outer, started.program, *started.arguments]), shell.NOTHING, core)
    if not found:
        return None
    intake, say = found[0]
    intake.lines = ()
    megatron_arguments.take_ranks(intake, started.ranks)
    return intake, say


RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "GROUP_RANK")
"""Variables in which torchrun, Slurm, Open MPI, MPICH and PMIx tell a process its number."""
ENVIRONMENT = Path("/proc/self/environ")
NOT_FOUND, NOT_ALLOWED = 127, 126  # as a shell ends


def first_rank(environment: Mapping[str, str]) -> bool:
    """Whether this process is the one of all ranks that speaks."""
    said = [environment[name] for name in RANKS if name in environment]
    return not said or said[0] == "0"


def become(words: Sequence[str]) -> NoReturn:
    """Replace this process by the launcher: same words, environment, folder and standard input.

    Ends with 127 or 126, as a shell does, if there is no such program or it may not be run.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(words[0], list(words), _inherited())
    except FileNotFoundError:
        print(f"hydra-overlap gate: there is no program {words[0]}.", file=sys.stderr)
        sys.exit(NOT_FOUND)
    except OSError as error:
        print(f"hydra-overlap gate: {words[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        sys.exit(NOT_ALLOWED)


def _inherited() -> Mapping[bytes, bytes]:
    """The environment that this process was started with: Python adds LC_CTYPE to it where the locale is C (PEP 538)."""
    try:
        pairs = ENVIRONMENT.read_bytes().split(b"\0")
    except OSError:  # not Linux
        return os.environb
    return dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
