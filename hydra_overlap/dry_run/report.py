"""A dry run as tables: what ranks of each pipeline stage hold and send, and their schedule. All numbers are computed."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import files
from ..launch.plan import Plan, world_size
from ..megatron import configs
from ..reference.accepted import RUN_ALL, print_accepted
from ..resolver.resolution import Resolution
from ..screen import make_console, print_prose
from . import activations
from .build import DryRun, run, without_cuda
from .collectives import MODELLED_KINDS
from .collectives_table import collectives_table
from .fit import DOES_NOT_FIT, FITS, TIGHT, assumptions, fit
from .holdings import RankFigures
from .progress import shown
from .ranks_table import chunks_table, memory_table, rank_classes
from .schedule_page import write_schedule
from .schedule_text import LEGEND, schedule_text
from .sizes import GIB
from .timeline import Timeline, summary, timeline

FILE_NAME = "dry_run.json"
DRY_RUN = "dry run"  # mode of the record
STYLES = {FITS: "bold green", TIGHT: "bold yellow", DOES_NOT_FIT: "bold red", None: "bold"}  # of the verdict


def show(plan: Plan, resolution: Resolution, *, sweeping: bool) -> dict[str, Any]:
    """The whole dry run of train.py: the plan, the ranks built, the tables; -> what a sweep compares.

    sweeping: one point of many. Its plan was printed before the first, and its numbers stand in the sweep's table.
    Raises LaunchError for what megatron-core refuses.
    """
    console = make_console()
    if not sweeping:
        print_accepted(resolution, console, rest=RUN_ALL)
    started = time.perf_counter()
    with shown(console) as told:
        found = run(plan, told)
    line = timeline([stage.events for stage in found.stages])
    files_written = write(plan, found, line), write_schedule(plan, line, layout(plan, found.ranks[0]))
    print_verdict(plan, found, console)
    if not sweeping:
        print_tables(plan, found, line, console)
    _print_files(*files_written, time.perf_counter() - started, console)
    return record(plan, found)


def print_verdict(plan: Plan, found: DryRun, console: Console) -> None:
    """How many ranks were built, whether they fit, and the layout."""
    title = f"DRY RUN of {world_size(plan):,} ranks, {len(found.ranks)} of them built: no rank was started, nothing allocated."
    found_fit = fit(plan.request, found.ranks)
    console.print()
    print_prose(title, console, style="bold yellow")
    print_prose(str(found_fit), console, style=STYLES[found_fit.verdict])
    print_prose(layout(plan, found.ranks[0]), console)


def print_tables(plan: Plan, found: DryRun, line: Timeline, console: Console) -> None:
    """Memory, chunks, collectives, the schedule, and what is not in them."""
    classes = rank_classes(found.ranks)
    unit, memory = memory_table(classes)

    def heading(text: str) -> None:
        console.print()
        print_prose(text, console)

    heading(f"memory of a rank, {unit} (computed)")
    console.print(memory)
    heading("model chunks and DDP buckets of a rank, sizes in parameters with padding (computed)")
    console.print(chunks_table(classes))
    heading("collectives of a step of one rank (recorded from megatron-core's code)")
    console.print(collectives_table(found.stages))
    heading(f"pipeline schedule: {summary(line)} (computed)")
    console.print(schedule_text(line, console.width), no_wrap=True, overflow="crop")
    print_prose(LEGEND, console, style="dim")
    heading("how this was computed, and what is left out:")
    for remark in [assumptions(fit(plan.request, found.ranks)), *remarks(plan)]:
        print_prose(f"  - {remark}", console, hanging=4)


def _print_files(numbers: Path, picture: Path, seconds: float, console: Console) -> None:
    console.print()
    print_prose(f"{seconds:.1f} s to build, {peak_gib():.2f} GiB of this process at its peak (measured)", console)
    console.print(f"every number: {numbers}\nthe schedule as a picture: {picture}", soft_wrap=True)


def record(plan: Plan, found: DryRun) -> dict[str, Any]:
    """What a sweep of dry runs compares, all of it computed: sizes in GiB of 2^30 bytes, bytes those of a step of one rank.

    Of every dimension the stage that moves most counts; a dimension without calls has no entry.
    """
    one = fit(plan.request, found.ranks)
    moved: dict[str, float] = {}
    for stage in found.stages:
        for dimension in {row.dimension for row in stage.collectives} - {"all"}:
            total = sum(row.bytes_per_step for row in stage.collectives if row.dimension == dimension)
            moved[dimension] = max(moved.get(dimension, 0), total / GIB)
    return {
        "mode": DRY_RUN,
        "layout": layout(plan, found.ranks[0]).partition(";")[0],
        "verdict": one.verdict,
        "needed_gib": one.needed / GIB,
        "margin_gib": None if one.usable is None else (one.usable - one.needed) / GIB,
        "bubble_percent": timeline([stage.events for stage in found.stages]).bubble * 100,
        **{f"{dimension.lower()}_gib": size for dimension, size in sorted(moved.items())},
    }


def layout(plan: Plan, one: RankFigures) -> str:
    """The layout, batches and vocabulary in one line."""
    ranks, model, training = plan.request.parallelism, plan.request.model, plan.request.training
    parts = [f"TP{ranks.tensor_model_parallel_size}", f"CP{ranks.context_parallel_size}"]
    parts += [f"PP{ranks.pipeline_model_parallel_size}"]
    parts += [f"VPP{len(one.chunks)}"] if len(one.chunks) > 1 else []
    parts += [f"EP{ranks.expert_model_parallel_size}"] if model.num_moe_experts else []
    return (
        f"{' '.join(parts)} DP{one.data_parallel_size}; {one.num_microbatches} microbatches of "
        f"{training.micro_batch_size} x {model.seq_length:,} tokens; vocabulary {model.vocab_size:,}, padded "
        f"{configs.padded_vocab_size(plan):,} (computed)"
    )


def remarks(plan: Plan) -> list[str]:
    """How the numbers came about and what they leave out, for this plan."""
    request = plan.request
    _, replaced = without_cuda(plan)
    attention = "with" if activations.keeps_scores(request) else "without"
    lines = [
        "parameters, buckets, optimizer shards, microbatches: from megatron-core's own objects on the meta device",
        "layers: megatron-core's own; Transformer Engine's layers hold the same parameters, with norms elsewhere in the "
        "order of buckets",
        f"activations: an estimate, {attention} attention's S x S matrices, at the point of a step where the most "
        f"layers have microbatches in flight; {activations.SOURCE}",
        "optimizer: fp32 main parameters and fp32 states, as after the first step",
        "collectives: what megatron-core hands to process groups during a step, without values; bytes of the whole tensor, "
        "as in nccl-tests; groups of one rank are left out",
        "schedule: megatron-core's order of forwards and backwards; a forward takes 1 unit, a backward 2, communication none",
    ]
    if plan.resolution.transformer_config.get("tp_comm_overlap"):
        lines.append(
            "userbuffers: move what layers gather and scatter over TP, inside Transformer Engine's GEMMs instead of NCCL; "
            "embedding, output layer and loss stay with NCCL"
        )
    if request.parallelism.context_parallel_size > 1:
        kind = request.model.cp_comm_type
        lines.append(
            "CP: the calls of Transformer Engine's attention are modelled from its source"
            if kind in MODELLED_KINDS
            else f"CP: the calls of cp_comm_type={kind} are not listed"
        )
    modules = set(request.model.recompute_modules or ()) - {"core_attn"}
    if request.model.recompute_granularity == "selective" and modules:
        lines.append(f"activations: recomputing {', '.join(sorted(modules))} is not subtracted")
    if request.model.mtp_num_layers:
        lines.append("activations: multi-token-prediction layers are not counted; their parameters are")
    if request.model.num_moe_experts:
        lines.append(
            "activations: experts are assumed to get equally many tokens; the paper's way of counting is extended to experts"
        )
        lines.append("EP: all-to-alls carry what they would carry if every expert got equally many tokens")
    if request.precision.fp8:
        lines.append(
            "FP8: weights and activations are counted in 16 bits; FP8 copies, or parameters kept in FP8, are not counted"
        )
    return lines + [f"built without {line}" for line in replaced]


def peak_gib() -> float:
    """Resident memory of this process at its peak, GiB (measured)."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def write(plan: Plan, found: DryRun, line: Timeline) -> Path:
    """Every number of every built rank, tagged, as JSON in the run's output directory; -> the file."""
    path = Path(plan.output_dir, FILE_NAME)
    ranks = [
        {**dataclasses.asdict(one), "parameters": one.parameters, "total_bytes": one.total_bytes} for one in found.ranks
    ]
    stages = [
        {
            "stage": one.stage,
            "rank": one.rank,
            "collectives": [{**vars(row), "bytes_per_step": row.bytes_per_step} for row in one.collectives],
        }
        for one in found.stages
    ]
    content = {
        "origin": "computed",
        "overrides": list(plan.overrides),
        "world_size": world_size(plan),
        "memory_gib": plan.request.platform.memory_gib,
        "fit": fit(plan.request, found.ranks).to_dict(),
        "padded_vocab_size": configs.padded_vocab_size(plan),
        "remarks": remarks(plan),
        "schedule": {"units": line.length, "ideal_units": line.ideal, "bubble": line.bubble, "chunks": line.chunks},
        "ranks": ranks,
        "stages": stages,
    }
    return files.write_json(path, content, allow_nan=True)
