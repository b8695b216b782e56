"""Who started this process: nobody, torchrun or srun."""

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import external
from tests.plans import plan_of

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
SRUN = {
    "SLURM_JOB_ID": "42", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "no-such-node-[1-2]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
}  # fmt: skip


def test_a_lone_process_joins_nothing():
    assert external.joined({}) is None


@pytest.mark.parametrize(
    ("environment", "launcher"), [(TORCHRUN, "torchrun"), (SRUN, "srun")], ids=["torchrun", "srun"]
)
def test_finds_its_place_among_started_ranks(environment, launcher):
    job = external.joined(environment)
    assert (job.launcher, job.rank, job.local_rank, job.local_ranks, job.world_size) == (launcher, 5, 1, 4, 8)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_ID": "42", "SLURM_NTASKS": "8"},  # the batch script itself
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},  # srun of one launcher process
        {**SRUN, "SLURM_STEP_ID": "batch"},
    ],
    ids=["salloc", "one task", "batch step"],
)
def test_one_process_inside_an_allocation_starts_ranks_itself(environment):
    assert external.joined(environment) is None


def test_refuses_a_job_of_another_size_with_the_override_that_plans_for_it():
    with pytest.raises(LaunchError, match="torchrun started 8 ranks, but the plan is for 4") as refusal:
        external.require_same_size(plan_of("comm_overlap=tp4_h100"), external.joined(TORCHRUN))
    assert "parallelism.world_size=8" in str(refusal.value)


def test_ranks_of_srun_find_each_other_as_torch_expects():
    environment = dict(SRUN)
    external.export(external.joined(SRUN), environment)
    assert environment["RANK"] == "5" and environment["MASTER_ADDR"] == "10.0.0.7"
    assert 20000 <= int(environment["MASTER_PORT"]) < 32000, "below the ports that systems hand out"


def test_ranks_meet_at_the_first_node_where_its_name_resolves():
    """An srun on a login node names that node's address; rank 0 is not there."""
    environment = {**SRUN, "SLURM_STEP_NODELIST": "localhost,other[1-3]"}
    external.export(external.joined(environment), environment)
    assert environment["MASTER_ADDR"] == "localhost"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[1-2]", "n1"), ("a[03-07,9]-ib,b", "a03-ib"), ("r[2-3]n[5,7],q", "r2n5"), ("x,y[1-2]", "x")],
)
def test_reads_the_first_of_slurms_node_names(nodes, first):
    assert external.first_node(nodes) == first


def test_ranks_of_torchrun_keep_its_rendezvous():
    environment = {**TORCHRUN, "MASTER_ADDR": "there", "MASTER_PORT": "1"}
    before = dict(environment)
    external.export(external.joined(TORCHRUN), environment)
    assert environment == before


@pytest.mark.parametrize(
    "broken", [{**TORCHRUN, "WORLD_SIZE": "many"}, {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}]
)
def test_half_an_environment_is_refused_with_what_is_there(broken):
    with pytest.raises(LaunchError, match="incomplete or not numbers"):
        external.joined(broken)
    assert external.quiet_overrides(broken) == ()


def test_a_rank_without_a_world_is_refused_with_the_variable_that_is_missing():
    with pytest.raises(LaunchError) as refused:
        external.joined({"RANK": "3"})
    told = str(refused.value)
    assert "RANK=3" in told and "WORLD_SIZE is missing." in told and "env -u RANK" in told
    assert external.joined({"WORLD_SIZE": "4"}) is None  # says how many there are, not that this process is one


def test_a_sweep_is_not_started_inside_a_job():
    with pytest.raises(LaunchError, match="A sweep was started under torchrun"):
        external.require_single_run(external.joined(TORCHRUN), sweeping=True)
    external.require_single_run(external.joined(TORCHRUN), sweeping=False)


def test_a_job_that_hydras_launcher_submitted_is_one_run_of_a_sweep():
    job = external.joined({**SRUN, "SUBMITIT_EXECUTOR": "slurm"})
    assert job.launcher == "submitit"
    external.require_single_run(job, sweeping=True)


def test_only_joined_ranks_other_than_0_keep_quiet():
    assert external.quiet_overrides(TORCHRUN) == external.QUIET
    assert external.quiet_overrides({**TORCHRUN, "RANK": "0"}) == external.quiet_overrides({}) == ()
