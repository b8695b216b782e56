"""How far a sweep is: done, running, failed, time left. One line between jobs that own the terminal, a live one otherwise."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from .. import files
from . import job
from .judge import Judged

LOOK_S = 0.5  # seconds between two looks into the folders of running jobs


class Line:
    """Counts of one sweep. total: jobs that are to run now; those finished before are not in it."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._began = time.monotonic()
        self._ended: Counter[str] = Counter()
        self._told: set[str] = set()  # reasons whose whole text was printed

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(Text(f"\n{text}"), soft_wrap=True)

    def before(self, verdict: Judged) -> None:
        """One line before a job that writes to this terminal itself, with a progress bar of its own."""
        number = sum(self._ended.values()) + 1
        self._rule(f"job {number} of {self._total}  {described(verdict)}", self.text())

    def after(self, verdict: Judged, state: Mapping[str, Any]) -> None:
        """How a job ended: one line, and below it the whole text of a failure that was not told before."""
        self._ended[state.get("status", job.FAILED)] += 1
        text, reason = (state.get("traceback") or state.get("error") or "").rstrip(), job.reason(state)
        tell = state.get("status") == job.FAILED and text.strip() != reason and reason not in self._told
        self._console.print(outcome(verdict, state, why=not tell), soft_wrap=True)
        if tell:
            self._told.add(reason)
            self._console.print(Text(text, style="red"), soft_wrap=True)

    def text(self, running: int = 0) -> str:
        """`3 done, 2 running, 1 failed, about 4 min left`, of what is not 0."""
        done, failed = self._ended[job.COMPLETED], sum(self._ended.values()) - self._ended[job.COMPLETED]
        parts = [
            f"{count} {what}" for count, what in ((done, "done"), (running, "running"), (failed, "failed")) if count
        ]
        ended, left = done + failed, self._total - done - failed
        if ended and left:
            parts.append(f"about {_duration((time.monotonic() - self._began) / ended * left)} left")
        return ", ".join(parts)

    @contextmanager
    def watching(self, folders: Mapping[int, Path], verdicts: Mapping[int, Judged]) -> Iterator[None]:
        """A live line about jobs that run elsewhere, from what they leave in their folders; plain lines without a terminal."""
        over = threading.Event()
        columns = (
            SpinnerColumn(),
            TextColumn("sweep"),
            MofNCompleteColumn(),
            BarColumn(30),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True) as live:
            shown = live.add_task("", total=self._total, completed=sum(self._ended.values()))
            watcher = threading.Thread(
                target=self._watch, args=(dict(folders), verdicts, over, live, shown), daemon=True
            )
            watcher.start()
            try:
                yield
            finally:
                over.set()
                watcher.join()

    def _watch(
        self,
        waiting: dict[int, Path],
        verdicts: Mapping[int, Judged],
        over: threading.Event,
        live: Progress,
        shown: TaskID,
    ) -> None:
        while waiting:
            last = over.wait(LOOK_S)
            running = 0
            for number, folder in list(waiting.items()):
                said = files.read_json(folder / job.JOB).get(
                    "status"
                )  # its own word: one whose worker died may run again
                if said in job.FINAL:
                    del waiting[number]
                    self.after(verdicts[number], job.state(folder))
                running += said == job.RUNNING
            live.update(shown, completed=sum(self._ended.values()), description=self.text(running))
            if last:
                return

    def _rule(self, title: str, rest: str) -> None:
        if self._console.is_terminal:
            self._console.print()
            self._console.rule(Text.assemble((title, "bold"), f"  {rest}" if rest else ""), align="left")
        else:
            self._console.print(Text(f"\n== {title}{f'  ({rest})' if rest else ''}"), soft_wrap=True)


def described(verdict: Judged) -> str:
    """`#3 baseline  comm_overlap=dp parallelism=tp2`."""
    point = verdict.point
    swept = " ".join(f"{key}={value}" for key, value in point.swept.items()) or " ".join(point.overrides)
    return "  ".join(part for part in (f"#{point.number}", point.name, swept) if part)


def outcome(verdict: Judged, state: Mapping[str, Any], *, why: bool = True) -> Text:
    """`#3 completed in 12 s: 41.0 ms a step, 12,345 tokens/s`, `#3 failed: Rank 1 failed first ...`."""
    status = state.get("status", job.FAILED)
    number = Text(f"#{verdict.point.number} ")
    took = f" in {_duration(state['seconds'])}" if state.get("seconds") is not None else ""
    if status == job.COMPLETED:
        figures = ", ".join(
            _figures(state.get("result") or {}) if state.get("result") else _returned(state.get("returned"))
        )
        return Text.assemble(number, (f"completed{took}", "green"), f": {figures}" if figures else "")
    return Text.assemble(number, (f"{status}{took}", "bold red"), f": {job.reason(state)}" if why else "")


def _figures(result: Mapping[str, Any]) -> Iterator[str]:
    step, tokens, loss = result.get("step_ms"), result.get("tokens_per_s"), result.get("loss")
    if step:
        yield f"{step['median']:.1f} ms a step"
    if tokens:
        yield f"{tokens:,.0f} tokens/s"
    if loss and loss.get("final") is not None:
        yield f"loss {loss['final']:.4f}"


def _returned(returned: Any) -> Iterator[str]:
    """The numbers a job of another app returned, a few of them."""
    if isinstance(returned, Mapping):
        numbers = [(name, value) for name, value in returned.items() if isinstance(value, (int, float))]
        yield from (f"{name} {value:.6g}" for name, value in numbers[:4])
    elif isinstance(returned, (int, float)):
        yield f"{returned:.6g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
