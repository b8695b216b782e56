"""What this machine makes of a plan: GPU run or rehearsal, how many ranks, and why it cannot. From facts, never with torch.

`check` asks everything that the configuration does not decide; what it decides are rules (rules/), judged before.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from .. import commands
from ..errors import GatingError, LaunchError
from ..findings import yaml_value
from ..machine import transformer_engine
from ..machine.local import gpu_names, installed_software, local_platform
from ..resolver.resolve import resolve
from ..rules import env_conflicts, trn
from ..rules.layout import smallest_world
from ..schema.fields import complete
from ..schema.keys import CP, DRY_RUN, TRAINER
from ..schema.nodes import Request
from ..schema.versions import at_least
from . import checkpoint_folders, external, requeue, text_files
from .plan import Plan, world_size
from .slurm_layout import laid_out

OLDEST_CORE = "0.16.0"  # whose optimizer and dataset builders train.py calls
RANK_GIB = 1.0  # resident memory of one CPU rank: torch and megatron-core about 0.6 GiB, the rest for a shrunk model
TRIED = 4  # times the ranks this machine holds; more are not worth a try
RANKS_PER_CORE = 8  # beyond that gloo's time-outs are nearer than the next step
LOGGERS = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb"), "mlflow": ("mlflow", "mlflow")}
"""Logger -> (module, extra of ours that installs it)."""


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What `check` found. plan: with the job of launch=slurm laid out in it."""

    plan: Plan
    job: external.Joined | None
    """The ranks that somebody else started and this process is one of; None: it starts them itself."""
    queued: bool
    """The run goes into a job of Slurm."""


def check(plan: Plan, *, sweeping: bool) -> Readiness:
    """Raise LaunchError for the first thing that keeps this machine from running, or dry-running, a plan.

    sweeping: the run is one of a sweep. Of a job for Slurm its nodes decide; what can be refused without them is.
    """
    require_trainer()
    require_ours(plan)
    job = external.joined()
    if plan.request.launch.dry_run:
        _require_one_process(job)
        return Readiness(plan=plan, job=None, queued=False)
    if job:
        external.require_single_run(job, sweeping=sweeping)
        external.require_same_size(plan, job)
    queued = plan.request.launch.where == "slurm"
    if queued:
        require_submittable(plan, job, sweeping=sweeping)
        plan = laid_out(plan)
        require_versions_of_job(plan)
    else:
        require_ready(plan, job.local_ranks if job else world_size(plan))
        text_files.require(plan)
    checkpoint_folders.require_checkpoint_folders(plan)
    require_loggers(plan)
    if rehearses(plan):
        require_rehearsable(plan)
    else:
        require_built_on_gpus(plan)
    return Readiness(plan=plan, job=job, queued=queued)


def require_ours(plan: Plan) -> None:
    """Raise LaunchError for a plan that was judged for another program.

    It is dry-run all the same where train.py could run or dry-run it: that starts nothing.
    """
    trainer = plan.request.launch.trainer
    if trainer == trn.OURS:
        return
    refusals, fixes = "", [(f"{TRAINER}={trn.OURS}", "judges what train.py needs as well, and runs it")]
    try:
        resolve(plan.with_values({TRAINER: trn.OURS}).resolution.request)
    except GatingError as refusal:
        refusals = " ".join(f"{one.rule} would refuse it: {one.title}." for one in refusal.findings)
        fixes = []
    if plan.request.launch.dry_run and not refusals:
        return
    raise LaunchError(
        "The plan is for another program than train.py",
        where=[f"{TRAINER}={trainer}"],
        why=f"It can be checked, composed (--cfg job), swept over with plan_only, and exported. {refusals}".rstrip(),
        fixes=fixes,
        source="hydra_overlap/launch/preflight.py",
    )


def _require_one_process(job: external.Joined | None) -> None:
    if job and job.world_size > 1:
        raise LaunchError(
            "A dry run was started as several processes",
            where=[f"{DRY_RUN}=true", f"WORLD_SIZE={job.world_size}"],
            why="A dry run is one process: every rank that torchrun or srun started would do the same.",
            fixes=[
                (
                    f"{commands.train()} {DRY_RUN}=true",
                    "without the launcher; parallelism.world_size sets the number of ranks",
                )
            ],
            source="hydra_overlap/launch/preflight.py",
        )


