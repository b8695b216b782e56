"""Signs of life: each rank keeps saying where it stands, so that the one for which all others wait can be named.

A collective that runs into launch.distributed_timeout_minutes tells only who gave up. A thread of every rank therefore
writes its step and the place in the code where its main thread is. A rank whose signs stop (suspended, swapped out, on a
machine that hangs) is the one; else the one that is behind, or that is elsewhere than all others.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import files
from ..errors import HydraOverlapError
from .plan import Plan, world_size

FOLDER = "alive"  # under the run's ranks/
LONGEST_S = 10.0  # between two signs
GRACE_S = 5.0  # beyond the timeout, in which ranks that wait say so themselves
TIMED_OUT = ("timed out", "timeout", "wait timeout")  # words of gloo, NCCL's watchdog and the store
SHOWN = 3  # frames of a place
WAITING = ("torch/distributed/", "megatron/core/pipeline_parallel/p2p_communication")


class HangError(HydraOverlapError):
    """Ranks waited for one that did not come."""


def timeout_s(plan: Plan) -> float:
    """launch.distributed_timeout_minutes in seconds."""
    return float(plan.request.launch.distributed_timeout_minutes) * 60


def _interval_s(plan: Plan) -> float:
    return min(LONGEST_S, timeout_s(plan) / 6)


def _folder(plan: Plan) -> Path:
    return Path(plan.output_dir, "ranks", FOLDER)


class Heart:
    """Gives signs of life of this rank; a context manager around its work. `step` is what the training loop sets."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._plan, self._rank = plan, rank
        self._main = threading.get_ident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.step = 0

    def __enter__(self) -> "Heart":
        _folder(self._plan).mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        self._end.set()
        self._thread.join()
        known = isinstance(error, HydraOverlapError)
        if isinstance(error, Exception) and not known and says_timed_out(str(error)):
            raise HangError(explained(self._plan, str(error))) from error

    def _beat(self) -> None:
        while not self._end.wait(_interval_s(self._plan)):
            self._write()

    def _write(self) -> None:
        sign = {
            "rank": self._rank,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "began": self._plan.began,
            "time": time.time(),
            "up": time.monotonic(),  # one clock for all processes of a machine, which nobody sets
            "step": self.step,
            "place": _place(self._main),
        }
        with suppress(OSError):  # a full disk is no reason to end a run
            files.write_json(_folder(self._plan) / f"{self._rank}.json", sign)


