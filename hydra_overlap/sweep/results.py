"""What a sweep found, read from its folder alone: one row a point, the best one, and what each swept key did.

What is made of it: words.py for people, outputs.py for files, results_table.py for the terminal.
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import files
from . import job
from .folder import DEFINITION

REFUSED, MERGED, NOT_RUN = "refused", "merged", "not run"
ORDER = (job.COMPLETED, MERGED, job.RUNNING, job.STOPPED, job.FAILED, REFUSED, NOT_RUN)

# Metric -> (where it stands in a run's result, whether less is better, unit). The first that was measured is compared.
METRICS: dict[str, tuple[tuple[str, ...], bool, str]] = {
    "tokens_per_s": (("tokens_per_s",), False, "tokens/s"),
    "step_ms": (("step_ms", "median"), True, "ms a step"),
    "loss": (("loss", "final"), True, "nats per token"),
    "validation_loss": (("validation_loss",), True, "nats per token"),
    "exposed_ms": (("exposed_ms",), True, "ms exposed a step"),
    "peak_memory_gib": (("peak_memory_gib",), True, "GiB"),
    "needed_gib": (("needed_gib",), True, "GiB"),
    "bubble_percent": (("bubble_percent",), True, "% of the work"),
}
DRY_FIGURES = ("layout", "needed_gib", "margin_gib", "bubble_percent", "tp_gib", "cp_gib", "ep_gib", "pp_gib", "dp_gib")
DIRECTIONS = MINIMIZE, MAXIMIZE = "minimize", "maximize"
BY_DEFAULT = ("tokens_per_s", "step_ms")
FIGURES = {
    "step_ms": ("step_ms", "median"),
    "step_ms_low": ("step_ms", "low"),
    "step_ms_high": ("step_ms", "high"),
    "steps_counted": ("step_ms", "counted"),
    "tokens_per_s": ("tokens_per_s",),
    "loss_first": ("loss", "first"),
    "loss_final": ("loss", "final"),
    "validation_loss": ("validation_loss",),
    "exposed_ms": ("exposed_ms",),
    "peak_memory_gib": ("peak_memory_gib",),
    "verdict": ("verdict",),
    **{name: (name,) for name in DRY_FIGURES},
    "mode": ("mode",),
    "world_size": ("world_size",),
    "steps": ("steps",),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One point and what became of it.

    status: completed, failed, stopped, running, refused, merged or not run. same_as: of a merged point, the one that ran
    for it, whose result it has. result: the record its run wrote. returned: what the job of another app returned.
    error: why it failed or is refused, the whole text. reason: the same in one line.
    """

    number: int
    name: str
    swept: dict[str, str]
    status: str
    same_as: int | None = None
    rules: tuple[str, ...] = ()
    reason: str = ""
    error: str = ""
    identity: str | None = None
    ranks: int | None = None
    folder: str | None = None
    seconds: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    returned: Any = None

    def figure(self, name: str) -> Any:
        """A column of the run's result, or a number that the job returned; None if there is none."""
        value: Any = self.result
        for key in FIGURES.get(name, (name,)):
            value = value.get(key) if isinstance(value, Mapping) else None
        return returned_value(self.returned, name) if value is None and not self.result else value

    @property
    def rehearsed(self) -> bool:
        """Whether its times were measured on CPU."""
        return self.result.get("mode") == "rehearsal"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What points are compared by. key: a column, or a name in what jobs returned ("" = the number itself)."""

    key: str
    less_is_better: bool
    unit: str = ""

    def of(self, row: Row) -> float | None:
        """A row's value; None if it was not measured."""
        path = METRICS[self.key][0] if self.key in METRICS else ()
        value: Any = row.result if path else returned_value(row.returned, self.key)
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None and path:
            value = returned_value(row.returned, self.key)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def spread(self, row: Row) -> tuple[float, float] | None:
        """Quartiles of a row's value, where steps were timed."""
        step = row.result.get("step_ms")
        if not step:
            return None
        if self.key == "step_ms":
            return step["low"], step["high"]
        value = self.of(row)
        if self.key == "tokens_per_s" and value and step["low"] > 0:
            return value * step["median"] / step["high"], value * step["median"] / step["low"]
        return None

    @property
    def name(self) -> str:
        """As a person reads it."""
        return self.key or "returned value"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one value of a swept key did. values: the metric of every run with it, once.

    merged: pairs in which the value makes no other run. ratios: metric over that of the run which differs in this key alone and has its first value; merged pairs left out.
    """

    key: str
    value: str
    values: tuple[float, ...]
    ratios: tuple[float, ...]
    merged: int = 0

    @property
    def median(self) -> float | None:
        """Of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The results of one sweep. keys: what was swept, in order."""

    definition: dict[str, Any]
    rows: tuple[Row, ...]
    keys: tuple[str, ...]
    metric: Metric | None
    folder: Path

    @property
    def counts(self) -> Counter[str]:
        """Status -> rows."""
        return Counter(row.status for row in self.rows)

    @property
    def dry(self) -> bool:
        """Whether its points are dry runs."""
        return any(row.result.get("mode") == job.DRY_RUN for row in self.rows)

    @property
    def shown(self) -> tuple[Row, ...]:
        """Rows as tables list them: `hydra.sweeper.sort` orders them, `hydra.sweeper.fitting` leaves out what does not fit."""
        sweeper = self.definition["sweeper"]
        rows = [
            row
            for row in self.rows
            if not sweeper.get("fitting") or not row.result or row.result.get("verdict") in ("fits", "tight")
        ]
        by = sweeper.get("sort")
        if by is not None:
            rows.sort(key=lambda row: (row.figure(by) is None, row.figure(by) or 0))
        return tuple(rows)

    @property
    def measured(self) -> tuple[Row, ...]:
        """Rows that ran and have the metric, best first; merged ones are counted with the one that ran."""
        metric = self.metric
        if metric is None:
            return ()
        found = [
            (value, row) for row in self.rows if row.status == job.COMPLETED and (value := metric.of(row)) is not None
        ]
        return tuple(row for _, row in sorted(found, key=lambda pair: pair[0] if metric.less_is_better else -pair[0]))

    @property
    def best(self) -> Row | None:
        """The best row; None if nothing was measured."""
        return self.measured[0] if self.measured else None

    @property
    def within_spread(self) -> tuple[Row, ...]:
        """Rows whose quartiles reach the best one's value: one run each does not tell them apart."""
        if self.best is None or self.metric is None:
            return ()
        best = self.metric.of(self.best)
        spreads = [(row, self.metric.spread(row)) for row in self.measured[1:]]
        return tuple(row for row, spread in spreads if spread and best is not None and spread[0] <= best <= spread[1])

    @property
    def rehearsed(self) -> bool:
        """Whether a time in it was measured on CPU."""
        return any(row.rehearsed for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1 if a job failed, 75 if one was asked to stop, else 0."""
        from ..errors import REFUSED as FAILURE
        from ..launch.stopping import REQUEUE

        return FAILURE if self.counts[job.FAILED] else REQUEUE if self.counts[job.STOPPED] else 0


def collect(folder: Path, metric: str | None = None) -> Table:
    """The results in a sweep's folder, as they stand. metric: what to compare by, in place of the sweep's own.

    Raises FileNotFoundError if there is no sweep.
    """
    definition = files.read_json(folder / DEFINITION)
    if not definition:
        raise FileNotFoundError(folder / DEFINITION)
    rows: dict[int, Row] = {}
    for point in definition["points"]:
        rows[point["number"]] = _row(point, folder, rows)
    keys = tuple(dict.fromkeys(key for row in rows.values() for key in row.swept))
    sweeper = definition["sweeper"]
    chosen = _metric(tuple(rows.values()), metric or sweeper.get("metric"), sweeper.get("direction"))
    return Table(definition=definition, rows=tuple(rows.values()), keys=keys, metric=chosen, folder=folder)


def _row(point: Mapping[str, Any], folder: Path, earlier: Mapping[int, Row]) -> Row:
    common: dict[str, Any] = {key: point[key] for key in ("number", "name", "swept", "identity", "ranks", "same_as")}
    if point["refusal"] is not None:
        why = {"reason": point["reason"], "error": point["refusal"], "rules": tuple(point["rules"])}
        return Row(status=REFUSED, **common, **why)
    if point["same_as"] is not None:
        ran = earlier[point["same_as"]]
        what = {"folder": ran.folder, "result": ran.result, "returned": ran.returned, "reason": ran.reason}
        return Row(status=MERGED if ran.status == job.COMPLETED else ran.status, **common, **what)
    state = job.state(folder / point["folder"])
    error = state.get("error") or ""
    status = state.get("status", NOT_RUN)
    status = NOT_RUN if status == job.QUEUED else status
    reason = job.reason(state)
    if status == job.COMPLETED and not state["result"] and state.get("returned") is None:
        reason = "returned nothing to compare"
    return Row(
        status=status,
        folder=point["folder"],
        seconds=state.get("seconds"),
        result=state.get("result") or {},
        returned=None if state.get("result") else state.get("returned"),
        error=state.get("traceback") or error,
        reason=reason,
        **common,
    )


def _metric(rows: Sequence[Row], asked: str | None, direction: str | None) -> Metric | None:
    """What to compare by: as asked; else the first of BY_DEFAULT that was measured, or the one number jobs returned."""
    if asked is not None:
        _, less, unit = METRICS.get(asked, ((), True, ""))
        return Metric(key=asked, less_is_better=less if direction is None else direction == MINIMIZE, unit=unit)
    for key in BY_DEFAULT:
        metric = Metric(key=key, less_is_better=METRICS[key][1], unit=METRICS[key][2])
        if any(metric.of(row) is not None for row in rows):
            return metric
    numbers = {name for row in rows for name in returned_numbers(row.returned)}
    if len(numbers) == 1:
        return Metric(key=numbers.pop(), less_is_better=direction != MAXIMIZE)
    return None


def returned_numbers(returned: Any) -> Iterator[str]:
    """Names of the numbers a job of another app returned; "" for a number itself."""
    if isinstance(returned, Mapping):
        yield from (
            name for name, value in returned.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
        )
    elif isinstance(returned, (int, float)) and not isinstance(returned, bool):
        yield ""


def returned_value(returned: Any, name: str) -> Any:
    """What a job of another app returned under a name; "" for the value itself, None if there is none."""
    if isinstance(returned, Mapping):
        return returned.get(name)
    return returned if name == "" else None


def effects(table: Table) -> dict[str, list[Effect]]:
    """Swept key -> what each of its values did, in the order they were swept; keys with one value are left out."""
    if table.metric is None:
        return {}
    found = {}
    for key in table.keys:
        values = list(dict.fromkeys(row.swept[key] for row in table.rows if key in row.swept))
        if len(values) > 1:
            found[key] = [_effect(table, key, value, values[0]) for value in values]
    return found


def _effect(table: Table, key: str, value: str, reference: str) -> Effect:
    assert table.metric is not None
    ran = {row.number: row for row in table.rows}
    pairs, merged = {}, 0
    by_others: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in table.rows:
        others = (row.name, *((name, text) for name, text in row.swept.items() if name != key))
        by_others.setdefault(others, {})[row.swept.get(key, "")] = row
    for group in by_others.values():
        if value == reference or value not in group or reference not in group:
            continue
        one, other = (
            ran[row.number if row.same_as is None else row.same_as] for row in (group[value], group[reference])
        )
        mine, theirs = table.metric.of(one), table.metric.of(other)
        if one is other:
            merged += 1
        elif mine is not None and theirs:
            pairs[one.number, other.number] = mine / theirs  # of merged points the same two runs come up again
    runs = {row.number if row.same_as is None else row.same_as for row in table.rows if row.swept.get(key) == value}
    values = [found for row in table.measured if row.number in runs and (found := table.metric.of(row)) is not None]
    return Effect(key=key, value=value, values=tuple(values), ratios=tuple(pairs.values()), merged=merged)