def require_submittable(plan: Plan, job: external.Joined | None, *, sweeping: bool) -> None:
    """Raise LaunchError where no job can be submitted for the run: from inside one, of a sweep, without Slurm's commands."""
    if job or requeue.submitted():
        raise LaunchError(
            "This process already runs inside a job",
            where=["launch.where=slurm"],
            why=f"{job.launcher if job else 'submitit'} started it; another job would be queued from inside.",
            fixes=[("launch=local", "joins the ranks that were started")],
        )
    if sweeping and not plan.request.launch.slurm.wait:
        raise LaunchError(
            "A sweep with launch=slurm would not wait for its runs",
            where=["-m", "launch.where=slurm", "launch.slurm.wait=false"],
            why="launch=slurm returns once a job is queued; a sweep would end with no results.",
            fixes=[
                ("launch=local hydra/launcher=submitit_slurm", "queues every run of the sweep, and waits for all"),
                ("launch.slurm.wait=true", "one job after the other"),
            ],
        )
    _require_slurm()


def _require_slurm() -> None:
    if find_spec("submitit") is None:
        raise LaunchError(
            "launch=slurm is chosen, but submitit is not installed",
            where=["launch.where=slurm"],
            fixes=[(commands.install("slurm"), "installs it"), ("launch=local", "starts ranks here")],
        )
    absent = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if absent:
        raise LaunchError(
            "launch=slurm is chosen, but Slurm's commands are not on PATH",
            where=["launch.where=slurm"],
            why=f"Missing: {', '.join(absent)}. Jobs are submitted from a login node of the cluster.",
            fixes=[
                ("launch=local", "starts ranks on this machine"),
                ("--cfg job", "judges the plan without starting it"),
            ],
        )


def require_versions_of_job(plan: Plan) -> None:
    """Raise LaunchError for a job on GPUs whose tasks would find other versions than those it was judged for.

    They start in this very Python environment, so it is known before anything is queued. plan: laid out.
    """
    others = [] if rehearses(plan) else other_versions(plan)
    if others:
        here = [f"software.{name}={version or 'null'}" for name, version in installed_software().items()]
        raise LaunchError(
            "The plan was judged for versions other than those the job will run with",
            where=others,
            why="Its tasks start in this Python environment. software=auto assumes a reference stack for another machine.",
            fixes=[(" ".join(here), "judges for what is installed")],
            source="hydra_overlap/launch/preflight.py",
        )


def require_loggers(plan: Plan) -> None:
    """Raise LaunchError for a logger whose package is not installed."""
    wanted = plan.request.launch.loggers
    for name in wanted:
        module, extra = LOGGERS[name]
        if find_spec(module) is None:
            rest = [other for other in wanted if other != name]
            raise LaunchError(
                f"launch.loggers asks for {name}, which is not installed",
                where=[f"launch.loggers={yaml_value(wanted)}"],
                fixes=[
                    (commands.install(extra), "installs it"),
                    (f"launch.loggers={yaml_value(rest)}", "logs without it"),
                ],
            )


def require_rehearsable(plan: Plan) -> None:
    """Raise LaunchError where megatron-core has no CPU path at all, so that nothing would be left to rehearse.

    TRN016 refuses it already where the plan says that it is for CPUs; here it is the machine that has no GPU.
    """
    size = plan.request.parallelism.context_parallel_size
    if size > 1:
        raise LaunchError(
            trn.TRN016.title(),
            where=[f"{CP}={size}"],
            why=trn.TRN016.why,
            fixes=[
                (f"{CP}=1", "rehearses the rest of the layout"),
                (f"{DRY_RUN}=true", "builds ranks of every stage in one process without starting any"),
            ],
            source=trn.TRN016.source,
        )


def require_built_on_gpus(plan: Plan) -> None:
    """Raise LaunchError for what a rehearsal leaves out and train.py does not do on GPUs. TRN022 warned of it."""
    flat = complete(plan.resolution.request)
    if not trn.TRN022.holds(flat):
        fix, _ = trn.TRN022.fixes_for(flat)
        asked = [key for key in trn.REHEARSED_AWAY if flat[key]]
        raise LaunchError(
            "train.py does not do on GPUs what the plan asks for",
            where=[f"{key}={yaml_value(flat[key])}" for key in asked],
            why=f"{trn.TRN022.why_for(flat)} Such a plan can be judged, checked and exported.",
            fixes=[(fix.override, fix.effect)],
            source=trn.TRN022.source,
        )


