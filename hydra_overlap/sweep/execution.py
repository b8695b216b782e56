"""What is left of a sweep, run: by any of Hydra's launchers, resumed where it stopped, and nothing lost with a job.

A job that crashes, is killed or refused marks itself; the others run. Only an interruption, or a run that was asked to stop
in this process, ends a sweep; what was found so far is written then as well.
"""

import copy
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from .. import files
from ..compose.overrides import quoted
from ..launch import preflight
from ..schema.nodes import Launch, Platform, Request
from ..suggest import nearest
from . import folder as folders
from . import job, leftovers, outputs, results
from .errors import SweepError
from .judge import Judged
from .progress import Line
from .results_table import print_results

BASIC = "hydra._internal.core_plugins.basic_launcher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher"
SUBMITIT = "hydra_plugins.hydra_submitit_launcher"


LauncherFactory = Callable[[DictConfig], Launcher]


def run(
    judged: Sequence[Judged],
    *,
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    launcher_factory: LauncherFactory,
    sweep_dir: str | Path,
    resume: bool,
    console: Console,
) -> list[JobReturn]:
    """Run every legal point that is not the same as an earlier one; -> what the jobs that ran now returned.

    launcher_factory: makes a launcher of a config whose `hydra.launcher` and task function it takes. Raises SweepError
    before anything starts, and SystemExit once everything is written: 1 if a job failed, 75 if one was asked to stop.
    """
    _require_direction(config)
    _require_column(config)
    folder = Path(sweep_dir).absolute()
    if resume:
        earlier = folders.to_resume(config)
        if earlier is None:
            console.print(
                Text("\nThere is no earlier sweep of this command to resume; a new one starts."), soft_wrap=True
            )
        folder = earlier or folder
    config = folders.moved(config, folder)
    with folders.opened(folder, config, resume=resume), leftovers.noted():
        places, before = _places(judged, folder, config, hydra_context)
        folders.write(folder, judged, places, config)
        todo = [verdict for verdict in _to_run(judged) if verdict.point.number not in before]
        if before:
            console.print(
                Text(f"\nresuming: {len(before)} of {len(before) + len(todo)} jobs are finished, {len(todo)} left")
            )
        sweep = _Sweep(folder, config, places, Line(console, len(todo)))
        returned = sweep.run(todo, launcher_factory)
        raise_after = sweep.ended_by
        table = results.collect(folder)
        outputs.write(table, folder)
        print_results(table, console)
    if raise_after is not None:
        raise raise_after
    code = table.exit_code
    if code:
        sys.exit(code)
    return returned


def _require_direction(config: DictConfig) -> None:
    said = OmegaConf.select(config, "hydra.sweeper.direction")
    if said not in (None, *results.DIRECTIONS):
        key = "hydra.sweeper.direction"
        fixes = [(f"{key}={name}", "") for name in results.DIRECTIONS]
        why = f"The choices are {', '.join(results.DIRECTIONS)}."
        raise SweepError(f"Unknown value of {key}", where=[f"{key}={said}"], why=why, fixes=fixes)


def _require_column(config: DictConfig) -> None:
    said = OmegaConf.select(config, "hydra.sweeper.sort")
    if said not in (None, *results.FIGURES):
        key = "hydra.sweeper.sort"
        likely = nearest(str(said), results.FIGURES)
        fixes = [(f"{key}={likely}", "")] if likely else [(f"{key}=null", "orders by number")]
        why = f"The columns are {', '.join(results.FIGURES)}."
        raise SweepError(
            "No such column to order the results of a sweep by", where=[f"{key}={said}"], why=why, fixes=fixes
        )


def _to_run(judged: Sequence[Judged]) -> list[Judged]:
    return [verdict for verdict in judged if verdict.refusal is None and verdict.same_as is None]


def _places(
    judged: Sequence[Judged], folder: Path, config: DictConfig, context: HydraContext
) -> tuple[dict[int, str], set[int]]:
    """(number -> folder within the sweep's, numbers of jobs that are finished there already)."""
    folders.require_ended(folder)
    finished = folders.finished(folder)
    taken = {place: identity for identity, places in finished.items() for place in places}
    left = {identity: list(places) for identity, places in finished.items()}
    places: dict[int, str] = {}
    todo = []
    for verdict in _to_run(judged):
        before = left.get(verdict.identity or "")
        if before:
            places[verdict.point.number] = before.pop(0)
        else:
            todo.append(verdict)
    done = set(places)
    places.update(folders.subfolders(todo, config, context, taken))
    return places, done


