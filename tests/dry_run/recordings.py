"""Recordings with repeated microbatches and with all of them run for real: `python recordings.py < LIST`, JSON out.

A list of lists of overrides in; out, for each: whether both recordings are the same event for event, in their calls, in the
order of their works, on the first and the last stage; and the schedule of all stages. The fake world stays in a process.
"""

import json
import sys
import warnings

from hydra_overlap.dry_run import build as dry_run
from hydra_overlap.dry_run import collectives, timeline
from hydra_overlap.launch.plan import world_size
from tests.plans import plan_of


def record(plan, rank, repeat):
    import torch

    from hydra_overlap.dry_run import recorded_step
    from hydra_overlap.megatron import build

    with dry_run._fake_world(rank, world_size(plan)):
        build.initialize_parallel_state(plan)
        with torch.device("meta"):
            built = build.build(plan)
        return recorded_step.record(plan, built, repeat=repeat)


def order(events):
    works = [one for one in events if isinstance(one, collectives.Work)]
    return [(work.kind, work.chunk, work.microbatch) for work in works]


def main() -> None:
    warnings.simplefilter("ignore")
    for overrides in json.load(sys.stdin):
        plan, _ = dry_run.without_cuda(plan_of(*overrides))
        if not hasattr(main, "entered"):
            dry_run._enter()
            main.entered = True
        ranks = dry_run.ranks_to_record(plan, ())
        stages = [record(plan, rank, repeat=True) for rank in ranks]
        real = {rank: record(plan, rank, repeat=False) for rank in {ranks[0], ranks[-1]}}
        pairs = [(stages[ranks.index(rank)], events) for rank, events in real.items()]
        line = timeline.timeline(stages)
        found = {
            "works": len(order(stages[0])),
            "same_events": all(a == b for a, b in pairs),
            "same_calls": all(collectives.summary(a) == collectives.summary(b) for a, b in pairs),
            "same_order": all(order(a) == order(b) for a, b in pairs),
            "calls": sum(row.times for row in collectives.summary(stages[0])),
            "bubble": line.bubble,
            "sentence": timeline.summary(line),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
