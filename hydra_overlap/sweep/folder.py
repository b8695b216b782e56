"""The folder of a sweep: its definition in sweep.json, one sweep in it at a time, one folder a job, and how to find it again.

multirun/2026-01-01/10-00-00/sweep.json     what was swept: every point, its identity, its verdict, its folder
                             3/job.json     how job 3 ended (job.py), beside what the run itself wrote
                             results.json, results.csv, report.html
"""

import copy
import glob
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from .. import commands, files, quoting
from ..compose.overrides import quoted, task_overrides
from ..launch import RANK_PLAN
from ..launch.local import RANKS
from . import job
from .errors import SweepError
from .judge import Judged

DEFINITION = "sweep.json"
LOCK = ".sweep.lock"
SUBMITTED = ".submitit"  # a folder for each job's id: hydra-submitit-launcher's default
SLURM_S = 60  # seconds for the controller to answer
HOW = (
    "_target_",
    "on_invalid",
    "on_duplicate",
    "plan_only",
    "resume",
    "max_batch_size",
    "metric",
    "direction",
    "sort",
    "fitting",
)
NUMBERED = "${hydra.job.num}"
_NOW = re.compile(r"\$\{\s*now:[^}]*\}")
_JOB = re.compile(r"\$\{\s*hydra[.:]job\.(?:num|id)\s*\}")


def definition(config: DictConfig) -> str:
    """Hash of what is swept, however it is run: the command line's overrides, `hydra.sweeper`'s points, the app."""
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    asked = {
        "overrides": task_overrides(config.hydra),
        "sweeper": {key: value for key, value in sweeper.items() if key not in HOW},
        "app": [config.hydra.job.name, config.hydra.job.config_name],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


def to_resume(config: DictConfig) -> Path | None:
    """The newest folder of an earlier sweep of this definition, where `hydra.sweep.dir` puts sweeps; None without one.

    `${now:...}` in hydra.sweep.dir stands for any time. Raises SweepError if hydra.sweep.dir names the folder of another
    sweep.
    """
    raw: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    anywhere = _with_sweep_dir(config, _NOW.sub("*", str(raw["dir"])))
    pattern = str(anywhere.hydra.sweep.dir)
    wanted, found = definition(config), []
    for place in glob.glob(pattern) if "*" in pattern else [pattern]:
        known = files.read_json(Path(place, DEFINITION))
        if known.get("definition") == wanted:
            found.append((str(known.get("created")), Path(place).absolute()))
        elif known and "*" not in pattern:
            _refuse_other(Path(place).absolute(), known)
    return max(found)[1] if found else None


def _with_sweep_dir(config: DictConfig, folder: str) -> DictConfig:
    changed = copy.deepcopy(config)
    OmegaConf.copy_cache(from_config=config, to_config=changed)  # ${now:} stays the moment this sweep started
    with opened_for_writing(changed):
        changed.hydra.sweep.dir = folder
    return changed


@contextmanager
def opened_for_writing(config: DictConfig) -> Iterator[None]:
    """A sweep's or job's config whose `hydra` node may be changed, while inside: hydra-core 1.4 locks that node by itself."""
    with read_write(config), read_write(config.hydra), open_dict(config), open_dict(config.hydra):
        yield


def moved(config: DictConfig, folder: Path) -> DictConfig:
    """The sweep's config with hydra.sweep.dir = folder."""
    return _with_sweep_dir(config, str(folder))


def _refuse_other(folder: Path, known: Mapping[str, Any]) -> None:
    raise SweepError(
        "This folder holds another sweep",
        where=[f"hydra.sweep.dir={folder}"],
        why=f"It was started by: {quoting.command(known.get('command') or ['?'])}",
        fixes=[
            ("hydra.sweep.dir=OTHER", "a folder of its own"),
            (quoting.command(["hydra-overlap", "report", str(folder)]), "shows what it found"),
        ],
    )


@contextmanager
def opened(folder: Path, config: DictConfig, *, resume: bool) -> Iterator[None]:
    """Be the one sweep in `folder`, while inside. Raises SweepError if it cannot be written, or is taken."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepError(
            "Another sweep is running in this folder",
            where=[f"hydra.sweep.dir={folder}"],
            why="Two sweeps would overwrite each other's jobs. Wait until it has ended, or start this one elsewhere.",
            fixes=[("hydra.sweep.dir=OTHER", "a folder of its own")],
            source=str(folder / LOCK),
        ) from None
    except (OSError, NotImplementedError) as error:
        raise SweepError(
            "The folder of the sweep cannot be written",
            where=[f"hydra.sweep.dir={folder}"],
            why=f"{getattr(error, 'strerror', None) or error}.",
            fixes=[("hydra.sweep.dir=OTHER", "a folder that can be written")],
        ) from None
    try:
        known = files.read_json(folder / DEFINITION)
        if known and not resume:
            raise SweepError(
                "This folder holds the results of a sweep",
                where=[f"hydra.sweep.dir={folder}"],
                why="Its jobs would be overwritten.",
                fixes=[
                    ("hydra.sweeper.resume=true", "resumes it, if it is this sweep"),
                    ("hydra.sweep.dir=OTHER", "a folder of its own"),
                ],
            )
        if known and known.get("definition") != definition(config):
            _refuse_other(folder, known)
        yield
    finally:
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # refused before anything was written; never anything else


def finished(folder: Path) -> dict[str, list[str]]:
    """Identity -> folders of completed jobs, of a sweep that was started before."""
    found: dict[str, list[str]] = {}
    for place in _job_folders(folder):
        state = job.state(folder / place)
        if state.get("status") == job.COMPLETED and state.get("identity"):
            found.setdefault(state["identity"], []).append(place)
    return found


def require_ended(folder: Path) -> None:
    """Raise SweepError if jobs of the sweep still run or wait in Slurm, although the process that launched them is gone."""
    in_slurm = _in_slurm(folder)
    states = {place: job.state(folder / place) for place in ([] if in_slurm else _job_folders(folder))}
    held = {state["pid"]: place for place, state in states.items() if state.get("status") == job.RUNNING}
    running = {**held, **_ranks(folder)}
    if not running and not in_slurm:
        return
    where = [f"Slurm job {one}" for one in in_slurm]
    where += [f"{folder / place}: process {pid}" for pid, place in running.items()]
    end = " ".join(["scancel", *in_slurm] if in_slurm else ["kill", *map(str, running)])
    raise SweepError(
        "Jobs of this sweep are still running",
        where=where,
        why="The process that ran the sweep has ended, but these jobs have not. Starting them again would run them twice. "
        "Wait until they have ended, or end them.",
        fixes=[(end, "then the same command again")],
    )


def _ranks(folder: Path) -> dict[int, str]:
    """Process -> its job's folder, of ranks on this machine whose plan lies in this sweep: they outlive who started them.

    A rank that began as a program of its own shows its plan in its environment. A forked one shows there what its parent
    began with, but its errors go to a file of its own.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            errors = (process / "fd/2").readlink()
            forked = [errors.parents[2]] if errors.match(f"{RANKS}/*/stderr.log") else []
            for job_folder in (*_plan_of(process), *forked):
                if job_folder.is_relative_to(folder):
                    found[int(process.name)] = str(job_folder.relative_to(folder))
    return found


def _plan_of(process: Path) -> list[Path]:
    """The folders of the plans that a process was begun with."""
    variables = (process / "environ").read_bytes().split(b"\0")
    pairs = [variable.decode(errors="replace").partition("=") for variable in variables]
    return [Path(value).parent for name, _, value in pairs if name == RANK_PLAN]


def _in_slurm(folder: Path) -> list[str]:
    """Ids of jobs that this sweep submitted and Slurm still has. Of those that wait, nothing but Slurm knows."""
    launcher = str(files.read_json(folder / DEFINITION).get("launcher"))
    submitted = {path.name for path in (folder / SUBMITTED).glob("*")}
    if not launcher.endswith("SlurmLauncher") or not submitted or shutil.which("squeue") is None:
        return []
    asked = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, timeout=SLURM_S)
    return sorted(submitted & set(asked.stdout.split()))


