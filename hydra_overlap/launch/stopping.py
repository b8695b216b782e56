"""Being asked to stop: Slurm sends SIGUSR1 or SIGTERM before it takes a node away; all ranks stop after the same step."""

import signal
from types import FrameType
from typing import Any

from ..errors import HydraOverlapError
from .checkpoint_names import complete
from .plan import Plan

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the job saved what it had and wants to be started again


class Stopped(HydraOverlapError):
    """The run was asked to stop and did so between two steps."""

    exit_code = REQUEUE


class Requests:
    """Signals that arrived in this rank; a context manager that puts the former handlers back.

    A rank that was asked to stop ignores further requests instead: its former handlers would kill it while it ends.
    """

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Requests":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._received else handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        self._received = signum

    def agreed(self) -> int:
        """The signal any rank received, 0 if none did. Every rank calls it after every step, and all get one answer."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        received = torch.tensor([self._received], device=device)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received.item())


def message(plan: Plan) -> str:
    """What a stopped run says: where it goes on, or that it cannot."""
    folder = plan.request.checkpoint.save
    if folder is None:
        return "The run was asked to stop; nothing was saved, because checkpoint.save is null."
    found = complete(folder)
    if not found:
        return f"The run was asked to stop before it had written a checkpoint to {folder}."
    return f"The run was asked to stop; checkpoint.load={folder} resumes from {found[-1].name}."
