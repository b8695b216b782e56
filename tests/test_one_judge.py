"""One judge: every way in gives the same answer to the same configuration, and what it accepts no check of train.py refuses.

What the machine decides is no part of it: preflight looks at a machine here that has all a plan can ask for.
"""

import contextlib
import copy
import io
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train
from hydra_overlap import LaunchError, Resolution, check, dotted, judged, refusal_in, resolve
from hydra_overlap.compose import app, enforce, extract
from hydra_overlap.dry_run import build
from hydra_overlap.findings import yaml_value
from hydra_overlap.launch import plan as plans
from hydra_overlap.launch import preflight
from hydra_overlap.machine import local
from hydra_overlap.megatron import rehearsal
from hydra_overlap.sweep.composer import Composer
from tests.strategies import changes
from tests.sweep.conftest import started

Rules = tuple[str, ...]  # ids of the rules that refuse, in order; empty = accepted
GATINGS, PLATFORMS = st.sampled_from(["strict", "strict", "bridge"]), st.sampled_from(["cpu", "h100"])


@pytest.fixture(autouse=True)
def _a_machine_that_has_everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What it has no test reads; whether it has a GPU, `launched` says."""
    monkeypatch.setattr(local, "gpu_names", lambda: ())
    local.local_platform.cache_clear()
    for name in (
        "require_trainer",
        "require_submittable",
        "require_versions_of_job",
        "require_ready",
        "require_loggers",
    ):
        monkeypatch.setattr(preflight, name, lambda *_, **__: None)
    monkeypatch.setattr(preflight.text_files, "require", lambda plan: [])
    monkeypatch.setattr(preflight.checkpoint_folders, "require_checkpoint_folders", lambda plan: None)
    monkeypatch.setattr(preflight.external, "joined", lambda: None)
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    local.local_platform.cache_clear()


def base(gating: str, platform: str) -> list[str]:
    return [f"gating={gating}", f"platform={platform}", "software=reference"]


def overrides_of(flat: dict[str, Any]) -> list[str]:
    return [f"{key}={yaml_value(value)}" for key, value in flat.items()]


def answer(judge: Callable[[], Any]) -> Rules:
    """Which rules refuse. Raises what is no refusal."""
    try:
        judge()
    except Exception as error:
        refusal = refusal_in(error)
        if refusal is None:
            raise
        return tuple(finding.rule for finding in refusal.findings)
    return ()


def composed(overrides: list[str]) -> Resolution:
    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        return judged(compose("config", overrides))


@lru_cache(maxsize=8)
def _request(gating: str, platform: str) -> dict[str, Any]:
    """The plain request that our config composes, before anything is changed."""
    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        return extract.read(compose("config", base(gating, platform)), foreign_nodes=False).request


def request_of(gating: str, platform: str, flat: dict[str, Any]) -> dict[str, Any]:
    request = copy.deepcopy(_request(gating, platform))
    for key, value in flat.items():
        dotted.put(request, key, value)
    return request


def shown(overrides: list[str]) -> None:
    """`train.py OVERRIDES --cfg job`, in this process."""
    GlobalHydra.instance().clear()
    argv = sys.argv
    sys.argv = ["train.py", *overrides, "--cfg", "job"]
    try:
        with app._errors_raised(), enforce.closed(), contextlib.redirect_stdout(io.StringIO()) as text:
            train.main()
        assert "comm_overlap:" in text.getvalue()
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()


def checked(overrides: list[str]) -> Rules:
    verdict = check(overrides)
    return tuple(finding.rule for finding in verdict.findings if verdict.exit_code)


def launched(resolution: Resolution) -> set[str]:
    """Titles of what stage 2 of train.py refuses with GPUs and without; empty where it starts, or dry-runs, on one of them."""
    plan = plans.make(resolution, overrides=[], config="", output_dir=Path("nowhere"))
    refused = set()
    for gpus in ((), ("NVIDIA H100 80GB HBM3",) * 8):
        with pytest.MonkeyPatch.context() as machine:
            machine.setattr(preflight, "gpu_names", lambda found=gpus: found)
            try:
                ready = preflight.check(plan, sweeping=False).plan
                if ready.request.launch.dry_run:
                    ranks = build.ranks_to_build(ready)
                    assert ranks and set(ranks) <= set(range(plans.world_size(ready)))
                    build.ranks_to_record(ready, ranks)
                elif preflight.rehearses(ready):
                    rehearsal.rehearse(ready)
                return set()
            except LaunchError as error:
                refused.add(error.finding.title)
    return refused


def assert_stage_2_agrees(resolution: Resolution) -> None:
    """Accepted by the rules, so some machine runs it. A plan for another program none does; a dry run may build it."""
    launch = resolution.request["launch"]
    for_us = {**resolution.request, "launch": {**launch, "trainer": "train.py"}}
    ours = launch["trainer"] == "train.py" or (launch["dry_run"] and not answer(lambda: resolve(for_us)))
    assert launched(resolution) == (set() if ours else {"The plan is for another program than train.py"})


@lru_cache(maxsize=1)
def _composer() -> Composer:
    """Of a sweep of our own app; it does without the Hydra that made it."""
    GlobalHydra.instance().clear()
    with started(None, "config", ()) as composer:
        return composer


def quickly(gating: str, platform: str, flat: dict[str, Any]) -> Rules:
    """The answer of `resolve`, which is the sweep's, and which stage 2 of train.py does not take back."""
    request = request_of(gating, platform, flat)
    expected = answer(lambda: resolve(request))
    assert answer(lambda: _composer().judge([*base(gating, platform), *overrides_of(flat)])) == expected
    if not expected:
        assert_stage_2_agrees(resolve(request))
    return expected


