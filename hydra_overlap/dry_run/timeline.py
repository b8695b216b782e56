"""When each stage of a pipeline does what, in units of time: the recorded order of works under a simple model. Pure.

The order is megatron-core's own. The clock is a model: a forward of one microbatch through one chunk takes one unit, a
backward two, sending and reducing nothing. So it shows the bubble of the schedule, not of unequal stages or slow links.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import HydraOverlapError
from .collectives import Call, Event, Work

UNITS = {"forward": 1, "backward": 2}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A work in its place. Times in units from the start of the step."""

    work: Work
    stage: int
    start: int

    @property
    def end(self) -> int:
        """Start of what follows at the earliest."""
        return self.start + UNITS[self.work.kind]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A call over data-parallel ranks, where its stage makes it."""

    call: Call
    stage: int
    time: float
    """In units; calls within a work are spread over it in their order."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One step of all stages."""

    slots: tuple[tuple[Slot, ...], ...]
    """By stage, in order."""
    marks: tuple[Mark, ...]
    length: int
    """Units until the last stage is done with its works."""

    @property
    def stages(self) -> int:
        """Of the pipeline."""
        return len(self.slots)

    @cached_property
    def chunks(self) -> int:
        """Model chunks of each stage."""
        return 1 + max(slot.work.chunk for slot in self.slots[0])

    @cached_property
    def ideal(self) -> int:
        """Units of work of one stage, the same on all."""
        return sum(UNITS[slot.work.kind] for slot in self.slots[0])

    @property
    def bubble(self) -> float:
        """Idle time by ideal time, as Narayanan et al. 2021 (arXiv:2104.04473, section 2.2) define it."""
        return self.length / self.ideal - 1


def timeline(stages: Sequence[Sequence[Event]]) -> Timeline:
    """Each work as early as its stage and what it waits for allow. stages: what one rank of each did, in order.

    Raises HydraOverlapError if works wait for each other forever.
    """
    orders = [[one for one in events if isinstance(one, Work)] for events in stages]
    chunks = 1 + max(work.chunk for work in orders[0])
    ends: dict[tuple[str, int, int, int], int] = {}
    placed: list[list[Slot]] = [[] for _ in stages]
    progress = True
    while progress:
        progress = False
        for stage, order in enumerate(orders):
            for work in order[len(placed[stage]) :]:
                before = waits_for(work, stage, len(stages), chunks)
                if before is not None and before not in ends:
                    break
                free = placed[stage][-1].end if placed[stage] else 0
                slot = Slot(work=work, stage=stage, start=max(free, 0 if before is None else ends[before]))
                placed[stage].append(slot)
                ends[work.kind, stage, work.chunk, work.microbatch] = slot.end
                progress = True
    if any(len(done) < len(order) for done, order in zip(placed, orders, strict=True)):
        raise HydraOverlapError("The recorded pipeline schedule waits for itself; please report this plan.")
    marks = [mark for stage, events in enumerate(stages) for mark in _marks(stage, events, placed[stage])]
    return Timeline(
        slots=tuple(tuple(done) for done in placed),
        marks=tuple(marks),
        length=max(done[-1].end for done in placed),
    )


def waits_for(work: Work, stage: int, stages: int, chunks: int) -> tuple[str, int, int, int] | None:
    """(kind, stage, chunk, microbatch) of the work that hands over to this one; None at the first forward.

    A microbatch goes through chunk 0 of all stages, then chunk 1 of all stages; backward the other way round.
    """
    step = -1 if work.kind == "forward" else 1
    other, chunk = stage + step, work.chunk
    if not 0 <= other < stages:
        other, chunk = other % stages, chunk + step
    if 0 <= chunk < chunks:
        return (work.kind, other, chunk, work.microbatch)
    return None if work.kind == "forward" else ("forward", stage, work.chunk, work.microbatch)


def _marks(stage: int, events: Sequence[Event], slots: Sequence[Slot]) -> list[Mark]:
    found, done = [], 0
    for event in events:
        if isinstance(event, Work):
            slot, done = slots[done], done + 1
            for number, call in enumerate(event.calls):
                if call.dimension == "DP":
                    at = slot.start + UNITS[event.kind] * (number + 1) / len(event.calls)
                    found.append(Mark(call=call, stage=stage, time=at))
        elif event.dimension == "DP":
            found.append(Mark(call=event, stage=stage, time=slots[done - 1].end if done else 0))
    return found


def windows(line: Timeline, room: int) -> list[tuple[int, int]]:
    """(from, to) in units of what to show: all of it, or its two ends, which together take about `room` units."""
    if line.length <= room:
        return [(0, line.length)]
    return [(0, room // 2), (line.length - room // 2, line.length)]


def summary(line: Timeline) -> str:
    """The bubble in one sentence."""
    if line.stages == 1:
        return "one stage: no pipeline, no bubble"
    microbatches = 1 + max(slot.work.microbatch for slot in line.slots[0])
    kind = f"interleaved, {line.chunks} chunks a stage" if line.chunks > 1 else "1F1B"
    idle = line.length - line.ideal
    return (
        f"{kind}, {line.stages} stages, {microbatches:,} microbatches: bubble {line.bubble:.2%} of the work, {idle:,} of "
        f"{line.length:,} units idle on every stage"
    )
