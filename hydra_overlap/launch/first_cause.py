"""Which rank of a submitted job failed first: its tasks have no parent, and whoever waits for it looks at task 0 alone."""

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import files
from .external import Joined
from .local import RankError
from .plan import Plan
from .requeue import RESTARTS
from .stopping import Stopped

FOLDER = "ranks"
SETTLE_S = 3  # in which ranks that failed of one cause have all said so


@contextmanager
def named(plan: Plan, job: Joined | None) -> Iterator[None]:
    """Let rank 0 fail of what another rank failed of before, and say so: RankError.

    Without it rank 0 would end with a broken connection. Ranks of one job share plan.output_dir.
    """
    if job is None or job.launcher != "submitit":
        yield
        return
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        own = {"rank": job.rank, "time": time.time(), "error": "".join(traceback.format_exception_only(error)).strip()}
        folder = Path(plan.output_dir, FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / f"failed_{_attempt()}_{job.rank}.json", own)
        if job.rank:
            raise
        time.sleep(SETTLE_S)
        told = [json.loads(path.read_text()) for path in folder.glob(f"failed_{_attempt()}_*.json")]
        first = min(told, key=lambda one: float(one["time"]))
        if first["rank"] == 0:
            raise
        traceback.print_exc()
        raise RankError(f"Rank {first['rank']} failed first; all ranks were stopped.\n\n{first['error']}") from None


def _attempt() -> str:
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get(RESTARTS, '0')}"
