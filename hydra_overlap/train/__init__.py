"""`hydra-overlap train`, in nine stages: every overlap asked for is in effect and read back, or refused at composition.

Stages 1 to 3 compose, examine the machine and say what will happen; 4 starts the ranks, or joins those that torchrun or srun
started; 5 to 9 are what every rank does. Without a GPU the plan is rehearsed: the same layout, schedule and overlap flags in
real megatron-core on gloo, with smaller tensors, and the run lists what it did not exercise. Exit codes: 0 success, 1 refused
or failed, 2 usage error, 75 stopped on request, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..compose import app, enforce, option_source, overrides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..launch.external import Joined
    from ..launch.heartbeat import Heart
    from ..launch.plan import Plan
    from ..launch.stopping import Requests

# Each stage imports what it needs: composing and judging, as for `--cfg job`, need nothing of what follows. Above all torch
# comes late: it and CUDA read their environment when they load, and Hydra sets that environment (hydra.job.env_set) just
# before it calls main.


RANK_SCRIPT = str(Path(__file__).with_name("__main__.py"))  # what a process that is started as a rank runs


@hydra.main(version_base=None, config_path=option_source.PACKAGE, config_name="config")
def main(cfg: DictConfig) -> dict[str, Any] | None:
    """Stages 1 to 3: in the one process that composes. -> the record of the run (run/record.py), once it has ended."""
    from ..dry_run import report
    from ..launch import plan as plans
    from ..launch import preflight, requeue, slurm
    from ..megatron import rehearsal
    from ..reference.accepted import RUN_ALL, print_accepted
    from ..run.rehearsal_notice import print_rehearsal
    from ..screen import make_console

    # 1. The plan. Composition judged it already; a config that came another way is judged here, or refused.
    resolution = enforce.judged(cfg)
    job_config: Any = HydraConfig.get()
    plan = plans.make(
        resolution,
        overrides=overrides.task_overrides(job_config),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        output_dir=Path(job_config.runtime.output_dir),
    )

    plan = requeue.resumed(plan)

    # 2. What this machine makes of it: GPUs, or a rehearsal; too small, or the wrong one: refused before anything starts.
    sweeping = job_config.mode == RunMode.MULTIRUN
    found = preflight.check(plan, sweeping=sweeping)
    plan = found.plan
    if plan.request.launch.dry_run:  # instead of all that follows: ranks of any world size, in this process
        return report.show(plan, resolution, sweeping=sweeping)
    if preflight.rehearses(plan):
        plan = rehearsal.rehearse(plan, preflight.other_versions(plan))

    # 3. What will happen, before it happens.
    if found.job is None or found.job.rank == 0:
        console = make_console()
        print_accepted(resolution, console, rest=RUN_ALL)
        if plan.rehearsal:
            print_rehearsal(plan, console)
    return slurm.submit(plan, run) if found.queued else run(plan, found.job)


def run(plan: Plan, job: Joined | None) -> dict[str, Any] | None:
    """Stage 4: start the ranks on this machine, or be one of them. Under launch=slurm every task of the job calls it.

    -> the record of the run; None where another process keeps it.
    """
    from ..launch import claims, preflight
    from ..launch import plan as plans

    environment = preflight.rank_environment(plan, job.local_ranks if job else plans.world_size(plan))
    first = job is None or job.rank == 0
    with claims.of_plan(plan) if first else nullcontext():
        return _run(plan, job, environment)


def _run(plan: Plan, job: Joined | None, environment: Mapping[str, str]) -> dict[str, Any] | None:
    from ..launch import external, first_cause, local, preflight, rank_tags, requeue
    from ..launch import plan as plans
    from ..megatron import data, library_imports
    from ..run import record
    from ..screen import make_console

    first = job is None or job.rank == 0
    imports = Path(plan.output_dir, "ranks", "imports.log") if first else os.devnull
    fork = False  # ranks on GPUs are fresh processes
    if first:
        make_console().print(f"\nstarting {plans.world_size(plan)} ranks")
    if job:
        os.environ.update(environment)
        external.export(job, os.environ)
        library_imports.load(imports)
    elif preflight.rehearses(plan):
        with local.exported({**environment, "OMP_NUM_THREADS": "1"}):  # more would bring threads; ranks set theirs
            fork = library_imports.load(imports)
    if first:
        with library_imports.kept_from_terminal(imports):
            plan = dataclasses.replace(plan, data_prefix=data.prepare(plan))
        plan = record.begin(plan)
    with record.kept(plan, job), first_cause.named(plan, job), requeue.on_stop(plan):
        if job is None:
            local.start(plan, RANK_SCRIPT, environment, fork=fork)
        else:
            rank_tags.tag(job.rank)
            train(plan)
    return record.read(plan) if first else None


def train(plan: Plan) -> None:
    """Stages 5 to 9: on every rank. Decides nothing: the plan says what is built, and is compared with what was."""
    from ..launch import heartbeat, stopping
    from ..megatron import cpu

    # 5. A process group. Without CUDA, torch's CUDA names answer for the CPU before megatron-core is imported.
    on_cpu = cpu.install()
    import torch
    import torch.distributed as dist

    from ..megatron import build

    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if on_cpu else "nccl", timeout=timedelta(seconds=heartbeat.timeout_s(plan)))
    try:
        with stopping.Requests() as requests:
            _train(plan, dist.get_rank(), requests)
        dist.barrier()  # a rank that failed after its last collective fails the run
    finally:
        build.release()
        dist.destroy_process_group()


def _train(plan: Plan, rank: int, requests: Requests) -> None:
    from ..launch import heartbeat, rank_files
    from ..megatron import build, checkpoint, cpu, readback, userbuffers
    from ..run import manifest
    from ..screen import make_console

    cpu.finish()
    plan = build.plan_of_rank_0(plan)
    with rank_files.in_files(plan, rank), heartbeat.Heart(plan, rank) as heart:
        # 6. megatron-core's objects: parallel state, userbuffers, model chunks, DDP, optimizer, schedules.
        build.initialize_parallel_state(plan)
        userbuffers.initialize(plan)
        built = build.build(plan)

        # 7. Every promised value read back, on every rank. A difference raises here, before the first step.
        found = readback.read_back(plan, built)

        # 8. Where an earlier run stopped, and the text from there on: the same samples in a step, whatever the layout.
        resumed = checkpoint.resume(plan, built)
        done = resumed.step if resumed else 0
        if rank == 0:
            console = make_console()
            manifest.write(plan, found)
            readback.describe(found, console)
            checkpoint.describe(plan, resumed, console)
        _steps(plan, rank, built, done, heart, requests)


def _steps(plan: Plan, rank: int, built: Any, done: int, heart: Heart, requests: Requests) -> None:
    """Stage 9: steps, checkpoints, validation losses; and the record of a run that ends as planned or as it was asked to."""
    from ..launch import stopping
    from ..megatron import batches, build, checkpoint, data, evaluate, nonfinite, step
    from ..run import record
    from ..run.report import RunReport, SilentReport
    from ..screen import make_console

    training = plan.request.training
    samples = data.dataset(plan, batches.consumed(training, training.train_iters))
    held_out = data.held_out(plan) if training.eval_interval is not None else None
    inputs = [data.microbatches(plan, samples, done) for _ in built.model]
    tolerance, stop = nonfinite.Tolerance(plan), 0
    report = RunReport(plan, make_console(), done) if rank == 0 else SilentReport()
    with report, checkpoint.Writer(plan, built) as checkpoints:
        for number, batch in batches.steps(training, done):
            heart.step = number
            taken = step.run_step(plan, built, inputs, number, batch)
            diverged = tolerance.after(number, taken.bad)
            evaluated = held_out is not None and diverged is None and evaluate.due(plan, number)
            report.step(taken, evaluate.validation_loss(plan, built, held_out) if evaluated else None)
            if diverged:
                raise diverged
            stop = requests.agreed()
            checkpoints.after(number, stopping=bool(stop))
            if stop:
                break
    memory = build.peak_memory_gib()
    if rank == 0:
        status, error = (record.STOPPED, stopping.message(plan)) if stop else (record.COMPLETED, None)
        record.write(plan, record.make(plan, status, error=error, peak_memory_gib=memory))
    if stop:
        raise stopping.Stopped(stopping.message(plan))
    report.summary(saving_s=checkpoints.waited_s)


def command() -> None:
    """Run the command line in sys.argv, or, in a process that a run started as one of its ranks, be that rank."""
    from ..launch import RANK_PLAN, external

    if os.environ.get(RANK_PLAN):
        _be_a_rank()
    else:
        from ..compose import run_folder

        sys.argv += external.quiet_overrides()
        with run_folder.claimed_first():
            app.cli(main, own_nodes_only=True)


def _be_a_rank() -> None:
    """In a process that a run started: read the plan that it composed, or say why it cannot be read."""
    from ..errors import LaunchError
    from ..launch import local, processes

    try:
        plan = local.plan_of_this_rank()
    except LaunchError as error:
        processes.leave(error)
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    assert plan is not None
    local.as_rank(train, plan)
