"""What a run shows and keeps. Rank 0 alone writes: a progress line, metrics.jsonl, TensorBoard, manifest.json."""

import dataclasses
import json
import math
import platform
import statistics
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .._version import __version__
from ..plan import Plan

METRICS, MANIFEST = "metrics.jsonl", "manifest.json"
WARM_UP = 5  # steps left out of the median step time; the first ones allocate
MIN_COUNTED = 10  # steps; a median of fewer is not reported
DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "hydra-core", "omegaconf")


def write_manifest(plan: Plan, readback: Mapping[str, Any]) -> Path:
    """Everything needed to tell what ran: versions, command line, config, ledger, environment as re-read."""
    manifest = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"hydra-overlap": __version__, "python": platform.python_version(), **installed_versions()},
        "command": [Path(sys.argv[0]).name, *plan["overrides"]],
        "overrides": plan["overrides"],
        "config": plan["config"],
        "ledger": plan["resolution"]["ledger"],
        "findings": plan["resolution"]["findings"],
        "settings": {
            name: plan["resolution"][name]
            for name in ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env")
        },
        "rehearsal": plan["rehearsal"],
        "readback": dict(readback),
    }
    path = Path(plan["output_dir"], MANIFEST)
    path.write_text(json.dumps(manifest, indent=1))
    return path


def installed_versions() -> dict[str, str | None]:
    """Versions of what a run depends on; None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


class RunReport:
    """Progress and logs of one run; a context manager. Other ranks use `SilentReport`."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._steps: list[Any] = []
        self._total = plan["request"]["training"]["train_iters"]
        self._interval = plan["request"]["training"]["log_interval"]
        self._folder = Path(plan["output_dir"])

    def __enter__(self) -> "RunReport":
        from torch.utils.tensorboard import SummaryWriter

        self._file = (self._folder / METRICS).open("w")
        self._board = SummaryWriter(str(self._folder / "tensorboard"))
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(30),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
            redirect_stderr=False,  # warnings of torch and megatron-core stay in the rank's log
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._file.close()
        self._board.close()

    def step(self, record: Any) -> None:
        """Log one StepRecord."""
        values = dataclasses.asdict(record)
        self._steps.append(record)
        self._file.write(json.dumps({name: None if _nan(value) else value for name, value in values.items()}) + "\n")
        self._file.flush()
        for name in ("loss", "grad_norm", "learning_rate", "step_ms", "tokens_per_s"):
            self._board.add_scalar(name, values[name], record.step)
        text = (
            f"loss {record.loss:.4f}  grad norm {record.grad_norm:.3f}  lr {record.learning_rate:.2e}  "
            f"{record.step_ms:.0f} ms  {record.tokens_per_s:,.0f} tokens/s"
        )
        if record.skipped:
            text += "  update skipped (overflow)"
        self._progress.update(self._task, advance=1, description=text)
        last = record.step in (1, self._total)
        if not self._console.is_terminal and (last or record.step % self._interval == 0):
            self._console.print(f"step {record.step}/{self._total}  {text}", soft_wrap=True)

    def summary(self) -> None:
        """The last lines: what the loss did, how long steps took, where everything lies."""
        if not self._steps:
            self._console.print(f"\nno step left to take: training.train_iters={self._total}")
            return
        first, last = self._steps[0], self._steps[-1]
        self._console.print(f"\nloss {first.loss:.4f} -> {last.loss:.4f} nats per token in {len(self._steps)} steps")
        self._console.print(
            step_time([record.step_ms for record in self._steps], rehearsal=bool(self._plan["rehearsal"]))
        )
        self._console.print(f"manifest, {METRICS}, tensorboard and rank logs in {self._folder}", soft_wrap=True)


def step_time(times_ms: list[float], *, rehearsal: bool) -> str:
    """Median and spread after warm-up; a rehearsal's are labelled as such."""
    counted = times_ms[WARM_UP:]
    if len(counted) < MIN_COUNTED:
        return f"step time: not reported, {len(counted)} steps after {WARM_UP} of warm-up ({MIN_COUNTED} needed)"
    low, median, high = statistics.quantiles(counted, n=4)
    label = "; CPU rehearsal, says nothing about a GPU" if rehearsal else ""
    return f"step time: median {median:.0f} ms (quartiles {low:.0f} to {high:.0f}; {len(counted)} steps, {WARM_UP} discarded{label})"


class SilentReport:
    """The report of ranks other than 0."""

    def __enter__(self) -> "SilentReport":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, record: Any) -> None:
        """Nothing."""

    def summary(self) -> None:
        """Nothing."""


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
