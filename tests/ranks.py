"""`local.start` with warm ranks: a plan's ranks run a script of the test, and what `start` raised is raised here.

`ranks.py PLAN SCRIPT ENVIRONMENT`: the plan as it is saved, the environment as JSON; exit code 3 if a rank failed.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hydra_overlap.launch import local
from hydra_overlap.launch import plan as plans
from tests import warm

FAILED = 3


def start(plan: plans.Plan, script: str, environment: Mapping[str, str]) -> None:
    """As `hydra_overlap.launch.local.start`, started from a process of its own. Raises local.RankError."""
    folder = Path(plan.output_dir)
    saved = plans.save(plan)
    done = warm.run(
        [__file__, saved, script, json.dumps(dict(environment))],
        cwd=folder, modules=warm.TRAINER, env={**os.environ, "PYTHONPATH": str(warm.ROOT)},
    )  # fmt: skip
    if done.returncode == FAILED:
        raise local.RankError((folder / "rank_error.txt").read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    plan, script, environment = sys.argv[1:]
    try:
        local.start(plans.load(plan), script, json.loads(environment), fork="torch" in sys.modules)
    except local.RankError as error:
        Path(plans.load(plan).output_dir, "rank_error.txt").write_text(str(error))
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
