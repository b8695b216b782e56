"""report.html: the results of a sweep on one page that needs no network. Plots where matplotlib is installed."""

import io
import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from .. import _version, commands, quoting
from ..findings import visible
from . import job
from .results import MERGED, NOT_RUN, ORDER, REFUSED, Effect, Metric, Row, Table, effects
from .words import REHEARSED, columns, figure, label, percent, ranks, says, short_key

MOST_SHOWN = 40  # points in the first plot, the best ones

# Colours that matplotlib writes and the page's style sheet replaces, for light and dark.
INK, MUTED, POINT, BEST, GRID = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", MUTED: "--muted", POINT: "--point", BEST: "--best", GRID: "--grid"}


def render(table: Table) -> str:
    """The page report.html of a sweep's results."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hydra_overlap.sweep", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = percent
    found = effects(table)
    return environment.get_template("page.html.jinja").render(
        table=table,
        version=_version.__version__,
        command=quoting.command(table.definition["command"]),
        keys=[(key, short_key(key, table.keys)) for key in table.keys],
        named=any(row.name for row in table.rows),
        counts=[(status, table.counts[status]) for status in ORDER if table.counts[status]],
        best=table.best and says(table, table.best),
        label=lambda row: label(row, table.keys),
        columns=columns(table, table.rows),
        note=_note,
        effects=[(key, short_key(key, table.keys), rows, _plot_effect(table, rows)) for key, rows in found.items()],
        spread=_spread,
        unit=table.metric.unit or table.metric.name if table.metric else "",
        all_points=_plot_points(table),
        plots=_plots_there(),
        how_to_plot=commands.install("sweep"),
        rewrite=quoting.command(["hydra-overlap", "report", str(table.folder)]),
        rehearsed=REHEARSED,
        ranks=ranks(table),
        refused=list(_grouped([row for row in table.rows if row.status == REFUSED])),
        merged=[row for row in table.rows if row.status == MERGED],
        failed=list(_grouped([row for row in table.rows if row.status in (job.FAILED, job.STOPPED)])),
        unfinished=[row for row in table.rows if row.status in (NOT_RUN, job.RUNNING)],
    )


def _note(row: Row) -> str:
    """Beside a row: of a refused one the rules, whose sentences stand above."""
    if row.same_as is not None:
        return f"same as #{row.same_as}"
    return ", ".join(row.rules) or row.reason


def _spread(effect: Effect) -> str:
    if not effect.ratios:
        return ""
    pairs = f"{len(effect.ratios)} pair{'s' if len(effect.ratios) > 1 else ''}"
    return (
        f"{pairs}, {percent(min(effect.ratios))} to {percent(max(effect.ratios))}" if len(effect.ratios) > 1 else pairs
    )


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by reason, the most common first."""
    ordered = sorted(rows, key=lambda row: row.reason)
    groups = [(reason, list(found)) for reason, found in groupby(ordered, key=lambda row: row.reason)]
    yield from sorted(groups, key=lambda group: -len(group[1]))


def _plots_there() -> bool:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it announces its cache of fonts
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _plot_points(table: Table) -> str:
    """Every measured point, best first, with its quartiles."""
    rows, metric = table.measured[:MOST_SHOWN], table.metric
    if len(rows) < 2 or metric is None or not _plots_there():
        return ""
    labels = [visible(label(row, table.keys)) for row in rows]
    figure_, axes = _axes(0.62 + 0.27 * len(rows), labels)
    for place, row in enumerate(rows):
        found, spread = metric.of(row), metric.spread(row)
        colour = BEST if place == 0 else POINT
        if spread:
            axes.plot(spread, (place, place), color=colour, linewidth=2, alpha=0.55, solid_capstyle="round")
        axes.plot([found], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.invert_yaxis()
    beside = "; line: quartiles of its steps" if _any_spread(rows, metric) else ""
    axes.set_xlabel(f"{metric.unit or metric.name}{beside}", parse_math=False)
    return _svg(figure_, "points")


def _any_spread(rows: Sequence[Row], metric: Metric) -> bool:
    return any(metric.spread(row) for row in rows)


def _plot_effect(table: Table, rows: Sequence[Effect]) -> str:
    """Every run by its value of one key, and the median of each value."""
    shown = [row for row in rows if row.values]
    if len(shown) < 2 or table.metric is None or not _plots_there():
        return ""
    labels = [visible(row.value) for row in shown]
    figure_, axes = _axes(0.62 + 0.36 * len(shown), labels)
    for place, row in enumerate(shown):
        axes.plot(row.values, [place] * len(row.values), "o", color=POINT, markersize=5, alpha=0.6, markeredgewidth=0)
        middle = statistics.median(row.values)
        if len(row.values) > 2:
            axes.plot([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=1.6)
    axes.set_yticks(range(len(shown)), labels, parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    beside = "; bar: median" if any(len(row.values) > 2 for row in shown) else ""
    axes.set_xlabel(f"{table.metric.unit or table.metric.name}{beside}", parse_math=False)
    return _svg(figure_, rows[0].key)


def _axes(height: float, labels: Sequence[str]) -> tuple[Any, Any]:
    """A figure without a frame, wide enough for its labels. height: inches."""
    from matplotlib.figure import Figure

    left = min(4.6, 0.25 + 0.073 * max(map(len, labels)))
    drawn = Figure(figsize=(left + 4.6, height))
    axes = drawn.add_axes((left / (left + 4.6), 0.5 / height, 4.4 / (left + 4.6), 1 - 0.6 / height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0, labelsize=9)
    axes.xaxis.label.set(color=MUTED, fontsize=9)
    axes.xaxis.set_major_formatter(lambda number, _: figure(number))
    axes.locator_params(axis="x", nbins=6)
    axes.margins(x=0.04)
    return drawn, axes


def _svg(drawn: Any, salt: str) -> str:
    """The figure as an element of the page: text as text, colours as the page's. salt: tells its ids from other plots'."""
    import matplotlib

    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "svg.id": None}
    known = {name: setting for name, setting in settings.items() if name in matplotlib.rcParams}
    with matplotlib.rc_context(known), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from"
        )  # the browser's fonts draw the text, not matplotlib's
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
