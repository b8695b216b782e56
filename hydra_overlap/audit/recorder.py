"""What stands in a launcher's place while a script is recorded. Only the standard library is imported: it starts at each call.

`record` puts a folder of these in front of PATH. A launcher is written down and not started. An interpreter is written down
where it would start a training, and is started in every other case. A shell that a launcher starts, and a script given to
sbatch, runs on under the same recorders.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .launchers import PYTHON, SHELLS, Launch, batch_job, batch_variables, directives_of, launch

FOLDER, OUTER = "HYDRA_OVERLAP_RECORDERS", "HYDRA_OVERLAP_OUTER"
OURS = (FOLDER, OUTER, "HYDRA_OVERLAP_ASKS", "BASH_ENV")
INTERPRETERS = ("python", "python3", *(f"python3.{minor}" for minor in range(8, 15)))
RANKS = (
    "torchrun", "deepspeed", "accelerate", "srun", "mpirun", "mpiexec", "mpiexec.hydra", "prun", "aprun", "jsrun", "lsrun",
)  # fmt: skip
JOBS = ("sbatch", "salloc", "qsub", "bsub", "condor_submit", "ray", "kubectl", "ssh", "pdsh", "docker", "podman", "apptainer", "singularity", "enroot")  # fmt: skip
LAUNCHERS = (*RANKS, *JOBS, *INTERPRETERS)
SUFFIX = ".json"
ASKS, NOT_TAKEN = "HYDRA_OVERLAP_ASKS", 99  # asked whether a command would be written down: this exit code says no
TRAINS = re.compile(r"train|finetun|sft", re.IGNORECASE)  # in the name of a program
FLAGS = ("--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--micro-batch-size", "--global-batch-size", "--deepspeed", "--deepspeed_config")  # fmt: skip


def main(words: Sequence[str]) -> NoReturn:
    """One call of a launcher. words: its name, and the arguments that it was called with."""
    environment = dict(os.environ)
    asked, real = environment.pop(ASKS, ""), words[0]
    words = [real.rpartition("/")[2], *words[1:]]
    if PYTHON.fullmatch(words[0]) and not would_train(launch(words, environment)):
        sys.exit(NOT_TAKEN) if asked else _real(words, environment)
    outer = json.loads(environment.get(OUTER, "[]"))
    started = launch([*outer, *words], environment)
    if words[0] == "sbatch":
        _job([*outer, *words], environment)
    if started.script:
        _shell([*outer, *words], started, environment)
    write([*outer, *words], environment)
    sys.exit(0)


def would_train(started: Launch) -> bool:
    """Whether an interpreter would start ranks, or a program that trains: by its name, or by flags that only such programs have."""
    return (
        started.starts_ranks
        or bool(TRAINS.search(started.program.rpartition("/")[2]))
        or any(word.partition("=")[0] in FLAGS for word in started.arguments)
    )


def write(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Write down one launch, in the folder of the recorders."""
    told: dict[str, Any] = {
        "words": list(words), "folder": os.getcwd(),
        "environment": {name: value for name, value in plain(environment).items() if name not in OURS},
    }  # fmt: skip
    folder = environment[FOLDER]
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix="launch", suffix=".part", delete=False) as file:
        json.dump(told, file)
    number = 0
    while True:
        try:
            os.link(file.name, Path(folder, f"{number:06}{SUFFIX}"))
            break
        except FileExistsError:
            number += 1
    os.unlink(file.name)


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the folder of the recorders in PATH."""
    folder = environment.get(FOLDER, "")
    kept = [place for place in environment.get("PATH", "").split(os.pathsep) if place != folder]
    return {**environment, "PATH": os.pathsep.join(kept)}


def _real(words: Sequence[str], environment: dict[str, str]) -> NoReturn:
    """Become the program of that name that PATH has next; what it starts is still recorded."""
    for place in plain(environment)["PATH"].split(os.pathsep):
        program = os.path.join(place, words[0])
        if os.access(program, os.X_OK) and not os.path.isdir(program):
            os.execve(program, list(words), environment)
    print(f"{words[0]}: command not found", file=sys.stderr)
    sys.exit(127)


def _shell(words: list[str], started: Launch, environment: dict[str, str]) -> NoReturn:
    """Run the shell that a launcher starts, once: what it starts has the launcher's words in front of it."""
    shell = started.program.rpartition("/")[2]
    rest = list(started.arguments) if shell in SHELLS else [started.program, *started.arguments]
    before = words[: len(words) - len(started.arguments) - 1]
    inside = {**started.environment(environment), FOLDER: environment[FOLDER], "PATH": environment["PATH"]}
    inside |= {name: environment[name] for name in OURS if name in environment} | {OUTER: json.dumps(before)}
    program = shell if shell in SHELLS else "bash"
    os.execvpe(program, [program, *rest], inside)


def _job(words: list[str], environment: dict[str, str]) -> NoReturn:
    """Run the script that is handed to sbatch, with the numbers of nodes and tasks that it would have in the job."""
    wrapped, script, options = batch_job(words[words.index("sbatch") + 1 :])
    if wrapped is None and script and not os.path.isfile(script[0]):
        write(words, environment)
        sys.exit(0)
    text = Path(script[0]).read_text(errors="replace") if script and wrapped is None else ""
    inside = {**environment, **batch_variables([*directives_of(text), *options]), OUTER: "[]"}
    call = ["bash", "-c", wrapped] if wrapped is not None else ["bash", *script] if script else ["bash", "-s"]
    os.execvpe("bash", call, inside)