def _place(thread: int) -> list[str]:
    """Where a thread stands: its innermost frames, the innermost first."""
    frame = sys._current_frames().get(thread)
    found: list[str] = []
    while frame is not None and len(found) < SHOWN:
        code = frame.f_code
        parts = Path(code.co_filename).parts
        short = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:]
        found.append(f"{'/'.join(short)}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return found


def signs(plan: Plan) -> list[dict[str, Any]]:
    """The last sign of every rank that gave one in this run, by rank."""
    found = []
    for rank in range(world_size(plan)):
        with suppress(OSError, ValueError, KeyError):
            sign = json.loads((_folder(plan) / f"{rank}.json").read_text())
            if sign["began"] == plan.began and "up" in sign:
                found.append(sign)
    return _on_one_clock(found)


def _on_one_clock(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The signs with such a `time` that those of one machine are as far apart as its monotonic clock says.

    A clock that is set while ranks run would make some of them look silent. Between machines the newest signs are compared.
    """
    newest: dict[str, dict[str, Any]] = {}
    for sign in found:
        if sign["host"] not in newest or sign["up"] > newest[sign["host"]]["up"]:
            newest[sign["host"]] = sign
    offsets = {host: sign["time"] - sign["up"] for host, sign in newest.items()}
    return [{**sign, "time": sign["up"] + offsets[sign["host"]]} for sign in found]


def says_timed_out(text: str) -> bool:
    """Whether an error is that of a rank that waited in vain."""
    return any(word in text.lower() for word in TIMED_OUT)


def explained(plan: Plan, error: str) -> str:
    """What a person reads of a hang: the rank that did not come as far as that can be known, and who gave up with what.

    Told from the signs of all ranks: call it before theirs are much older than this moment.
    """
    found = signs(plan)
    limit = timeout_s(plan)
    waited = f"Ranks waited {limit:g} s for it: launch.distributed_timeout_minutes={limit / 60:g}."
    last = f"The first rank that gave up says: {error.strip().splitlines()[0] if error.strip() else 'nothing'}"
    return f"{_who(plan, found)} {waited}\n\n{_table(found)}\n\n{last}"


def _who(plan: Plan, found: list[dict[str, Any]]) -> str:
    never = sorted(set(range(world_size(plan))) - {sign["rank"] for sign in found})
    if never:
        return f"{_ranks(never)} never began."
    newest = max(sign["time"] for sign in found)
    silent = [sign for sign in found if newest - sign["time"] > 2.5 * _interval_s(plan)]
    if silent and len(silent) < len(found):
        ages = ", ".join(f"{newest - sign['time']:.0f} s" for sign in silent)
        return f"{_ranks([sign['rank'] for sign in silent])} hangs: no heartbeat for {ages}."
    behind = [sign["rank"] for sign in found if sign["step"] < max(other["step"] for other in found)]
    if behind:
        return f"{_ranks(behind)} did not arrive: a step behind the others."
    elsewhere = [sign["rank"] for sign in found if not _waits(sign["place"])]
    if elsewhere and len(elsewhere) < len(found):
        return f"{_ranks(elsewhere)} did not arrive: busy with something else while the others waited."
    return "Ranks wait for each other, and all of them still run; compare the stack locations below."


def _waits(place: list[str]) -> bool:
    """Whether a rank stands in a collective or a message of the pipeline."""
    return any(frame.startswith(WAITING) for frame in place)


def _table(found: list[dict[str, Any]]) -> str:
    """One line for each place at which ranks stand."""
    newest = max((sign["time"] for sign in found), default=0.0)
    lines: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for sign in found:
        lines[sign["step"], "  <  ".join(sign["place"])].append(sign)
    return "\n".join(
        f"  {_ranks([sign['rank'] for sign in group])}, {newest - min(sign['time'] for sign in group):.0f} s ago: "
        f"step {step}, {place}"
        for (step, place), group in sorted(lines.items(), key=lambda item: item[1][0]["rank"])
    )


def _ranks(numbers: list[int]) -> str:
    """`Rank 1`, `Ranks 0, 2 and 3`; of many the first ones."""
    if len(numbers) == 1:
        return f"Rank {numbers[0]}"
    if len(numbers) > 8:
        return f"Ranks {', '.join(map(str, numbers[:8]))} and {len(numbers) - 8} more"
    return f"Ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


class Watch:
    """Looks after the ranks of this machine: kills those that gave no sign for longer than the timeout and a grace.

    A suspended process takes no other signal, and if all hang, none is left to give up. killed: what `explained` said.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._end = threading.Event()
        self.killed = ""

    def look(self) -> None:
        """Until the end."""
        limit = timeout_s(self._plan) + GRACE_S
        while not self._end.wait(min(1.0, _interval_s(self._plan))):
            for sign in signs(self._plan):
                if time.monotonic() - sign["up"] > limit and _alive(sign["pid"]):
                    self.killed = self.killed or explained(self._plan, "nothing yet")
                    with suppress(ProcessLookupError):
                        os.kill(sign["pid"], signal.SIGKILL)

    def end(self) -> None:
        """Stop looking."""
        self._end.set()


def _alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def watched(plan: Plan) -> Iterator[Watch]:
    """Look after the ranks while they run, in a thread."""
    for old in _folder(plan).glob("*.json"):
        old.unlink()
    watch = Watch(plan)
    thread = threading.Thread(target=watch.look, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()
