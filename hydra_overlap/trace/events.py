"""Traces as torch's profiler writes them (Kineto's JSON, plain or gzip), read into what a GPU did.

Only fields that the meter needs are decoded. Anything that cannot be read raises TraceError, which says what and what to do.
"""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

LIMIT = 4 * 2**30  # bytes of JSON: beyond, decoding alone takes more memory than a login node gives
ON_A_GPU = frozenset(("kernel", "gpu_memcpy", "gpu_memset"))  # categories of Kineto
STEP = re.compile(r"ProfilerStep#(\d+)")
RANK = re.compile(r"rank[-_]?(\d+)", re.IGNORECASE)


class TraceError(ValueError):
    """A trace that cannot be read, or that holds nothing to measure; the text is one sentence or two."""


class Args(msgspec.Struct, gc=False):
    """Arguments of an event; Kineto's spelling. Numbers of some writers are strings."""

    device: int | str | None = None
    stream: int | str | None = None
    correlation: int | str | None = None
    external: int | str | None = msgspec.field(default=None, name="External id")
    collective: str | None = msgspec.field(default=None, name="Collective name")
    dtype: str | None = None
    sent: int | str | None = msgspec.field(default=None, name="In msg nelems")
    received: int | str | None = msgspec.field(default=None, name="Out msg nelems")
    group_size: int | str | None = msgspec.field(default=None, name="Group size")
    group: str | None = msgspec.field(default=None, name="Process Group Description")
    group_name: str | None = msgspec.field(default=None, name="Process Group Name")
    sequence: int | str | None = msgspec.field(default=None, name="Seq")


class Event(msgspec.Struct, gc=False):
    """An event. ts, dur: microseconds, with fractions."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float | str = 0.0
    dur: float = 0.0
    args: Args | None = None


class Info(msgspec.Struct):
    """What the profiler knows of the job."""

    rank: int | None = None
    world_size: int | None = None


class Document(msgspec.Struct):
    """A whole file."""

    events: list[Event] = msgspec.field(name="traceEvents")
    info: Info | None = msgspec.field(default=None, name="distributedInfo")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one process did.

    rank: None where neither the file nor its name says it. gpu: kernels, copies and fills. collectives: External id -> what
    the host said of the collective whose work on the GPU bears that id. steps: (number, start, end) of every profiled step,
    ns; as the GPU saw it where the profiler says so, else as the host did.
    """

    path: Path
    rank: int | None
    gpu: list[Event]
    collectives: dict[int, Args]
    steps: list[tuple[int, int, int]]


def nanoseconds(microseconds: float | str) -> int:
    """Whole nanoseconds of what Kineto writes with up to three decimals."""
    return round(float(microseconds) * 1000)


def whole(value: int | str | None) -> int | None:
    """A number, also of a string; None where it is none."""
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def read(path: Path) -> Trace:
    """The trace in a file. Raises TraceError for what is none, is cut off, or holds no work of a GPU."""
    text = _text(path)
    try:
        document = _decode(text)
    except msgspec.ValidationError as error:
        raise _unreadable(path, f"it is JSON, but not a trace of torch's profiler: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, f"its JSON cannot be read, perhaps because it was cut off: {error}") from None
    named = RANK.search(path.name)
    known = document.info.rank if document.info else None
    rank = known if known is not None else int(named[1]) if named else None
    trace = _sorted(path, rank, document.events)
    if not trace.gpu:
        raise TraceError(
            f"{path} holds no work of a GPU: the profiler recorded the host alone, or the run had no GPU. "
            "Profile with ProfilerActivity.CUDA, on a GPU."
        )
    return trace


def _sorted(path: Path, rank: int | None, events: list[Event]) -> Trace:
    gpu: list[Event] = []
    collectives: dict[int, Args] = {}
    steps: dict[str, list[tuple[int, int, int]]] = {"gpu_user_annotation": [], "user_annotation": []}
    for event in events:
        category = event.cat
        if category in ON_A_GPU:
            if event.ph == "X":
                gpu.append(event)
        elif category == "cpu_op":
            args = event.args
            if args is not None and args.collective is not None and (number := whole(args.external)) is not None:
                collectives[number] = args
        elif category in steps and (match := STEP.fullmatch(event.name)):
            start = nanoseconds(event.ts)
            steps[category].append((int(match[1]), start, start + nanoseconds(event.dur)))
    seen = steps["gpu_user_annotation"] or steps["user_annotation"]
    return Trace(path=path, rank=rank, gpu=gpu, collectives=collectives, steps=sorted(seen))


def _decode(text: bytes) -> Document:
    if text.lstrip()[:1] == b"[":  # a bare list of events, as some writers have it
        return Document(events=msgspec.json.decode(text, type=list[Event]))
    return msgspec.json.decode(text, type=Document)


def _text(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise _unreadable(path, "it is not a file")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            text = file.read(LIMIT + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unreadable(path, f"its gzip is damaged or was cut off: {error}") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if len(text) > LIMIT:
        raise TraceError(f"{path} holds more than {LIMIT // 2**30} GiB of JSON. Record fewer steps.")
    return text


def _unreadable(path: Path, why: str) -> TraceError:
    return TraceError(f"{path} cannot be read: {why}.")
