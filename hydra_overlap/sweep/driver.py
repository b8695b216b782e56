"""One sweep from its overrides to its results: what the sweeper plugin does, in the order in which it happens."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ..compose.extract import IN_THE_JOBS
from ..screen import make_console
from ..suggest import nearest
from .composer import Composer
from .errors import SweepError
from .judge import Judged, judge_all
from .plan_table import headline, print_plan
from .points import Points, points

CHOICES = {"on_invalid": ("skip", "refuse"), "on_duplicate": ("merge", "run")}
REASONS = 8  # most common ones that an error names
SLOW = 200  # points from which on judging takes long enough for a line that shows how far it is


class SweeperPlugin(Protocol):
    """What Hydra handed to the sweeper plugin."""

    settings: dict[str, Any]
    hydra_context: HydraContext | None
    task_function: TaskFunction | None
    config: DictConfig | None


def sweep(arguments: Sequence[str], *, sweeper: SweeperPlugin) -> Any:
    """Judge every point, print the plan, run what is left; -> what the jobs returned, None if nothing was to run.

    arguments: task overrides of the command line. Raises SweepError where the sweep makes no sense or nothing is left.
    """
    context, config, settings = sweeper.hydra_context, sweeper.config, sweeper.settings
    assert context is not None and config is not None and sweeper.task_function is not None
    task_function = sweeper.task_function
    _require_choices(settings)
    console = make_console()
    grid = _points(arguments, settings, context)
    if not grid.swept:
        console.print("Nothing is swept: one point. To sweep a key, write KEY=A,B or KEY=range(START,STOP).")
    judged = _judge(grid, Composer(context.config_loader, config), console)
    merged = settings["on_duplicate"] == "merge"
    print_plan(judged, console, whole=grid.whole, merged=merged)
    _require_something(judged, settings["on_invalid"])
    if not merged:
        judged = [dataclasses.replace(verdict, same_as=None) for verdict in judged]
    _require_folders([verdict for verdict in judged if verdict.identity and verdict.same_as is None])
    if settings["plan_only"]:
        console.print("\nhydra.sweeper.plan_only=true: nothing was started.")
        return None

    def launcher_factory(of: DictConfig) -> Launcher:
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=of)

    from .execution import run

    return run(
        judged,
        config=config,
        hydra_context=context,
        task_function=task_function,
        launcher_factory=launcher_factory,
        sweep_dir=config.hydra.sweep.dir,
        resume=settings["resume"],
        console=console,
    )


def _require_choices(settings: Mapping[str, Any]) -> None:
    for name, known in CHOICES.items():
        value = settings[name]
        if value not in known:
            near = nearest(str(value), known)
            key = f"hydra.sweeper.{name}"
            fixes = [
                (f"{key}={choice}", "did you mean this?" if near else "") for choice in ((near,) if near else known)
            ]
            why = f"The choices are {', '.join(known)}."
            raise SweepError(f"Unknown value of {key}", where=[f"{key}={value}"], why=why, fixes=fixes)


def _points(arguments: Sequence[str], settings: Mapping[str, Any], context: HydraContext) -> Points:
    return points(
        arguments,
        params=_plain(settings["params"]),
        named=_plain(settings["points"]),
        zipped=_plain(settings["zip"]),
        sample=settings["sample"],
        seed=settings["seed"],
        config_loader=context.config_loader,
    )


def _plain(node: Any) -> Any:
    """A setting as plain data; interpolations in it are left to the jobs."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _judge(grid: Points, composer: Composer, console: Console) -> list[Judged]:
    if len(grid) < SLOW:
        return judge_all(grid, composer)
    with console.status(f"judging {len(grid):,} points") as status:

        def progress(done: int) -> None:
            if done % SLOW == 0:
                status.update(f"judging {len(grid):,} points: {done:,} done")

        return judge_all(grid, composer, progress=progress)


def _require_something(judged: Sequence[Judged], on_invalid: str) -> None:
    """Refuse a sweep of which nothing is left, or that asked to be refused as a whole."""
    refused = [verdict for verdict in judged if verdict.refusal is not None]
    if not refused or (on_invalid == "skip" and len(refused) < len(judged)):
        return
    first = refused[0]
    where = [
        f"{reason}: {count:,} of {len(judged):,} points" for reason, count in _reasons(refused).most_common(REASONS)
    ]
    nothing_left = len(refused) == len(judged)
    title = "No point of this sweep can run" if nothing_left else "A point of this sweep is refused"
    why = (
        headline(judged)
        if nothing_left
        else f"{headline(judged)} With hydra.sweeper.on_invalid=refuse no job runs then."
    )
    fixes = [] if nothing_left else [("hydra.sweeper.on_invalid=skip", "runs the others")]
    point = " ".join(first.point.overrides) or "(no overrides)"
    raise SweepError(title, where=where, why=why, fixes=fixes, example=f"{point}\n\n{first.refusal}")


def _require_folders(running: Sequence[Judged]) -> None:
    """Refuse jobs that would write their checkpoints into one folder."""
    jobs: dict[str, list[Judged]] = {}
    for verdict in running:
        if verdict.saves is not None:
            jobs.setdefault(verdict.saves, []).append(verdict)
    shared = {folder: those for folder, those in jobs.items() if len(those) > 1}
    if shared:
        raise SweepError(
            "Several jobs of this sweep share a checkpoint folder",
            where=[
                f"checkpoint.save={folder}: {', '.join(f'#{verdict.point.number}' for verdict in those[:REASONS])}"
                f"{', ...' if len(those) > REASONS else ''}"
                for folder, those in shared.items()
            ],
            why="The second job finds the checkpoints of the first there, and is refused or resumes from them.",
            fixes=[
                (f"checkpoint.save={IN_THE_JOBS}", "in the folder of each job"),
                ("checkpoint.save=null", "writes none"),
            ],
        )


def _reasons(refused: Sequence[Judged]) -> Counter[str]:
    return Counter(verdict.reason for verdict in refused)
