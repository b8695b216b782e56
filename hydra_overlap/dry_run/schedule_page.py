"""The pipeline schedule as a picture: one HTML file that needs nothing else, an SVG of what each stage does when.

Stages are rows, microbatches numbers, model chunks colours; lines between rows are sends that were received, dashed where
they run under works; below each row, the data-parallel reduces and gathers. A long step keeps its two ends, at a size that
can be read, and says what was left out between them.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from .. import commands, files, quoting
from ..launch.plan import Plan, world_size
from .timeline import Mark, Slot, Timeline, summary, waits_for, windows

FILE_NAME = "schedule.html"
TEMPLATE = "schedule_page.html.jinja"
UNIT = 16  # px
ROW, BAR, LANE = 46, 26, 8  # px: of a stage, of its works, of its data-parallel calls
LEFT, TOP, GAP = 76, 26, 96  # px: stage names, axis, what is left out
ROOM = 480  # units shown at most
MIB = 2**20  # bytes


@dataclass(frozen=True)
class _Axis:
    """Units to px, with the middle left out."""

    shown: list[tuple[int, int]]

    def x(self, time: float) -> float | None:
        """None: not shown."""
        left = float(LEFT)
        for start, to in self.shown:
            if start <= time <= to:
                return left + (time - start) * UNIT
            left += (to - start) * UNIT + GAP
        return None

    @property
    def width(self) -> int:
        return LEFT + sum(to - start for start, to in self.shown) * UNIT + GAP * (len(self.shown) - 1) + 60


def write_schedule(plan: Plan, line: Timeline, layout: str) -> Path:
    """Write the picture into the plan's output directory; -> the file. layout: a line about it."""
    path = Path(plan.output_dir, FILE_NAME)
    files.write_text(path, page(plan, line, layout))
    return path


def page(plan: Plan, line: Timeline, layout: str) -> str:
    """The whole file."""
    environment = Environment(
        loader=PackageLoader("hydra_overlap.dry_run", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    axis = _Axis(windows(line, ROOM))
    settings = plan.resolution.transformer_config
    return environment.get_template(TEMPLATE).render(
        title=f"Pipeline schedule of {world_size(plan):,} ranks",
        summary=summary(line),
        layout=layout,
        left_out=_left_out(axis, line),
        chunks=line.chunks,
        under_works=bool(settings.get("overlap_p2p_comm")) and line.stages > 1,
        calls=_calls(line),
        data_parallel=bool(line.marks),
        svg=_drawing(line, axis, under_works=bool(settings.get("overlap_p2p_comm"))),
        command=commands.train(),
        overrides=quoting.command(plan.overrides),
    )


def _drawing(line: Timeline, axis: _Axis, *, under_works: bool) -> dict[str, Any]:
    """What the template draws: lists of shapes with their places."""
    return {
        "width": axis.width,
        "height": TOP + ROW * line.stages + 8,
        "bar": BAR,
        "lane": LANE,
        "left": LEFT,
        "rows": [{"stage": stage, "y": TOP + ROW * stage} for stage in range(line.stages)],
        "ticks": _ticks(line, axis),
        "gaps": _gaps(line, axis),
        "slots": [shape for slots in line.slots for slot in slots if (shape := _slot(slot, axis))],
        "sends": _sends(line, axis, under_works),
        "marks": _marks(line, axis),
    }


def _slot(slot: Slot, axis: _Axis) -> dict[str, Any] | None:
    x, to = axis.x(slot.start), axis.x(slot.end)
    if x is None or to is None:
        return None
    work = slot.work
    calls = Counter((call.dimension, call.operation) for call in work.calls)
    made = "".join(f"\n{times} x {dimension} {operation}" for (dimension, operation), times in sorted(calls.items()))
    return {
        "x": x,
        "y": TOP + ROW * slot.stage,
        "width": to - x - 1,
        "kind": work.kind,
        "chunk": work.chunk,
        "label": work.microbatch if len(str(work.microbatch)) * 7 < to - x else "",
        "title": f"stage {slot.stage}, chunk {work.chunk}: {work.kind} of microbatch {work.microbatch}, "
        f"units {slot.start} to {slot.end}{made}",
    }


def _sends(line: Timeline, axis: _Axis, under_works: bool) -> list[dict[str, Any]]:
    """From the end of a work to the start of the one in another stage that takes what it sent."""
    ends = {(s.work.kind, s.stage, s.work.chunk, s.work.microbatch): s for slots in line.slots for s in slots}
    found = []
    for slot in (one for slots in line.slots for one in slots):
        before = waits_for(slot.work, slot.stage, line.stages, line.chunks)
        if before is None or before[1] == slot.stage:
            continue
        sender = ends[before]
        x, to = axis.x(sender.end), axis.x(slot.start)
        if x is None or to is None or not any(a <= sender.end <= slot.start <= b for a, b in axis.shown):
            continue
        down = slot.stage > sender.stage
        found.append(
            {
                "x1": x - 1,
                "y1": TOP + ROW * sender.stage + (BAR if down else 0),
                "x2": to + 1,
                "y2": TOP + ROW * slot.stage + (0 if down else BAR),
                "kind": slot.work.kind,
                "far": abs(slot.stage - sender.stage) > 1,
                "under": under_works,
            }
        )
    return found


def _marks(line: Timeline, axis: _Axis) -> list[dict[str, Any]]:
    """Calls over data-parallel ranks; those at one place share a mark."""
    places: dict[tuple[int, float, bool, bool], list[Mark]] = {}
    for mark in line.marks:
        x = axis.x(mark.time)
        if x is not None:
            gather = mark.call.operation == "all-gather"
            places.setdefault((mark.stage, x, gather, mark.call.asynchronous), []).append(mark)
    found = []
    for (stage, x, gather, asynchronous), marks in places.items():
        size = sum(mark.call.bytes for mark in marks) / MIB
        what = f"{len(marks)} x {marks[0].call.operation}, {size:,.1f} MiB, {marks[0].call.ranks} ranks"
        found.append(
            {
                "x": x,
                "y": TOP + ROW * stage + BAR + 2,
                "gather": gather,
                "waits": not asynchronous,
                "title": f"stage {stage}: {what}, {'the stage continues' if asynchronous else 'the stage waits'}",
            }
        )
    return found


def _ticks(line: Timeline, axis: _Axis) -> list[dict[str, Any]]:
    step = 10 if line.length > 40 else 5 if line.length > 12 else 1
    times = {time for start, to in axis.shown for time in range(-(-start // step) * step, to + 1, step)}
    return [{"x": axis.x(time), "label": f"{time:,}"} for time in sorted(times)]


def _gaps(line: Timeline, axis: _Axis) -> list[dict[str, Any]]:
    if len(axis.shown) == 1:
        return []
    left = axis.x(axis.shown[0][1])
    return [{"x": left, "width": GAP, "units": f"{axis.shown[1][0] - axis.shown[0][1]:,}"}]


def _left_out(axis: _Axis, line: Timeline) -> str:
    if len(axis.shown) == 1:
        return ""
    count = axis.shown[1][0] - axis.shown[0][1]
    return f"{count:,} of {line.length:,} units, in the middle, are left out."


def _calls(line: Timeline) -> list[str]:
    """What data-parallel calls a step of the first stage makes, in words."""
    counted = Counter((mark.call.operation, mark.call.asynchronous) for mark in line.marks if mark.stage == 0)
    return [
        f"{times} {operation}{'s' if times > 1 else ''} {'under compute' if asynchronous else 'while the stage waits'}"
        for (operation, asynchronous), times in sorted(counted.items())
    ]
