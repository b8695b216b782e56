"""How much of each rank's communication compute hid, by dimension: volume, exposed, blocking, waiting (docs/trace.md)."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from .dimensions import NONE, ORDER, dimension
from .events import Args, Event, Trace, TraceError, whole
from .intervals import Spans, Times, tails, union
from .kernels import (
    ALL_TO_ALL,
    BROADCAST,
    COMMUNICATION,
    COMPUTE,
    GATHER,
    MEMORY,
    P2P,
    PART,
    PLAIN,
    REDUCE,
    RING,
    SCATTER,
    WAITING,
    Named,
    named,
)

OPERATIONS = (
    (r".*all_?reduce.*", REDUCE), (r".*reduce_scatter.*", SCATTER), (r".*all_?gather.*", GATHER),
    (r".*all_?to_?all.*", ALL_TO_ALL), (r".*(?:send|recv|p2p|batch_isend).*", P2P), (r".*broadcast.*", BROADCAST),
)  # fmt: skip
"""Names of torch's collectives (`Collective name` in a trace), in order: `reduce_scatter` holds no `all_reduce`."""
BYTES = {
    "double": 8, "long": 8, "float": 4, "int": 4, "half": 2, "bfloat16": 2, "short": 2, "byte": 1, "char": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "unsigned char": 1,
}  # fmt: skip
ALL = "all"  # every dimension together: what two of them move at once counts once


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a dimension took of a window, ns.

    volume: time in which any of its communication ran. exposed: of it, without compute at the same time. blocking: of that,
    after which compute went on only once the communication had ended. waiting: of the volume, spent on a flag.
    """

    calls: int
    bytes: int
    volume: int
    exposed: int
    blocking: int
    waiting: int

    @property
    def hidden(self) -> float | None:
        """Share of the volume under compute, 0 to 1; None where nothing was communicated."""
        return None if not self.volume else 1 - self.exposed / self.volume


@dataclass(frozen=True, kw_only=True)
class Window:
    """A profiled step, or the whole trace (step None). compute, memory, idle: ns in which a GPU did that, or nothing."""

    step: int | None
    start: int
    end: int
    compute: int
    memory: int
    idle: int
    figures: Mapping[str, Figures]

    @property
    def length(self) -> int:
        """Nanoseconds."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one rank. unknown: names that sound like communication and that no row of the table knows, with calls.

    single: calls dropped because their group has one rank.
    """

    path: str
    rank: int | None
    windows: tuple[Window, ...]
    unknown: Mapping[str, int]
    single: int

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """Those that communicated, in order of the table; all of them together last."""
        found = {name for window in self.windows for name in window.figures}
        return tuple(name for name in (*ORDER, ALL) if name in found)

    def total(self, name: str) -> Figures:
        """The sum over windows of a dimension."""
        rows = [window.figures[name] for window in self.windows if name in window.figures]
        return Figures(**{one: sum(getattr(row, one) for row in rows) for one in Figures.__dataclass_fields__})

    @property
    def length(self) -> int:
        """Nanoseconds of all windows."""
        return sum(window.length for window in self.windows)

    def to_dict(self) -> dict[str, object]:
        """Plain data; times in ns."""
        return {
            "path": self.path, "rank": self.rank, "unknown": dict(self.unknown), "single": self.single,
            "windows": [
                {**asdict(window), "figures": {name: {**asdict(one), "hidden": one.hidden} for name, one in window.figures.items()}}
                for window in self.windows
            ],
        }  # fmt: skip


@dataclass
class _Events:
    """Events of a dimension by their number in the trace; what each adds to calls and bytes; those that only wait."""

    numbers: list[int] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


class _Communication:
    """The events of a dimension, or of all, as arrays; what they cover, and what of it compute waited for."""

    def __init__(self, parts: Sequence[_Events], clock: "_Clock", compute: Spans) -> None:
        numbers = [number for part in parts for number in part.numbers]
        self._begun, ends = clock.times(numbers)
        self._counts = np.array([pair for part in parts for pair in part.counts], np.int64).reshape(-1, 2)
        self._moved = union(self._begun, ends)
        self._tails = tails(self._begun, ends, compute)
        self._waits = clock.spans([number for part in parts for number in part.waits])

    def figures(self, start: int, end: int, compute: Spans) -> Figures:
        """Those of a window; calls and bytes count where they begin. compute: what of it lies in the window."""
        moved = self._moved.within(start, end)
        here = (self._begun >= start) & (self._begun < end)
        calls, size = self._counts[here].sum(axis=0)
        return Figures(
            calls=int(calls), bytes=int(size), volume=moved.length, exposed=moved.length - moved.shared_with(compute),
            blocking=self._tails.within(start, end).length, waiting=self._waits.within(start, end).length,
        )  # fmt: skip

    @property
    def moved(self) -> Spans:
        """When any of it ran."""
        return self._moved


def measure(trace: Trace) -> Measured:
    """The figures of a trace, by profiled step; of the whole trace where it holds no steps.

    Raises TraceError for a trace of several GPUs: what is hidden is a matter of one.
    """
    devices = {event.args.device for event in trace.gpu if event.args is not None and event.args.device is not None}
    if len(devices) > 1:
        raise TraceError(f"{trace.path} holds the work of {len(devices)} GPUs in one process. Record one rank a file.")
    clock, reader = _Clock(trace.gpu), _Reader(trace)
    compute, memory = clock.spans(reader.compute), clock.spans(reader.memory)
    parts = {name: _Communication([events], clock, compute) for name, events in reader.found.items()}
    parts[ALL] = _Communication(list(reader.found.values()), clock, compute)
    busy = _joined(compute, memory, parts[ALL].moved)
    if not len(busy.starts):
        raise TraceError(f"{trace.path} holds work of a GPU that takes no time.")
    steps: Sequence[tuple[int | None, int, int]] = trace.steps or [(None, int(busy.starts[0]), int(busy.ends[-1]))]
    windows = [_window(*step, compute, memory, busy, parts) for step in steps if step[2] > step[1]]
    if not windows:
        raise TraceError(f"{trace.path} holds profiled steps that take no time.")
    return Measured(
        path=str(trace.path),
        rank=trace.rank,
        windows=tuple(windows),
        unknown=dict(reader.unknown),
        single=reader.single,
    )


def _window(
    step: int | None,
    start: int,
    end: int,
    compute: Spans,
    memory: Spans,
    busy: Spans,
    parts: Mapping[str, _Communication],
) -> Window:
    here = compute.within(start, end)
    figures = {name: part.figures(start, end, here) for name, part in parts.items()}
    return Window(
        step=step, start=start, end=end, compute=here.length, memory=memory.within(start, end).length,
        idle=end - start - busy.within(start, end).length,
        figures={name: one for name, one in figures.items() if one.volume or one.calls},
    )  # fmt: skip


class _Clock:
    """When each event of a GPU ran, ns."""

    def __init__(self, gpu: Sequence[Event]) -> None:
        begun = np.fromiter((float(event.ts) for event in gpu), np.float64, len(gpu))
        took = np.fromiter((event.dur for event in gpu), np.float64, len(gpu))
        self._starts = np.rint(begun * 1000).astype(np.int64)
        self._ends = self._starts + np.rint(took * 1000).astype(np.int64)

    def times(self, numbers: Sequence[int]) -> tuple[Times, Times]:
        """Starts and ends of these events."""
        picked = np.array(numbers, np.int64)
        return self._starts[picked], self._ends[picked]

    def spans(self, numbers: Sequence[int]) -> Spans:
        """What these events cover."""
        return union(*self.times(numbers))


class _Reader:
    """Sorts the events of a GPU by their number: compute, memory, and communication by dimension."""

    def __init__(self, trace: Trace) -> None:
        self.compute: list[int] = []
        self.memory: list[int] = []
        self.found: dict[str, _Events] = defaultdict(_Events)
        self.unknown: dict[str, int] = defaultdict(int)
        self.single = 0
        self._collectives = trace.collectives
        self._rings, self._with_kernel = set(), set()
        named_here = [named(event.name) for event in trace.gpu]
        for event, said in zip(trace.gpu, named_here, strict=True):
            if said.kind == COMMUNICATION and event.args is not None and event.cat == "kernel":
                self._with_kernel.add(whole(event.args.external))
            if said.of_userbuffers and event.args is not None:
                self._rings.add(event.args.stream)
        for number, (event, said) in enumerate(zip(trace.gpu, named_here, strict=True)):
            if said is PLAIN:
                self.compute.append(number)
            else:
                self._take(number, event, said)

    def _take(self, number: int, event: Event, said: Named) -> None:
        host = self._said_by_the_host(event)
        kind, operation, where = said.kind, said.operation, said.dimension
        if said.payload and event.args is not None:
            if event.args.stream in self._rings:  # what userbuffers exchange goes by copy engine
                kind, operation, where = COMMUNICATION, RING, "TP"
            elif host is not None and whole(event.args.external) not in self._with_kernel:
                kind, operation = COMMUNICATION, ""  # a collective of NCCL's copy engines: it has no kernel
        if kind in (COMMUNICATION, WAITING):
            self._communicated(number, kind == WAITING, operation, where, host)
        elif kind == MEMORY:
            self.memory.append(number)
        else:
            assert kind in (COMPUTE, PART)
            self.compute.append(number)
            if said.suspect:
                self.unknown[event.name] += 1

    def _said_by_the_host(self, event: Event) -> Args | None:
        """The collective that launched an event: written beside it, or of the host's event with its id."""
        if event.args is None:
            return None
        if event.args.collective is not None:
            return event.args
        number = whole(event.args.external)
        return None if number is None else self._collectives.get(number)

    def _communicated(self, number: int, waiting: bool, operation: str, where: str, host: Args | None) -> None:
        if host is not None and whole(host.group_size) == 1:
            self.single += 1
            return
        said = _operation(host) or operation
        name = where or (dimension(host.group or "", said) if host is not None else NONE)
        events = self.found[name]
        events.numbers.append(number)
        if waiting:
            events.waits.append(number)
        again = host is not None and id(host) in events.seen  # a collective of several kernels is one call
        if host is not None:
            events.seen.add(id(host))
        size = _bytes(host, said) if host is not None else 0
        events.counts.append((0, 0) if again or waiting else (1, size))


def _operation(host: Args | None) -> str:
    text = "" if host is None or host.collective is None else host.collective.lower()
    return next((operation for pattern, operation in OPERATIONS if re.fullmatch(pattern, text)), "") if text else ""


def _bytes(host: Args, operation: str) -> int:
    """Bytes of the whole tensor, as in nccl-tests: what an all-gather gives, what anything else takes."""
    count = whole(host.received if operation == GATHER else host.sent)
    return (count or 0) * BYTES.get((host.dtype or "").lower(), 0)


def _joined(*spans: Spans) -> Spans:
    return union(np.concatenate([one.starts for one in spans]), np.concatenate([one.ends for one in spans]))
