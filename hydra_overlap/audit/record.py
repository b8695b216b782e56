"""A script run with recorders in the place of its launchers, and each launch that it would make judged as it stands."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import gate
from .intake import Intake, UnreadableError
from .launchers import SHELLS, batch_variables, directives_of
from .recorder import ASKS, FOLDER, LAUNCHERS, NOT_TAKEN, SUFFIX
from .verdict import Audit, Audits, concluded, core_said

PACKAGE = Path(__file__).parents[2]
STANDARD_ERROR = 2
WIDTH = 100  # characters of a launch that a note shows
TRAP = (
    r"""
__hydra_overlap_takes() {
  shopt -q extdebug || shopt -s extdebug
  case ":$PATH:" in ":$FOLDER:"*) ;; *) PATH=$FOLDER:$PATH ;; esac
  local __ho_command='^(([A-Za-z_][A-Za-z0-9_]*=[^[:space:]]*[[:space:]]+)*)([^[:space:]=]+)([[:space:]].*)?$'
  local __ho_plain='^[]A-Za-z0-9_/.~:{}$"-]+$' __ho_before __ho_word __ho_after
  local -a __ho_program
  [[ $BASH_COMMAND =~ $__ho_command ]] || return 1
  __ho_before=${BASH_REMATCH[1]} __ho_word=${BASH_REMATCH[3]} __ho_after=${BASH_REMATCH[4]}
  [[ $__ho_word == *[/$]* && $__ho_word =~ $__ho_plain ]] || return 1
  eval "__ho_program=($__ho_word)" 2>/dev/null || return 1
  [[ ${__ho_program[0]} == */* && ${__ho_program[0]} != "$FOLDER"/* && -x $FOLDER/${__ho_program[0]##*/} ]] || return 1
  eval "$__ho_before ASKS=1 \"\$FOLDER/\${__ho_program[0]##*/}\" \"\${__ho_program[@]:1}\" $__ho_after" </dev/null 2>/dev/null
  (( $? != NOT_TAKEN ))
}
set -T
trap '! __hydra_overlap_takes "$@"' DEBUG
""".replace("FOLDER", FOLDER)
    .replace("ASKS", ASKS)
    .replace("NOT_TAKEN", str(NOT_TAKEN))
)
"""For bash, before each of its commands: what `conda activate` puts in front of PATH comes after the recorders again, and a
launcher that is called by its path (/opt/bin/torchrun, $PYTHON) is offered to its recorder and skipped if that takes it."""


@dataclass(frozen=True)
class Recorded:
    """One launch. words: launcher and all. folder: the one it was called in."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    def __str__(self) -> str:
        text = shlex.join(self.words)
        return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


@dataclass(frozen=True)
class Recording:
    """What a script would launch. exit_code: that of the script. job: variables of a Slurm job that its #SBATCH lines gave it."""

    launches: tuple[Recorded, ...]
    exit_code: int
    job: Mapping[str, str]

    @property
    def told(self) -> list[str]:
        """How it went, for a terminal."""
        count = len(self.launches)
        were = "1 launch was recorded and not" if count == 1 else f"{count} launches were recorded and none was"
        ended = f"; the script ended with exit code {self.exit_code}" if self.exit_code else ""
        given = " ".join(f"{name}={value}" for name, value in self.job.items())
        return [
            f"{were} started{ended}",
            *([f"set as in the job that its #SBATCH lines ask for: {given}"] if given else []),
        ]


def record(words: Sequence[str], environment: Mapping[str, str]) -> Recording:
    """Run a command with recorders in PATH. words: `bash script.sh`. Its standard output goes to standard error.

    Every other command of the script runs for real. Raises FileNotFoundError or PermissionError if it cannot be started.
    """
    job = _job(words, environment)
    with _recorders() as folder:
        inside = {
            **environment, **job, FOLDER: str(folder), "BASH_ENV": str(folder / ".bash_env"),
            "PATH": f"{folder}{os.pathsep}{environment.get('PATH', os.defpath)}",
        }  # fmt: skip
        done = subprocess.run(list(words), env=inside, stdout=STANDARD_ERROR, check=False)
        return Recording(tuple(_launches(folder)), done.returncode, job)


def _job(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """What Slurm would set in the job of a script with #SBATCH lines, where this is no job."""
    script = next((Path(word) for word in words[1:] if not word.startswith("-")), None)
    shell = Path(words[0]).name in SHELLS
    if "SLURM_JOB_ID" in environment or not shell or script is None or not script.is_file():
        return {}
    directives = directives_of(script.read_text(errors="replace"))
    found = batch_variables(directives) if directives else {}
    return {name: value for name, value in found.items() if name not in environment}


@contextmanager
def _recorders() -> Iterator[Path]:
    """A folder with a program for each launcher."""
    with tempfile.TemporaryDirectory(prefix="hydra_overlap_record") as name:
        folder = Path(name)
        entry = folder / ".entry.py"
        entry.write_text(
            f"import sys\nsys.path.insert(0, {str(PACKAGE)!r})\n"
            "from hydra_overlap.audit.recorder import main\nmain(sys.argv[1:])\n"
        )
        (folder / ".bash_env").write_text(TRAP)
        for launcher in LAUNCHERS:
            file = folder / launcher
            file.write_text(
                f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {shlex.quote(str(entry))} {launcher} "$@"\n'
            )
            file.chmod(0o755)
        yield folder


def _launches(folder: Path) -> Iterator[Recorded]:
    for file in sorted(folder.glob(f"[0-9]*{SUFFIX}")):
        told = json.loads(file.read_text())
        yield Recorded(tuple(told["words"]), told["environment"], Path(told["folder"]))


def judge(recording: Recording, overrides: Sequence[str] = ()) -> tuple[Audit | Audits | None, list[str]]:
    """(the verdict on all launches that can be judged; None if there are none, why others cannot be).

    Raises GatingError and OverrideError for a wrong override.
    """
    core = core_said(overrides)
    read: list[tuple[Intake, Callable[[str], str]]] = []
    left: list[str] = []
    for number, launch in enumerate(recording.launches, 1):
        try:
            intake, say = gate.read(launch.words, launch.environment, launch.folder, core)
        except UnreadableError as error:
            left.append(f"launch {number}, {launch}: {error}")
            continue
        intake.notes.insert(0, f"launch {number}: {launch}")
        read.append((intake, say))
    return (concluded(read, overrides) if read else None), left