@dataclass(frozen=True)
class _Shape:
    """Points that one launch call may take together. launcher: what differs from the sweep's own `hydra.launcher`."""

    launcher: tuple[tuple[str, str], ...]
    ranks: int | None


class _Numbers(int):
    """What a launcher counts from, so that `hydra.job.num` is the number of the point though points before it are left out.

    All of Hydra's launchers number the jobs of one call `initial_job_idx + index`.
    """

    _numbers: tuple[int, ...]

    @classmethod
    def of(cls, batch: Sequence[Judged]) -> "_Numbers":
        found = cls(batch[0].point.number)
        found._numbers = tuple(verdict.point.number for verdict in batch)
        return found

    def __add__(self, index: int) -> int:
        return self._numbers[index]


class _Sweep:
    """One sweep while it runs. ended_by: what ended it before its last job."""

    def __init__(self, folder: Path, config: DictConfig, places: Mapping[int, str], line: Line) -> None:
        self._folder, self._config, self._places, self._line = folder, config, places, line
        self._returns: dict[int, JobReturn] = {}
        self.ended_by: BaseException | None = None

    def run(self, todo: Sequence[Judged], factory: LauncherFactory) -> list[JobReturn]:
        """Launch `todo`; -> what came back, in order of the points."""
        for verdict in todo:
            self._queue(verdict)
        try:
            for launcher, batch, how in _batches(todo, self._config, factory):
                if how:
                    self._line.say(how)
                self._launch(launcher, batch)
        except (KeyboardInterrupt, SystemExit) as end:
            self.ended_by = end
        return [self._returns[number] for number in sorted(self._returns)]

    def _of(self, verdict: Judged) -> Path:
        return self._folder / self._places[verdict.point.number]

    def _launch(self, launcher: Launcher, batch: Sequence[Judged]) -> None:
        """One call of the launcher; whatever comes of it, every job of the batch has an end in its folder."""
        if _is(launcher, BASIC):
            (verdict,) = batch
            self._line.before(verdict)
            self._call(launcher, batch)
            self._line.after(verdict, job.state(self._of(verdict)))
            return
        by_number = {verdict.point.number: verdict for verdict in batch}
        with self._line.watching({number: self._of(v) for number, v in by_number.items()}, by_number):
            self._launch_all(launcher, batch)

    def _launch_all(self, launcher: Launcher, batch: Sequence[Judged]) -> None:
        """Launch a batch; what a launcher that broke left without an end is launched again, once.

        joblib's workers all go with one that dies. Jobs that had begun run again alone, which tells which one it was;
        the others together.
        """
        broken = self._call(launcher, batch)
        if broken is None:
            return
        left = [verdict for verdict in batch if self._status(verdict) not in job.FINAL]
        began = [verdict for verdict in left if self._status(verdict) == job.RUNNING]
        if len(began) == 1 and _pool_broke(broken):
            self._blame(began, broken)
            left = [verdict for verdict in left if verdict is not began[0]]
            began = []
        alone = began if len(left) < len(batch) or began else left
        for verdict in left:
            self._queue(verdict)
        for verdict in alone:
            self._call(launcher, [verdict])
        together = [verdict for verdict in left if verdict not in alone]
        if together:
            self._launch_all(launcher, together)

    def _queue(self, verdict: Judged) -> None:
        job.queue(self._of(verdict), number=verdict.point.number, identity=verdict.identity)

    def _status(self, verdict: Judged) -> str:
        return str(files.read_json(self._of(verdict) / job.JOB).get("status"))

    def _call(self, launcher: Launcher, batch: Sequence[Judged]) -> Exception | None:
        """One call of the launcher; -> what broke it, if several jobs were in it and some have no end yet."""
        overrides = [
            [
                *verdict.point.overrides,
                quoted("hydra.sweep.dir", str(self._folder)),
                quoted("hydra.sweep.subdir", self._places[verdict.point.number]),
            ]
            for verdict in batch
        ]
        try:
            with _quiet():
                returned: Sequence[Any] = launcher.launch(overrides, initial_job_idx=_Numbers.of(batch))
        except (KeyboardInterrupt, SystemExit) as end:
            text = "Interrupted." if isinstance(end, KeyboardInterrupt) else "The job was asked to stop."
            for verdict in batch:
                if self._status(verdict) == job.RUNNING and job.state(self._of(verdict))["status"] != job.RUNNING:
                    job.fail(self._of(verdict), text, status=job.STOPPED)
            raise
        except Exception as error:
            waited = _waited(error)
            if waited is None and len(batch) > 1:
                return error
            returned = waited or ()
            if waited is None:
                self._blame(batch, error)
        for verdict, one in zip(batch, returned, strict=False):
            if isinstance(one, JobReturn):
                self._returns[verdict.point.number] = one
            elif isinstance(one, Exception):
                self._blame([verdict], one)
        self._settle(batch)
        return None

    def _blame(self, batch: Sequence[Judged], error: Exception) -> None:
        """Write the launcher's error where a job has no end of its own."""
        for verdict in batch:
            status, place = self._status(verdict), self._of(verdict)
            if status == job.RUNNING:
                job.fail(place, _lost(error))
            elif status not in job.FINAL:
                files.write_json(place / job.JOB, {**files.read_json(place / job.JOB), **job.described(error)})

    def _settle(self, batch: Sequence[Judged]) -> None:
        """The end of jobs that could not write it, or whose end the launcher knows better."""
        for verdict in batch:
            place, one = self._of(verdict), self._returns.get(verdict.point.number)
            if self._status(verdict) in job.FINAL:
                continue
            if one is not None and one.status == JobStatus.FAILED:
                self._blame([verdict], one._return_value)
            elif one is not None and one.status == JobStatus.COMPLETED:  # its folder is on a disk of another machine
                found = {"status": job.COMPLETED, "returned": job.plain(one.return_value)}
                files.write_json(place / job.JOB, {**files.read_json(place / job.JOB), **found})
            else:
                job.fail(place, "The launcher returned nothing for this job.")


