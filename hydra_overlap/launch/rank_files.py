"""Files for what joined ranks write while they train, as ranks that train.py starts have them.

Libraries warn and log in every rank. Of ranks that torchrun or srun started, all of it would stand between the lines of the
run's own report, once for each rank.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .local import RANKS, plan_of_this_rank
from .plan import Plan
from .streams import redirected


@contextmanager
def in_files(plan: Plan, rank: int) -> Iterator[None]:
    """Within, errors and logs of every joined rank go to files, and the output of ranks other than 0.

    Afterwards, and so for the traceback of an exception, everything goes where it went before. Ranks that `local.start`
    started have their files already.
    """
    if plan_of_this_rank() is not None:
        yield
        return
    folder = Path(plan.output_dir, RANKS, str(rank))
    names = {1: "stdout.log", 2: "stderr.log"} if rank else {2: "stderr.log"}
    with ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = {
                number: opened.enter_context((folder / name).open("ab")).fileno() for number, name in names.items()
            }
        except OSError as error:  # a machine that does not share the folder; the run matters more
            print(f"what this rank writes stays on the terminal: {folder}: {error.strerror}", file=sys.stderr)
            yield
            return
        with _logs_on_stderr(), redirected(files):
            yield


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    """Hydra logs on standard output, which at rank 0 is the run's own report."""
    handlers = [one for one in logging.root.handlers if type(one) is logging.StreamHandler]
    streams = [one.setStream(sys.stderr) for one in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            if stream is not None:
                handler.setStream(stream)
