"""What this machine can start: GPU run or rehearsal, and how many ranks. Decided from facts, never with torch."""

import os
from collections.abc import Mapping
from typing import Any

from ..errors import LaunchError
from ..machine import transformer_engine
from ..machine.local import gpu_names, installed_software, local_platform
from ..rules import env_conflicts
from ..rules.layout import smallest_world
from ..schema.nodes import Request
from ..schema.versions import at_least
from .plan import Plan, world_size

OLDEST_CORE = "0.16.0"  # whose optimizer and dataset builders train.py calls
RANK_GIB = 1.0  # resident memory of one CPU rank: torch and megatron-core about 0.6 GiB, the rest for a shrunk model
TRIED = 4  # times the ranks this machine holds; more are not worth a try
RANKS_PER_CORE = 8  # beyond that gloo's time-outs are nearer than the next step


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
    smallest = smallest_world({f"parallelism.{name}": value for name, value in vars(plan.request.parallelism).items()})
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
            fixes=[("pip install 'hydra-overlap[train]'", "brings both")],
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
                ("pip install 'hydra-overlap[te]'", "keeps the overlap"),
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
            fixes=[(f"env {unset} python train.py ...", "keeps what was asked for")],
            source="; ".join(one.source for one in hurting),
        )


def rank_environment(plan: Plan, ranks_here: int) -> dict[str, str]:
    """Variables every rank starts with: the plan's, and on CPU a fair share of the cores and no GPU."""
    values: dict[str, Any] = dict(plan.resolution.env)
    if rehearses(plan):
        values["CUDA_VISIBLE_DEVICES"] = ""
        values["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // ranks_here))
        values["OMP_WAIT_POLICY"] = (
            "PASSIVE"  # spinning threads slow ranks down that share their cores, or anything else
        )
        values["OPENBLAS_NUM_THREADS"] = (
            "1"  # numpy's threads begin when it is imported, and stand in the way of a fork
        )
    return values