def _batches(
    todo: Sequence[Judged], config: DictConfig, factory: LauncherFactory
) -> Iterator[tuple[Launcher, Sequence[Judged], str]]:
    """(launcher, points for one call of it, what to say of it), in order of the first point of each shape.

    Hydra resolves hydra.launcher once, from the sweep's own config: points with other settings get a launcher of their own.
    """
    most = OmegaConf.select(config, "hydra.sweeper.max_batch_size")
    for shape, verdicts in _shapes(todo, config).items():
        of_shape = _with_launcher(config, verdicts[0].launcher, {key for key, _ in shape.launcher})
        size, at_once, why = len(verdicts) if most is None else int(most), None, ""
        if _target(config).startswith(BASIC):
            size = 1
        elif _target(config).startswith(JOBLIB):
            at_once, why = _n_jobs(of_shape, shape.ranks)
        elif _target(config).startswith(SUBMITIT) and _target(config).endswith("LocalLauncher"):
            at_once, why = _holds(of_shape, shape.ranks)
            size = min(size, at_once or size)
        launcher = factory(of_shape)
        _record(launcher)
        name = type(launcher).__name__
        for start in range(0, len(verdicts), size):
            batch = verdicts[start : start + size]
            how = f"{name}: {len(batch)} job{'s' if len(batch) > 1 else ''}"
            how += f", {min(at_once, len(batch))} at once{why}" if at_once else ""
            yield launcher, batch, "" if _is(launcher, BASIC) else how


def _shapes(todo: Sequence[Judged], config: DictConfig) -> dict[_Shape, list[Judged]]:
    if _target(config).startswith(BASIC):
        return {_Shape((), None): list(todo)} if todo else {}  # it has no settings, and runs one after another
    own = _plain(config.hydra.launcher, resolve=False)
    resolved = _plain(config.hydra.launcher, resolve=True)
    found: dict[_Shape, list[Judged]] = {}
    for verdict in todo:
        of_point = verdict.launcher.items()
        differs = {key: value for key, value in of_point if value not in (own.get(key), resolved.get(key))}
        shape = _Shape(tuple((key, repr(value)) for key, value in sorted(differs.items())), verdict.ranks)
        found.setdefault(shape, []).append(verdict)
    return found