def slowly(gating: str, platform: str, flat: dict[str, Any], expected: Rules) -> None:
    """The same answer from what composes with Hydra."""
    overrides = [*base(gating, platform), *overrides_of(flat)]
    assert answer(lambda: composed(overrides)) == expected
    assert checked(overrides) == expected
    assert answer(lambda: shown(overrides)) == expected


def drawn(examples: int) -> settings:
    """The same requests on every run, so that a red test is red for everybody."""
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@drawn(80)
@given(gating=GATINGS, platform=PLATFORMS, flat=changes())
def test_resolve_the_sweep_and_stage_2_of_train_py_agree(gating: str, platform: str, flat: dict[str, Any]) -> None:
    quickly(gating, platform, flat)


def _all_agree(gating: str, platform: str, flat: dict[str, Any]) -> Rules:
    expected = quickly(gating, platform, flat)
    slowly(gating, platform, flat, expected)
    return expected


@drawn(5)
@given(gating=GATINGS, platform=PLATFORMS, flat=changes())
def test_all_ways_in_agree(gating: str, platform: str, flat: dict[str, Any]) -> None:
    _all_agree(gating, platform, flat)


@pytest.mark.slow
@drawn(20)
@given(gating=GATINGS, platform=PLATFORMS, flat=changes())
def test_all_ways_in_agree_on_many_more(gating: str, platform: str, flat: dict[str, Any]) -> None:
    _all_agree(gating, platform, flat)


@pytest.mark.parametrize("gating", ["strict", "bridge"])
@pytest.mark.parametrize(
    ("flat", "rule"),
    [
        ({"optimizer.min_lr": 1.0}, "TRN002"),
        ({"training.rampup_batch_size": [4, 4]}, "TRN004"),
        ({"training.eval_interval": 2}, "TRN006"),
        ({"launch.dry_run_ranks": [99]}, "TRN011"),
        ({"launch.dry_run": True, "launch.dry_run_ranks": [99]}, "TRN012"),
        ({"model.multi_latent_attention": True, "model.num_query_groups": None}, "TRN017"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_only_the_run_refused_is_refused_everywhere(gating: str, flat: dict[str, Any], rule: str) -> None:
    everywhere = _all_agree if gating == "strict" else quickly
    assert everywhere(gating, "h100", flat) == (rule,)
    assert quickly(gating, "h100", flat | {"launch.trainer": "other"}) == ()
