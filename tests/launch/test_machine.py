"""How many ranks this machine holds, and what they start with."""

from contextlib import nullcontext

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import preflight
from tests.plans import plan_of


@pytest.fixture
def gpus(monkeypatch):
    """`gpus("h100", 8)`: a machine with so many GPUs."""

    def have(name, count):
        monkeypatch.setattr(preflight, "gpu_names", lambda: (f"NVIDIA {name.upper()} 80GB HBM3",) * count)
        monkeypatch.setattr(preflight, "local_platform", lambda: {"name": name})

    return have


@pytest.fixture
def small(monkeypatch):
    """A machine without GPUs: two cores, 8 GiB free."""
    monkeypatch.setattr(preflight, "gpu_names", lambda: ())
    monkeypatch.setattr(preflight.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(preflight, "_available_gib", lambda: 8.5)


def test_without_gpus_every_plan_is_rehearsed(small):
    assert preflight.rehearses(plan_of("comm_overlap=tp4_h100"))


def test_with_gpus_only_a_plan_for_the_cpu_is(gpus):
    gpus("h100", 8)
    assert not preflight.rehearses(plan_of("comm_overlap=tp4_h100"))
    assert preflight.rehearses(plan_of("platform=cpu"))


def test_memory_limits_the_ranks_of_a_rehearsal(small):
    most, why = preflight.max_ranks(plan_of().request)
    assert most == 8
    assert "8 GiB of free memory" in why


def test_refuses_more_ranks_than_the_machine_holds_and_says_why(small):
    plan = plan_of("comm_overlap=tp4_h100", "parallelism.world_size=16")
    with pytest.raises(LaunchError, match="The plan starts 16 ranks here, but this machine holds 8") as refusal:
        preflight.require_fit(plan, 16)
    assert "launch.max_ranks=16" in str(refusal.value)
    with pytest.raises(LaunchError, match="starts 512 ranks here") as refusal:
        preflight.require_fit(plan_of("parallelism.world_size=512", "training.global_batch_size=2048"), 512)
    assert "launch.max_ranks" not in str(refusal.value) and "launch.dry_run=true" in str(refusal.value)


def test_allows_as_many_ranks_as_the_machine_holds(small):
    preflight.require_fit(plan_of("comm_overlap=tp4_h100", "parallelism.world_size=8"), 8)


def test_launch_max_ranks_wins(small):
    preflight.require_fit(plan_of("parallelism.world_size=16", "launch.max_ranks=16", "training=smoke"), 16)


def test_one_rank_a_gpu(gpus):
    gpus("h100", 2)
    with pytest.raises(LaunchError, match="starts 4 ranks here, but this machine holds 2"):
        preflight.require_fit(plan_of("comm_overlap=tp4_h100"), 4)


def test_refuses_a_plan_for_another_gpu(gpus):
    gpus("a100", 8)
    with pytest.raises(LaunchError, match="The plan is for another GPU"):
        preflight.require_fit(plan_of("comm_overlap=tp4_h100"), 4)


def test_ranks_of_a_rehearsal_see_no_gpu_and_share_the_cores(small):
    environment = preflight.rank_environment(plan_of("comm_overlap=tp4_h100"), 1)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


def test_ranks_on_gpus_start_with_the_plans_environment_alone(gpus):
    gpus("h100", 8)
    plan = plan_of("comm_overlap=tp4_h100")
    assert preflight.rank_environment(plan, 4) == plan.resolution.env


@pytest.mark.parametrize(
    ("torch", "core", "refused"),
    [("2.13.0", "0.16.0", False), ("2.13.0", "0.15.3", True), ("2.13.0", None, True), (None, "0.16.1", True)],
)
def test_train_py_says_what_is_not_installed_that_it_needs(monkeypatch, torch, core, refused):
    monkeypatch.setattr(preflight, "installed_software", lambda: {"torch": torch, "megatron_core": core})
    with (
        pytest.raises(LaunchError, match=r"torch is missing, or megatron-core is missing or older than 0\.16\.0")
        if refused
        else nullcontext()
    ):
        preflight.require_trainer()