def _plain(node: Any, *, resolve: bool) -> dict[str, Any]:
    try:
        plain: Any = OmegaConf.to_container(node, resolve=resolve)
    except OmegaConfBaseException:  # a value of a job's own
        plain = OmegaConf.to_container(node, resolve=False)
    return dict(plain)


def _with_launcher(config: DictConfig, launcher: Mapping[str, Any], keys: set[str]) -> DictConfig:
    changed = copy.deepcopy(config)
    OmegaConf.copy_cache(from_config=config, to_config=changed)
    with folders.opened_for_writing(changed):
        for key in keys:
            changed.hydra.launcher[key] = launcher[key]
    return changed


def _target(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "hydra.launcher._target_", default=""))


def _is(launcher: Launcher, module: str) -> bool:
    return type(launcher).__module__.startswith(module)


def _record(launcher: Launcher) -> None:
    """Have every job leave job.json in its folder. All of Hydra's launchers keep the task function under this name."""
    task = launcher.task_function  # type: ignore[attr-defined]
    launcher.task_function = job.Recorded(task, to_file=_is(launcher, JOBLIB))  # type: ignore[attr-defined]


def _n_jobs(config: DictConfig, ranks: int | None) -> tuple[int, str]:
    """Set joblib's n_jobs to what this machine holds, if more was asked; -> (it, why). Negative ones count from the cores."""
    asked, cores = int(config.hydra.launcher.n_jobs), len(os.sched_getaffinity(0))
    found = asked if asked > 0 else max(1, cores + 1 + asked)
    most, why = _holds(config, ranks)
    if most is None or most >= found:
        return found, ""
    with folders.opened_for_writing(config):
        config.hydra.launcher.n_jobs = most
    return most, why


def _holds(config: DictConfig, ranks: int | None) -> tuple[int | None, str]:
    """How many jobs of `ranks` ranks this machine holds at once, and why; None if no rule knows their ranks.

    GPUs are not divided between jobs: where they are used, one job has them all.
    """
    where, limit = (OmegaConf.select(config, f"launch.{name}") for name in ("where", "max_ranks"))
    if not ranks or where not in (None, "local"):
        return None, ""
    platform = Platform(name=OmegaConf.select(config, "platform.name"))
    request = Request(launch=Launch(max_ranks=limit), platform=platform)
    if not preflight.on_cpu(request):
        return 1, ": jobs do not share GPUs"
    most, why = preflight.max_ranks(request)
    return max(1, most // ranks), f", of {ranks} ranks each: {why}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Launchers announce every call, with numbers of that call; the sweep's own lines say more."""
    logs = [logging.getLogger(name) for name in (BASIC, JOBLIB, SUBMITIT)]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


def _pool_broke(error: Exception) -> bool:
    """Whether joblib's pool lost a worker; any other error of one job makes it end the others as well."""
    return any(kind.__name__ in ("TerminatedWorkerError", "BrokenProcessPool") for kind in type(error).__mro__)


def _lost(error: Exception) -> str:
    """What is known of a job that began and left no end, when its launcher gave up."""
    codes = [line.strip() for line in str(error).splitlines() if "exit code" in line]  # joblib says them in one line
    said = codes[0] if codes else f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return f"The process of this job ended without a result: crashed, killed or out of memory. {said}"


def _waited(error: Exception) -> list[Any] | None:
    """Of submitit's launcher, which raises at the first job that did not return: what all of its jobs came to.

    The others still run then; this waits for them. None for any other launcher.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(SUBMITIT) and "jobs" in frame.f_locals:
            return [_result(one) for one in frame.f_locals["jobs"]]
    return None


def _result(submitted: Any) -> Any:
    try:
        submitted.wait()
        if not submitted.paths.result_pickle.exists():
            submitted._results_timeout_s = 0  # submitit waited for the first one that is missing: 15 s a job
        return submitted.results()[0]
    except Exception as error:
        return error
