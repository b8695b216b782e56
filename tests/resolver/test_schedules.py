"""The pipeline rules against megatron-core's real schedules: what we accept runs through, what we refuse it refuses.

Except where it says nothing and trains wrong (PP003), which tests/train/test_trains_wrong.py shows.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from hydra_overlap import GatingError, resolve
from tests import needs, warm

pytestmark = needs.MEGATRON

FIELDS = ("overlap_p2p_comm", "batch_p2p_comm", "overlap_p2p_comm_warmup_flush")
GRID = list(
    itertools.product(
        (1, 2, 4),  # pipeline_model_parallel_size
        (None, 2, 3),  # virtual_pipeline_model_parallel_size
        (None, 2, 4, 5),  # microbatch_group_size_per_vp_stage
        (2, 4, 6, 8),  # microbatches
        (None, True, False),  # overlap_p2p_comm
        (None, True, False),  # batch_p2p_comm
        (None, True),  # overlap_p2p_comm_warmup_flush
    )
)
REFUSED_BY_THE_SCHEDULE = {"PAR010", "PP001", "PP002"}
"""Rules that state what a schedule checks itself; the others of the family are about what it does not."""


def request_of(point: tuple[Any, ...]) -> dict[str, Any]:
    stages, chunks, group, microbatches, overlap, batch, flush = point
    return {
        "parallelism": {
            "pipeline_model_parallel_size": stages,
            "virtual_pipeline_model_parallel_size": chunks,
            "microbatch_group_size_per_vp_stage": group,
            "world_size": stages,
        },
        "comm_overlap": {"pp": dict(zip(FIELDS, (overlap, batch, flush), strict=True))},
        "training": {"global_batch_size": microbatches, "micro_batch_size": 1},
    }


def run_on(point: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """What tests/resolver/schedules.py takes."""
    names = (
        "pipeline_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
        "microbatch_group_size_per_vp_stage",
    )
    layout = dict(zip(names, point, strict=False))
    if layout["microbatch_group_size_per_vp_stage"] is None:
        del layout["microbatch_group_size_per_vp_stage"]
    return {"layout": layout, "transformer_config": settings, "num_microbatches": point[3]}


def raised_by_megatron_core(requests: list[dict[str, Any]]) -> list[str]:
    script = Path(__file__).with_name("schedules.py")
    done = warm.run([script], input=json.dumps(requests), cwd=warm.ROOT, timeout=600, modules=warm.TRAINER)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]


def test_every_accepted_schedule_runs_through_with_the_settings_of_the_answer() -> None:
    accepted = []
    for point in GRID:
        try:
            resolution = resolve(request_of(point))
        except GatingError:
            continue
        accepted.append((point, {name: resolution.transformer_config[name] for name in FIELDS}))
    assert len(accepted) > 100
    raised = raised_by_megatron_core([run_on(point, settings) for point, settings in accepted])
    wrong = [(point, text) for (point, _), text in zip(accepted, raised, strict=True) if text]
    assert wrong == []


def test_what_the_schedule_checks_itself_is_refused_before_it() -> None:
    refused = []
    for point in GRID:
        stages, _, _, _, overlap, batch, flush = point
        if stages == 1 or None in (overlap, batch):
            continue
        try:
            resolve(request_of(point))
        except GatingError as refusal:
            rules = {finding.rule for finding in refusal.findings}
            if rules <= REFUSED_BY_THE_SCHEDULE:
                refused.append((point, dict(zip(FIELDS, (overlap, batch, bool(flush)), strict=True))))
    assert len(refused) > 50
    raised = raised_by_megatron_core([run_on(point, settings) for point, settings in refused])
    silent = [point for (point, _), text in zip(refused, raised, strict=True) if not text]
    assert silent == []
