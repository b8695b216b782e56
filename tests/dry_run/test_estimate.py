"""What a dry run will cost, told before anything is built: no torch, no ranks."""

import dataclasses

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.dry_run import build, estimate
from tests.each import each
from tests.plans import plan_of

WIDE = ("platform=h100", "software=reference", "model=llama3_8b", "training.micro_batch_size=1")


def planned(**values: object):
    """A plan with other numbers, which nobody has judged."""
    return plan_of(*WIDE).with_values({key.replace("__", "."): value for key, value in values.items()})


STAGES = {
    "parallelism__pipeline_model_parallel_size": 10_000,
    "parallelism__world_size": 10_000,
    "model__num_layers": 10_000,
}
HUGE = [
    (STAGES, "hours"),
    ({"model__num_layers": 100_000}, "hours"),
    ({"parallelism__world_size": 2**20, "launch__dry_run_ranks": list(range(100_000))}, "days"),
    ({"parallelism__pipeline_model_parallel_size": 2**20, "parallelism__world_size": 2**20, "training__global_batch_size": 2**31 - 1}, "GiB"),
]  # fmt: skip


@each("values, words", HUGE)
def test_a_dry_run_that_would_take_hours_is_refused_before_anything_is_built(
    values: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_enter", lambda: pytest.fail("torch was loaded"))
    monkeypatch.setattr(estimate, "_memory_gib", lambda: 64.0)
    told: list[str] = []
    with pytest.raises(LaunchError, match=rf"This dry run .* {words}") as refused:
        build.run(planned(**values), lambda what, done, total: told.append(what))
    assert told == [] and refused.value.findings[0].fixes


def test_the_way_out_of_a_long_dry_run_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_memory_gib", lambda: None)
    plan = planned(**STAGES)
    with pytest.raises(LaunchError) as refused:
        estimate.require_affordable(plan, 20_000)
    ((_, minutes),) = [fix.override.split("=") for fix in refused.value.findings[0].fixes]
    longer = plan.with_values({"launch.dry_run_minutes": float(minutes)})
    assert estimate.require_affordable(longer, 20_000).seconds < 60 * float(minutes)


def test_the_way_out_of_too_little_memory_needs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_memory_gib", lambda: 2.0)
    plan = planned(training__global_batch_size=2**24)
    with pytest.raises(LaunchError, match="GiB") as refused:
        estimate.require_affordable(plan, 2)
    ((key, batch),) = [fix.override.split("=") for fix in refused.value.findings[0].fixes]
    estimate.require_affordable(plan.with_values({key: int(batch)}), 2)


def test_the_largest_published_plan_takes_minutes() -> None:
    plan = plan_of("experiment=llama31_405b_512gpu_h100_bf16")
    assert 20 < estimate.cost(plan, build._most_ranks(plan)).seconds < 300


@each("key, more", [("parallelism.world_size", 1024), ("model.num_layers", 64), ("training.global_batch_size", 4096)])
def test_more_of_anything_costs_more(key: str, more: int) -> None:
    plan = plan_of(*WIDE)
    before, after = estimate.cost(plan, 2), estimate.cost(plan.with_values({key: more}), 2)
    assert after.seconds > before.seconds
    assert dataclasses.asdict(before) != dataclasses.asdict(after)


@each(
    "values",
    [
        {},
        {"launch__dry_run_ranks": [0, 1, 1]},
        {"parallelism__pipeline_model_parallel_size": 2, "parallelism__world_size": 2},
    ],
)
def test_the_number_of_ranks_is_counted_without_listing_them(values: dict) -> None:
    plan = planned(**values)
    ranks = build.ranks_to_build(plan)
    assert build._most_ranks(plan) >= len({*ranks, *build.ranks_to_record(plan, ranks)}) >= build._most_ranks(plan) - 2