def rehearses(plan: Plan) -> bool:
    """Whether the plan runs on CPU: there is no GPU here, or the plan is for none.

    A job of launch=slurm is decided where it is submitted, by the GPUs asked of Slurm, and never by the machine it is
    submitted from: `require_ready` on its nodes refuses what they do not have.
    """
    return on_cpu(plan.request)


def on_cpu(request: Request) -> bool:
    """What `rehearses` says of a plan, of its launch and platform nodes alone."""
    if request.launch.where == "slurm":
        return request.launch.slurm.gpus_per_node == 0
    return not gpu_names() or request.platform.name == "cpu"


def require_ready(plan: Plan, ranks_here: int) -> None:
    """Raise LaunchError if this machine cannot run `ranks_here` ranks of the plan: GPUs, memory, software, environment."""
    _require_promised_gpus(plan)
    require_fit(plan, ranks_here)
    require_software(plan)
    require_environment(plan)


def _require_promised_gpus(plan: Plan) -> None:
    """A node that Slurm gave must have the GPUs that were asked for: it is no place for a rehearsal in their stead."""
    launch = plan.request.launch
    if launch.where == "slurm" and launch.slurm.gpus_per_node and not gpu_names():
        raise LaunchError(
            "Slurm gave a node without a GPU",
            where=[
                f"launch.slurm.gpus_per_node={launch.slurm.gpus_per_node}",
                f"node {os.environ.get('SLURMD_NODENAME', '')}",
            ],
            why="The job asked for GPUs; NVML sees none on this node.",
            fixes=[
                ("launch.slurm.partition=NAME", "a partition whose nodes have GPUs"),
                ("launch.slurm.gpus_per_node=0", "rehearses on CPU nodes"),
            ],
            source="hydra_overlap/launch/preflight.py",
        )


def max_ranks(request: Request) -> tuple[int, str]:
    """(most ranks this machine holds, why), by the launch and platform nodes alone. launch.max_ranks wins."""
    said = request.launch.max_ranks
    if said is not None:
        return said, "launch.max_ranks"
    if not on_cpu(request):
        return len(gpu_names()), f"{len(gpu_names())} GPUs, one rank each"
    cores, memory = len(os.sched_getaffinity(0)), _available_gib()
    return max(1, min(cores * RANKS_PER_CORE, int(memory / RANK_GIB))), (
        f"{cores} cores, at most {RANKS_PER_CORE} ranks each, and {memory:.0f} GiB of free memory, {RANK_GIB:g} GiB per rank"
    )


def _available_gib() -> float:
    import psutil

    return float(psutil.virtual_memory().available) / 2**30


def require_fit(plan: Plan, ranks_here: int) -> None:
    """Raise LaunchError if this machine cannot hold `ranks_here` ranks of the plan, or is not the one planned for."""
    if not rehearses(plan):
        _require_planned_platform(plan)
    most, why = max_ranks(plan.request)
    if ranks_here <= most:
        return
    fixes = [("launch.dry_run=true", "builds ranks of every stage in one process without starting any")]
    smallest = smallest_world(complete(plan.resolution.request))
    if smallest <= most:
        fixes.insert(
            0, (f"parallelism.world_size={most // smallest * smallest}", "keeps the layout with less data parallelism")
        )
    if rehearses(plan) and ranks_here <= TRIED * most:
        fixes.append((f"launch.max_ranks={ranks_here}", "tries it anyway"))
    raise LaunchError(
        f"The plan starts {ranks_here} ranks here, but this machine holds {most}",
        where=[f"parallelism.world_size={world_size(plan)}"],
        why=f"{why[0].upper()}{why[1:]}." if " " in why else f"{why} says so.",
        fixes=fixes,
        source="hydra_overlap/launch/preflight.py",
    )


def _require_planned_platform(plan: Plan) -> None:
    planned, here = plan.request.platform.name, local_platform()["name"]
    if planned not in (None, here):
        raise LaunchError(
            "The plan is for another GPU",
            where=[f"platform.name={planned}"],
            why=f"This machine has {here}; environment and userbuffers were chosen for {planned}.",
            fixes=[("platform=auto", "plans for this machine"), ("platform=cpu", "rehearses without the GPUs")],
            source="hydra_overlap/launch/preflight.py",
        )


