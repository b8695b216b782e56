"""Train a GPT with megatron-core, every overlap as composed: refused at composition, or in effect and read back.

    python train.py                                     tiny GPT, 2 data-parallel ranks, 100 steps on real text
    python train.py comm_overlap=tp4_h100               planned for H100s; rehearsed here if there are none
    python train.py comm_overlap=pp_interleaved training=smoke
    python train.py comm_overlap=tp4_h100 --cfg job --resolve     judge and look, start nothing
    python train.py -m comm_overlap=none,dp             one run after the other
    python train.py experiment=llama31_405b_512gpu_h100_bf16 launch.dry_run=true   what each rank holds; starts none
    torchrun --nproc-per-node 8 train.py comm_overlap=tp8_h100    join ranks that torchrun (or srun) started

Without a GPU the plan is rehearsed: the same layout, schedule and overlap flags in real megatron-core on gloo, tensor
dimensions shrunk, and the run says what it did not exercise. Exit codes: 0 fine, 1 refused or failed, 2 usage, 75 asked to
stop, 130 interrupted.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_overlap import app, compose
from hydra_overlap import plan as plans
from hydra_overlap.launch import folders, joined, local, machine, stopping

# torch is imported inside the functions: it and CUDA read their environment when they load, and Hydra sets that
# environment (hydra.job.env_set) just before it calls main.


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Stages 1 to 4: in the one process that composes."""
    from hydra_overlap.megatron import configs, data, rehearsal
    from hydra_overlap.report import dry_run
    from hydra_overlap.report.ledger import make_console, print_ledger
    from hydra_overlap.report.rehearsal import print_rehearsal

    # 1. The plan. Composition judged it already; a config that came another way is judged here, or refused.
    resolution = compose.judged(cfg)
    plan = plans.make(
        resolution,
        overrides=list(HydraConfig.get().overrides.task),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        output_dir=Path(HydraConfig.get().runtime.output_dir),
    )

    # 2. What this machine makes of it: GPUs, or a rehearsal; too small, or the wrong one: refused before anything starts.
    configs.require_model(plan)
    if dry_run.asked(plan):  # instead of all that follows: ranks of any world size, in this process
        dry_run.show(plan, resolution)
        return
    job = joined.joined()
    ranks_here = job.local_ranks if job else plans.world_size(plan)
    if job:
        joined.require_single_run(job, sweeping=HydraConfig.get().mode == RunMode.MULTIRUN)
        joined.require_same_size(plan, job)
    machine.require_fit(plan, ranks_here)
    machine.require_software(plan)
    folders.require_checkpoint_folders(plan)
    environment = machine.rank_environment(plan, ranks_here)
    plan = rehearsal.rehearse(plan, machine.other_versions(plan)) if machine.rehearses(plan) else plan
    configs.require_built(plan)

    # 3. What will happen, before it happens.
    if job is None or job.rank == 0:
        console = make_console()
        print_ledger(resolution, console)
        if plan["rehearsal"]:
            print_rehearsal(plan, console)
        plan["data_prefix"] = data.prepare(plan)
        console.print(f"\nstarting {plans.world_size(plan)} ranks")

    # 4. Start the ranks, or be one of them.
    if job is None:
        local.start(plan, __file__, environment)
    else:
        os.environ.update(environment)
        joined.export(job, os.environ)
        train(plan)


def train(plan: plans.Plan) -> None:
    """Stages 5 to 9: on every rank. Decides nothing: the plan says what is built, and is compared with what was."""
    from hydra_overlap.megatron import cpu

    # 5. A process group. Without CUDA, torch's CUDA names answer for the CPU before megatron-core is imported.
    on_cpu = cpu.install()
    import torch
    import torch.distributed as dist

    from hydra_overlap.megatron import build

    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if on_cpu else "nccl")
    try:
        with stopping.Requests() as requests:
            _train(plan, dist.get_rank(), requests)
    finally:
        build.release()
        dist.destroy_process_group()


def _train(plan: plans.Plan, rank: int, requests: stopping.Requests) -> None:
    from hydra_overlap.megatron import build, checkpoint, cpu, data, readback, step, userbuffers
    from hydra_overlap.report.ledger import make_console
    from hydra_overlap.report.run import RunReport, SilentReport, write_manifest

    cpu.finish()
    plan = build.plan_of_rank_0(plan)

    # 6. megatron-core's objects: parallel state, userbuffers, model chunks, DDP, optimizer, schedules.
    build.initialize_parallel_state(plan)
    userbuffers.initialize(plan)
    built = build.build(plan)

    # 7. Every promised value read back, on every rank. A difference raises here, before the first step.
    found = readback.read_back(plan, built)

    # 8. Where an earlier run stopped, and the text from there on: the same samples in a step, whatever the layout.
    training = plan["request"]["training"]
    resumed = checkpoint.resume(plan, built)
    done = resumed.step if resumed else 0
    samples = data.dataset(plan, training["train_iters"] * training["global_batch_size"])
    batches = [data.microbatches(plan, samples, done) for _ in built.model]

    # 9. Steps.
    console = make_console()
    if rank == 0:
        write_manifest(plan, found)
        readback.describe(found, console)
        checkpoint.describe(plan, resumed, console)
    with RunReport(plan, console) if rank == 0 else SilentReport() as report:
        for number in range(done + 1, training["train_iters"] + 1):
            report.step(step.run_step(plan, built, batches, number))
            stop = requests.agreed()
            if checkpoint.due(plan, number, stopping=stop):
                checkpoint.save(plan, built, number)
            if stop:
                raise stopping.Stopped(stopping.message(plan))
    report.summary()


if __name__ == "__main__":
    plan_of_this_rank = local.plan_of_this_rank()
    if plan_of_this_rank:
        local.as_rank(train, plan_of_this_rank)
    else:
        sys.argv += joined.quiet_overrides()
        app.cli(main)
