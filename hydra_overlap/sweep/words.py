"""How a sweep is told, in the terminal and on the page alike: keys cut short, labels of points, figures, sentences."""

from collections.abc import Callable, Sequence
from functools import partial

from .results import BY_DEFAULT, Row, Table

COLUMNS = {"ms a step": "step_ms", "tokens/s": "tokens_per_s", "loss": "loss_final", "GiB": "peak_memory_gib"}
DRY_COLUMNS = {
    "layout": "layout",
    "memory": "verdict",
    "needs GiB": "needed_gib",
    "GiB left": "margin_gib",
    "bubble %": "bubble_percent",
}
DRY_COLUMNS |= {f"{name} GiB": f"{name.lower()}_gib" for name in ("TP", "CP", "EP", "PP", "DP")}
LEAST = 0.01  # below which a computed figure of a dry run reads `< 0.01`
REHEARSED = "CPU rehearsal: says nothing about a GPU"


def short_key(key: str, keys: Sequence[str]) -> str:
    """The end of a dotted key that tells it from the other keys."""
    parts = key.split(".")
    for start in range(len(parts) - 1, -1, -1):
        short = ".".join(parts[start:])
        if sum(other == short or other.endswith(f".{short}") for other in keys) == 1:
            return short
    return key


def says(table: Table, row: Row) -> str:
    """`41.2 ms a step (quartiles 40.1 to 44.0), 12,345 tokens/s` of one row."""
    metric = table.metric
    assert metric is not None
    text = f"{figure(metric.of(row))} {metric.unit or metric.name}"
    step = row.result.get("step_ms")
    if metric.key == "tokens_per_s" and step:
        text += f", {figure(step['median'])} ms a step"
    if step and metric.key in BY_DEFAULT:
        text += f" (quartiles {figure(step['low'])} to {figure(step['high'])} ms; {step['counted']} steps)"
    return text


def label(row: Row, keys: Sequence[str]) -> str:
    """`#5 baseline comm_overlap=dp bucket_size=null`."""
    swept = " ".join(f"{short_key(key, keys)}={text}" for key, text in row.swept.items())
    return " ".join(part for part in (f"#{row.number}", row.name, swept) if part)


def columns(table: Table, rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    """(title, row -> cell) of the figures that any of the rows has, the metric of an app's own last."""
    found: list[tuple[str, Callable[[Row], str]]] = [
        (title, partial(_cell, name))
        for title, name in (DRY_COLUMNS if table.dry else COLUMNS).items()
        if any(_cell(name, row) for row in rows)
    ]
    metric = table.metric
    if metric is not None and metric.key not in (*BY_DEFAULT, "loss", "peak_memory_gib"):
        found.append((metric.name, lambda row: figure(metric.of(row))))
    return found


def _cell(name: str, row: Row) -> str:
    found = row.figure(name)
    if isinstance(found, str):
        return found
    if found is not None and name in DRY_COLUMNS.values() and 0 < abs(found) < LEAST:
        return f"< {LEAST}"
    return figure(found)


def figure(number: float | None) -> str:
    """A number with about four digits."""
    if number is None:
        return ""
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.4g}"


def percent(ratio: float | None) -> str:
    """A ratio as its difference from one, in words: `+12.3 %`."""
    return "" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"


def ranks(table: Table) -> str:
    """A sentence where the points that ran do not have the same number of ranks."""
    found = sorted({row.ranks for row in table.measured if row.ranks})
    if len(found) < 2:
        return ""
    return f"Points have {found[0]} to {found[-1]} ranks; they are compared as whole runs, not per rank."