def require_trainer() -> None:
    """Raise LaunchError unless torch and a megatron-core that train.py is written for are installed."""
    here = installed_software()
    if here["torch"] is None or not at_least(here["megatron_core"], OLDEST_CORE):
        raise LaunchError(
            f"torch is missing, or megatron-core is missing or older than {OLDEST_CORE}",
            where=[f"torch: {here['torch'] or 'none'}", f"megatron-core: {here['megatron_core'] or 'none'}"],
            why="Only training needs them; judging, checking and exporting plans work without.",
            fixes=[(commands.install("train"), "brings both")],
            source="hydra_overlap/launch/preflight.py",
        )


def require_software(plan: Plan) -> None:
    """Raise LaunchError if ranks could not import megatron-core here, or lack what the plan promises."""
    found = transformer_engine.transformer_engine()
    if found.state == "broken":
        packages = " ".join(name.split()[0] for name in found.installed)
        raise LaunchError(
            "The installed Transformer Engine does not work",
            where=[", ".join(found.installed)],
            why=f"{found.detail}. While it is installed, importing megatron-core fails in every rank.",
            fixes=[(f"pip uninstall {packages}", "runs plans without TP overlap; or install all of its parts")],
            source="megatron-core core_v0.16.1 megatron/core/tensor_parallel/random.py:25",
        )
    promised = plan.resolution.transformer_config["tp_comm_overlap"]
    if promised and found.state == "absent" and not rehearses(plan):
        raise LaunchError(
            "TP overlap is on, but this machine has no Transformer Engine",
            where=["comm_overlap.tp.tp_comm_overlap=true"],
            why="The plan was judged for a machine that has it.",
            fixes=[
                (commands.install("te"), "keeps the overlap"),
                ("comm_overlap.tp.tp_comm_overlap=false", "gives the overlap up"),
            ],
            source="hydra_overlap/machine/transformer_engine.py",
        )
    if not rehearses(plan):
        _require_judged_versions(plan)


def other_versions(plan: Plan) -> list[str]:
    """`software.torch=2.11.0, here 2.13.0` for every version the plan was judged for that is not the one installed."""
    planned, here = vars(plan.request.software), installed_software()
    return [
        f"software.{name}={planned[name]}, here {version or 'none'}"
        for name, version in here.items()
        if planned[name] is not None and planned[name] != version
    ]


def _require_judged_versions(plan: Plan) -> None:
    others = other_versions(plan)
    if others:
        raise LaunchError(
            "The plan was judged for versions other than those installed",
            where=others,
            why="Rules depend on versions: what holds for the plan's versions may not hold for the installed ones.",
            fixes=[("software=auto", "judges for what is installed here")],
            source="hydra_overlap/launch/preflight.py",
        )


def require_environment(plan: Plan, found: Mapping[str, str] = os.environ) -> None:
    """Raise LaunchError if ranks would inherit a variable that takes back what the plan asks for. On CPU none has an effect."""
    contrary = (
        [] if rehearses(plan) else env_conflicts.contrary(plan.resolution.request, plan.resolution.to_dict(), found)
    )
    hurting = [one for one in contrary if one.severity == "error"]
    if hurting:
        unset = " ".join(f"-u {one.name}" for one in hurting)
        raise LaunchError(
            "The environment undoes what the plan asks for",
            where=[f"{one.name}={one.value}" for one in hurting],
            why=" ".join(f"{one.name} undoes {one.undoes}." for one in hurting),
            fixes=[(f"env {unset} {commands.train()} ...", "keeps what was asked for")],
            source="; ".join(one.source for one in hurting),
        )


def rank_environment(plan: Plan, ranks_here: int) -> dict[str, str]:
    """Variables every rank starts with: the plan's, and on CPU a fair share of the cores and no GPU."""
    values: dict[str, Any] = dict(plan.resolution.env)
    if rehearses(plan):
        values["CUDA_VISIBLE_DEVICES"] = ""
        values["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // ranks_here))
        # Spinning threads slow down what shares their cores; numpy's begin at its import and stand in the way of a fork.
        values |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    return values
