"""What a run shows and keeps of its steps. Rank 0 alone writes: a progress line, metrics.jsonl, loggers."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import files
from ..launch.plan import Plan
from ..megatron.batches import BAD_STEPS, consumed
from . import loggers

METRICS = "metrics.jsonl"
WARM_UP = 5  # steps left out of the median step time; the first ones allocate
MIN_COUNTED = 10  # steps; a median of fewer is not reported
LOGGED = ("loss", "validation_loss", "grad_norm", "learning_rate", "step_ms", "tokens_per_s", "samples")


class RunReport:
    """Progress and logs of one run; a context manager. Other ranks use `SilentReport`.

    done: steps an earlier run took that this one goes on from; what it left in this directory beyond them is dropped.
    """

    def __init__(self, plan: Plan, console: Console, done: int = 0) -> None:
        self._plan, self._console, self._done = plan, console, done
        self._steps: list[Any] = []
        self._validated: list[tuple[int, float]] = []
        self._total = plan.request.training.train_iters
        self._interval = plan.request.training.log_interval
        self._folder = Path(plan.output_dir)

    def __enter__(self) -> "RunReport":
        kept = _lines_up_to(self._folder / METRICS, self._done)
        self._file = files.write_text(self._folder / METRICS, "".join(kept)).open("a")
        self._loggers = loggers.make(self._plan, self._done)
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(30),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
            redirect_stderr=False,  # warnings of torch and megatron-core stay in the rank's log
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=self._total, completed=self._done)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._file.close()
        for logger in self._loggers:
            logger.close()

    def step(self, record: Any, validation_loss: float | None = None) -> None:
        """Log one StepRecord, and the validation loss after it where there is one."""
        values = {**dataclasses.asdict(record), "validation_loss": validation_loss}
        bad = values.pop("bad")
        values = {name: None if _unsayable(value) else value for name, value in values.items()}
        self._steps.append(record)
        self._file.write(json.dumps({**values, **({"bad": bad} if bad else {})}) + "\n")
        self._file.flush()
        if bad:
            self._keep_bad_step(values, bad)
        logged = {name: values[name] for name in LOGGED if values[name] is not None}
        for logger in self._loggers:
            logger.log(record.step, logged)
        text = (
            f"loss {record.loss:.4f}  grad norm {record.grad_norm:.3f}  lr {record.learning_rate:.2e}  "
            f"{record.step_ms:.0f} ms  {record.tokens_per_s:,.0f} tokens/s"
        )
        if validation_loss is not None:
            self._validated.append((record.step, validation_loss))
            text += f"  validation {validation_loss:.4f}"
        if record.skipped:
            text += f"  update skipped ({bad['why'] if bad else 'overflow'})"
        self._progress.update(self._task, advance=1, description=text)
        last = record.step in (1, self._total)
        said = last or record.step % self._interval == 0 or validation_loss is not None or bad is not None
        if not self._console.is_terminal and said:
            self._console.print(f"step {record.step}/{self._total}  {text}", soft_wrap=True)

    def _keep_bad_step(self, values: Mapping[str, Any], bad: Mapping[str, Any]) -> None:
        """With what rebuilds its batch: `data.dataset(plan, num_samples)[n]`, the plan being plan.json."""
        request = self._plan.request
        training = request.training
        entry = {
            "step": values["step"],
            "loss": values["loss"],
            "grad_norm": values["grad_norm"],
            "action": training.on_nonfinite,
            **bad,
            "data": self._plan.data_prefix,
            "num_samples": consumed(training, training.train_iters),
            "seed": training.seed,
            "seq_length": request.model.seq_length,
        }
        with (self._folder / BAD_STEPS).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def summary(self, saving_s: float) -> None:
        """The last lines: what the loss did, how long steps took and checkpoints held them up, where everything lies."""
        if not self._steps:
            self._console.print(f"\nno step is left to take: training.train_iters={self._total}")
            return
        first, last = self._steps[0], self._steps[-1]
        self._console.print(f"\nloss {first.loss:.4f} -> {last.loss:.4f} nats per token in {len(self._steps)} steps")
        if self._validated:
            (_, before), (at, now) = self._validated[0], self._validated[-1]
            since = f"{before:.4f} -> " if len(self._validated) > 1 else ""
            self._console.print(f"validation loss {since}{now:.4f} after step {at}, on text that was not trained on")
        skipped = [record for record in self._steps if record.bad]
        if skipped:
            self._console.print(f"{len(skipped)} steps skipped for loss or gradients: {self._folder / BAD_STEPS}")
        self._console.print(step_time([record.step_ms for record in self._steps], rehearsal=bool(self._plan.rehearsal)))
        folder = self._plan.request.checkpoint.save
        if folder is not None:
            self._console.print(f"checkpoints in {folder}; training waited {saving_s:.1f} s for them", soft_wrap=True)
        names = [name for name in self._plan.request.launch.loggers if name == "tensorboard"]
        kept = ", ".join(["manifest", METRICS, *names])
        self._console.print(f"{kept} and rank logs in {self._folder}", soft_wrap=True)


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

    def step(self, record: Any, validation_loss: float | None = None) -> None:
        """Nothing."""

    def summary(self, saving_s: float) -> None:
        """Nothing."""


def _unsayable(value: Any) -> bool:
    """Whether JSON has no word for it."""
    return isinstance(value, float) and not math.isfinite(value)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Lines of an earlier metrics.jsonl for steps up to this one."""
    if not step or not path.exists():
        return []
    return [
        line + "\n" for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step
    ]
