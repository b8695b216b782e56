"""Running a `hydra.main` function as a command: mistakes end in a message and an exit code, not in a traceback."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from hydra._internal import utils
from omegaconf import DictConfig, OmegaConf

from ..errors import REFUSED, USAGE, HydraOverlapError, disk_full, raised_from
from . import budgets, enforce
from .unreadable import unreadable_in

if TYPE_CHECKING:
    from .hydra_errors import Mistake

INTERRUPTED = 130  # 128 + SIGINT, as shells say it

SAVED = ("config.yaml", "hydra.yaml", "overrides.yaml")  # what Hydra writes before it calls a job


def cli(main: Callable[[], Any], *, own_nodes_only: bool = False) -> None:
    """Run `main`, decorated with `hydra.main`, as a command.

    own_nodes_only: the app has no nodes but ours, and one more is a mistake, under `--cfg job` as well.
    Whatever a user can cause is printed as what, where, why, fix and source. Exit codes: 0 fine, 1 refused, 2 usage,
    130 interrupted. Anything else is a bug, of ours or of the job, and keeps its traceback; HYDRA_FULL_ERROR=1 shows
    the traceback of a refusal as well.
    """
    try:
        with _errors_raised(), budgets.bounded(), enforce.closed() if own_nodes_only else nullcontext():
            budgets.require_short(sys.argv[1:])
            main()
        sys.stdout.flush()
    except SystemExit as end:
        if end.code == USAGE:  # argparse has said its word on a flag that is none of Hydra's
            _tell_foreign_flags()
        raise
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(_report(error, getattr(main, "__wrapped__", main).__code__))


def _tell_foreign_flags() -> None:
    """What flags of another program on the command line mean here, if they mean anything."""
    from . import hydra_errors

    if found := hydra_errors.foreign_flags(sys.argv[1:]):
        print(f"\n{found}", file=sys.stderr)


def _report(error: Exception, task: CodeType) -> int:
    """Print what went wrong; -> the exit code. task: the code of the decorated function."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    job = next((frame for frame in reversed(frames) if _runs_job(frame)), None)
    in_task = any(frame.f_code is task for frame in frames)
    if isinstance(error, BrokenPipeError) and not in_task:  # whoever read our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    from . import hydra_errors

    refusal = raised_from(error, HydraOverlapError) or unreadable_in(error)
    mistake = None if refusal or in_task else hydra_errors.explain(error, sys.argv[1:])
    told = refusal or disk_full(error) or mistake
    if told is None:
        _print_traceback(error, job)
        return REFUSED
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    with suppress(OSError):  # tidying up is a courtesy; the refusal is what counts
        _remove_what_hydra_wrote(frames)
    _show(told)
    return told.exit_code


def _show(told: "HydraOverlapError | Mistake") -> None:
    """On standard error, in colours where it is a terminal; of a job's ranks, once."""
    from ..launch.told_once import shortened
    from ..screen import make_console, print_told

    rules = ", ".join(dict.fromkeys(finding.rule for finding in told.findings)) or told.headline
    instead = shortened(str(told), rules)
    if instead is None:
        print_told(told, make_console(stderr=True))
    elif instead:
        print(instead, file=sys.stderr)


def _runs_job(frame: FrameType) -> bool:
    """Whether this is the function in which Hydra calls a job: `run_job` in 1.3, `_run_job` in 1.4."""
    inside = frame.f_globals.get("__name__") == "hydra.core.utils" and "config" in frame.f_locals
    return inside and frame.f_code.co_name.lstrip("_") == "run_job"


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Let Hydra raise what it would print and exit on.

    It does so for HYDRA_FULL_ERROR=1, but every rank would inherit that variable. Should a later Hydra ask in another
    way, it prints its own text, still without a traceback.
    """
    original = getattr(utils, "_is_env_set", None)
    if original is None:
        yield
        return
    utils._is_env_set = lambda name: name == "HYDRA_FULL_ERROR" or original(name)
    try:
        yield
    finally:
        utils._is_env_set = original


def _print_traceback(error: Exception, job: FrameType | None) -> None:
    """The traceback of a bug; of one in the job, from the job on, as Hydra shows it."""
    shown = error.__traceback__
    if os.environ.get("HYDRA_FULL_ERROR") != "1" and job is not None:
        while shown is not None and shown.tb_frame is not job:
            shown = shown.tb_next
        shown = shown.tb_next if shown is not None and shown.tb_next is not None else error.__traceback__
    traceback.print_exception(type(error), error, shown)


def _remove_what_hydra_wrote(frames: list[FrameType]) -> None:
    """Take away what Hydra wrote for a job or sweep that was refused before it started anything; never anything else.

    frames: of the error. Only Hydra's own functions know where they wrote, once Hydra has cleaned up.
    """
    job = next((frame for frame in reversed(frames) if _runs_job(frame)), None)
    if job is not None:
        _remove_job(job.f_locals["config"])
        return
    for frame in frames:  # BasicSweeper.sweep writes its config, and then judges every job before the first starts
        if (
            frame.f_code.co_name == "sweep"
            and frame.f_locals.get("initial_job_idx") == 0
            and "sweep_dir" in frame.f_locals
        ):
            folder = Path(frame.f_locals["sweep_dir"]).absolute()
            (folder / "multirun.yaml").unlink(missing_ok=True)
            _remove_empty(folder)


def _remove_job(config: DictConfig) -> None:
    """config: what `run_job` ran with."""
    if OmegaConf.is_missing(config.hydra.runtime, "output_dir"):
        return  # refused before there was one
    output = Path(config.hydra.runtime.output_dir)
    from ..launch.plan import FILE_NAME

    if (output / FILE_NAME).exists():
        return  # ranks were started: this is the record of a run that failed
    for log in _logs(config):
        if log.is_file() and log.stat().st_size == 0:
            log.unlink()
    if config.hydra.output_subdir is not None:
        saved = output / config.hydra.output_subdir
        for name in SAVED:
            (saved / name).unlink(missing_ok=True)
        if saved.is_dir() and not any(saved.iterdir()):
            saved.rmdir()
    _remove_empty(output)


def _remove_empty(folder: Path) -> None:
    """The folder, if it is empty, and then those above it, up to the one we are in."""
    for empty in (folder, *(parent for parent in folder.parents if Path.cwd() in parent.parents)):
        if not empty.is_dir() or any(empty.iterdir()):
            return
        empty.rmdir()


def _logs(config: DictConfig) -> list[Path]:
    """The files the job's loggers write."""
    settings: Any = OmegaConf.to_container(config.hydra.job_logging, resolve=True)
    handlers = (settings or {}).get("handlers") or {}
    return [Path(handler["filename"]) for handler in handlers.values() if handler and handler.get("filename")]
