"""`launch=slurm`: one run as one job, on a real Slurm."""

import json
import os
import re
import signal

import pytest

from hydra_overlap.machine.local import installed_software

from .cluster import wait

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]
SUBMIT = ("launch=slurm", "launch.slurm.nodes=2", "launch.slurm.partition=debug")


def test_a_plan_for_an_h100_is_rehearsed_by_two_nodes_without_gpus_and_waited_for(start):
    run = start(*SUBMIT, "platform=h100", "launch.slurm.gpus_per_node=0", "launch.slurm.wait=true").end()
    assert run.code == 0, run.output
    assert "REHEARSAL on CPU with gloo; the plan is for h100" in run.said
    assert "2 nodes of 1 rank, without GPUs" in run.said
    assert len(run.losses) == 5 and run.losses[-1] < run.losses[0]
    assert run.manifest["readback"]["env"] == {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["request"]["launch"]["slurm"]["tasks_per_node"] == 1


def test_returns_once_the_job_is_queued_and_a_stopped_job_goes_on_from_its_checkpoint(start, slurm, tmp_path):
    save = f"checkpoint.save={tmp_path}/checkpoints"
    submitted = start(*SUBMIT, save, "training.train_iters=16")
    run = submitted.end()
    assert run.code == 0, run.output
    job = submitted.job
    assert f"queued as job {job}: 2 nodes of 1 rank" in run.said and f"scancel {job}" in run.said
    assert slurm.state(job) != "COMPLETED", "it did not wait"

    submitted.wait_for("step 3/16")
    slurm.ask("scancel", "--signal=USR1", job)
    submitted.wait_for(f"asked to stop: job {job} is requeued and resumes from iter_")
    wait(
        lambda: slurm.ask("squeue", "-h", "-j", job, "-o", "%T"), lambda state: state == "PENDING", "it is queued again"
    )
    # Slurm waits two minutes, so that credentials of the first attempt, revoked in this very second, are told from new ones.
    slurm.ask("scontrol", "update", f"jobid={job}", "StartTime=now+2seconds")
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED", submitted.log()

    log = submitted.log()
    assert log.count("starting 2 ranks") == 2
    stopped = int(log.partition("resumes from iter_")[2][:7])
    assert f"resumed after step {stopped} from" in log
    taken = [int(number) for number in re.findall(r"^step (\d+)/16 ", log, re.MULTILINE)]
    assert taken == list(range(1, 17)), "every step once"


def test_a_killed_rank_ends_the_job_and_the_command_that_waits_for_it(start, slurm):
    started = start(*SUBMIT, "launch.slurm.wait=true", "training.train_iters=500")
    started.wait_for("step 2/500")
    os.kill(_process_of_rank(1, started.job), signal.SIGKILL)
    run = started.end(60)
    assert run.code == 1
    assert "These ended without a message, as if killed: 1." in run.said
    assert "Traceback" not in run.said
    assert slurm.wait_for(started.job, "FAILED", "COMPLETED") == "FAILED"


def test_a_cancelled_job_ends_the_command_that_waits_for_it(start, slurm):
    started = start(*SUBMIT, "launch.slurm.wait=true", "launch.slurm.options=['--begin=now+1hour']")
    slurm.wait_for(started.job, "PENDING")
    slurm.ask("scancel", started.job)
    run = started.end(60)
    assert run.code == 1
    assert f"Job {started.job} ended before its ranks; Slurm says CANCELLED" in run.said


def test_ranks_refuse_a_node_without_the_gpus_that_the_job_asked_for(start, slurm):
    """Not a rehearsal in their stead. The nodes here have GPUs that Slurm believes in and no driver knows."""
    versions = [f"software.{name}={version or 'null'}" for name, version in installed_software().items()]
    run = start(*SUBMIT, "platform=h100", "launch.slurm.wait=true", *versions).end()
    assert run.code == 1
    assert "queued as job" in run.said and "Slurm gave a node without a GPU" in run.said
    assert "launch.slurm.gpus_per_node=0" in run.said


def test_what_slurm_refuses_is_told_with_its_reason_and_leaves_nothing(start, tmp_path):
    run = start("launch=slurm", "launch.slurm.partition=nope").end()
    assert run.code == 1
    assert "Slurm rejected the job" in run.said and "invalid partition specified: nope" in run.said
    assert not run.folder.exists()


def _process_of_rank(rank, job):
    """Process id of a task of the job, told by its environment."""
    wanted = {f"SLURM_PROCID={rank}", f"SLURM_JOB_ID={job}"}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/environ") as environ, open(f"/proc/{entry.name}/cmdline") as command:
                    if wanted <= set(environ.read().split("\0")) and "submitit.core._submit" in command.read():
                        return int(entry.name)
            except OSError:
                continue
    raise AssertionError(f"no process of rank {rank}")