def _job_folders(folder: Path) -> list[str]:
    listed = [point.get("folder") for point in files.read_json(folder / DEFINITION).get("points", [])]
    there = [str(path.parent.relative_to(folder)) for path in folder.glob(f"*/{job.JOB}")]
    return list(dict.fromkeys(place for place in (*listed, *there) if place))


def subfolders(
    todo: Sequence[Judged], config: DictConfig, context: HydraContext, taken: Mapping[str, str]
) -> dict[int, str]:
    """Number of a point -> its folder within the sweep's, from `hydra.sweep.subdir`.

    taken: folder -> identity of finished jobs, which keep theirs. Raises SweepError if two jobs would share one.
    """
    raw = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
    found: dict[int, str] = {}
    owners: dict[str, int] = {}
    for verdict in todo:
        number = verdict.point.number
        text = _JOB.sub(str(number), raw)
        place = text if "${" not in text else _composed(verdict, text, config, context)
        if place in taken and raw == NUMBERED:  # the app changed since: its old result stays where it is
            place = f"{place}_{verdict.identity}"
        if place in owners or place in taken:
            other = f"#{owners[place]}" if place in owners else "a finished job"
            raise SweepError(
                "Two jobs of the sweep would share a folder",
                where=[f"hydra.sweep.subdir={raw}", f"#{number} and {other}: {place}"],
                why="One would overwrite the other's results.",
                fixes=[("hydra.sweep.subdir='${hydra.job.num}'", "the job's number")],
            )
        owners[place] = number
        found[number] = place
    return found


def _composed(verdict: Judged, subdir: str, config: DictConfig, context: HydraContext) -> str:
    """`subdir` in the config of this very job."""
    number = verdict.point.number
    job_config = context.config_loader.load_sweep_config(
        config, [*verdict.point.overrides, quoted("hydra.sweep.subdir", subdir)]
    )
    with opened_for_writing(job_config):
        job_config.hydra.job.num = number
        job_config.hydra.job.id = str(number)
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(job_config)
        return str(job_config.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before


def write(folder: Path, judged: Sequence[Judged], folders: Mapping[int, str], config: DictConfig) -> None:
    """Write sweep.json, and multirun.yaml as Hydra's own sweeper does, before anything starts."""
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    before = files.read_json(folder / DEFINITION)
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    value = {
        "format": 1,
        "definition": definition(config),
        "created": before.get("created") or now,
        "resumed": [*before.get("resumed", []), *([now] if before else [])],
        "command": commands.typed(),
        "overrides": task_overrides(config.hydra),
        "sweeper": sweeper,
        "launcher": str(OmegaConf.select(config, "hydra.launcher._target_")),
        "points": [_entry(verdict, folders.get(verdict.point.number)) for verdict in judged],
    }
    files.write_json(folder / DEFINITION, value)
    OmegaConf.save(config, folder / "multirun.yaml")


def _entry(verdict: Judged, place: str | None) -> dict[str, Any]:
    point = verdict.point
    return {
        "number": point.number,
        "name": point.name,
        "swept": point.swept,
        "overrides": list(point.overrides),
        "identity": verdict.identity,
        "same_as": verdict.same_as,
        "ranks": verdict.ranks,
        "folder": place,
        "refusal": verdict.refusal,
        "reason": verdict.reason,
        "rules": list(verdict.rules),
    }
