"""A plan: everything a run needs, frozen as JSON. One parent writes it, every rank reads it and decides nothing.

request      the complete request that was judged, nested as in schema.Request (of a rehearsal: shrunk)
resolution   Resolution.to_dict()
rehearsal    None on GPUs; else what was shrunk, replaced and left out (megatron/rehearsal.py)
overrides    what stood on the command line
config       the whole composed config as YAML
output_dir   one directory for all ranks
data_prefix  tokenised data, without `.bin` and `.idx`; None for mock data
began        when the plan was made, then when its run began, ISO 8601
"""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import files
from ..resolver.resolution import Resolution

Plan = dict[str, Any]

FILE_NAME = "plan.json"


def make(resolution: Resolution, *, overrides: list[str], config: str, output_dir: Path) -> Plan:
    """The plan of a resolution, before the machine had its say."""
    return {
        "request": resolution.request,
        "resolution": resolution.to_dict(),
        "rehearsal": None,
        "overrides": overrides,
        "config": config,
        "output_dir": str(output_dir),
        "data_prefix": None,
        "began": now(),
    }


def now() -> str:
    """This moment, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def save(plan: Plan) -> Path:
    """Write the plan into its output directory; -> the file."""
    return files.write_json(Path(plan["output_dir"], FILE_NAME), plan, allow_nan=True)


def load(path: str | Path) -> Plan:
    """What `save` wrote."""
    plan: Plan = json.loads(Path(path).read_text())
    return plan


def world_size(plan: Plan) -> int:
    """Ranks of the run."""
    return int(plan["request"]["parallelism"]["world_size"])
