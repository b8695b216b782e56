"""Userbuffers presets as text: the list, one preset with what its GEMMs do, two compared, the nearest to a plan."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ..errors import GatingError
from ..findings import yaml_value
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from .catalogue import DIMENSIONS, REASONS, Candidate, Preset, map_of, memory_of
from .gemms import Gemm, Layers

HEADINGS = {
    "gpu": "gpu", "hidden_size": "hidden", "tp": "tp", "cp": "cp", "mbs": "mbs", "seq_length": "seq", "precision": "precision",
}  # fmt: skip
NUMBERS = ("num_sm", "cga_size", "num_splits")
SWITCHES = ("set_sm_margin", "aggregate", "fp8_buf", "atomic_gemm", "use_ce", "pipeline_rs_overlap_first_gemm")


def listing(presets: Iterable[Preset]) -> Table:
    """One row per preset: what it was tuned for, and the rules that refuse it on that very shape."""
    table = _table("preset", *HEADINGS.values(), "refused by")
    for one in presets:
        table.add_row(one.name, *(_value(one.tuned_for[name]) for name in DIMENSIONS), ", ".join(one.refusals()))
    return table


def candidates(found: Iterable[Candidate]) -> Table:
    """One row per preset: how far it is from the plan, in what, and the rules that refuse it."""
    table = _table("distance", "preset", "differs in", "refused by")
    for one in found:
        why = "; ".join(f"{difference} ({REASONS[difference.dimension]})" for difference in one.differences)
        table.add_row(f"{one.distance:.1f}", one.preset.name, why or "nothing", ", ".join(one.preset.refusals()))
    return table


def heading(one: Preset) -> Iterator[str]:
    """What a userbuffers preset is, line by line: its description, source, memory, the rules that refuse it."""
    yield one.name
    yield f"  {one.description}"
    yield f"  source: {one.source}"
    yield from (f"  {remark}" for remark in one.remarks)
    refused = one.refusals()
    if refused:
        yield f"  refused by: {', '.join(refused)}, even for the shape it was tuned for"
    plan = one.plan()
    memory = memory_of(plan, one.layers)
    if memory is not None:
        yield f"  memory: {memory:.0f} MiB per rank on that shape (computed)"


def plan_map(one: Preset) -> tuple[Gemm, ...]:
    """What the twelve GEMMs of a preset do on the shape it was tuned for; where a rule refuses, under megatron-core's own flags."""
    plan = one.plan()
    try:
        flags: Mapping[str, Any] | None = resolve(plan).transformer_config
    except GatingError:
        flags = None
    return map_of(plan, one.layers, flags)


def shown(one: Preset) -> dict[str, Any]:
    """All that `presets show` says, for programs."""
    gemms = [gemm.to_dict() for gemm in plan_map(one)]
    return {**one.to_dict(), "memory_mib": memory_of(one.plan(), one.layers), "gemms": gemms}


def gemm_table(gemms: Iterable[Gemm], layers: Layers) -> Table:
    """One row per GEMM: the collective it hides, by which method, with which arguments of the dictionary, and why."""
    table = _table("gemm", "hides", "method", *NUMBERS, "switched on", "because")
    for one in gemms:
        entry = layers.get(one.gemm, {})
        table.add_row(
            one.gemm,
            one.collective if one.overlaps else "-",
            one.method if one.overlaps else "",
            *(_value(entry.get(name)) for name in NUMBERS),
            ", ".join(name for name in SWITCHES if entry.get(name)),
            one.why,
        )
    return table


def differing(one: Preset, other: Preset) -> Table:
    """Every argument in which two presets differ; empty cells are left to Transformer Engine."""
    table = _table("", one.name, other.name)
    rows = [(f"tuned_for.{name}", one.tuned_for[name], other.tuned_for[name]) for name in DIMENSIONS]
    for gemm in dict.fromkeys([*one.layers, *other.layers]):
        mine, theirs = one.layers.get(gemm, {}), other.layers.get(gemm, {})
        rows += [(f"{gemm}.{name}", mine.get(name), theirs.get(name)) for name in dict.fromkeys([*mine, *theirs])]
    for key, left, right in rows:
        if left != right:
            table.add_row(key, _value(left), _value(right))
    return table


def facts_of(resolution: Resolution) -> dict[str, Any] | None:
    """Memory and GEMM map of a plan with TP overlap, for programs; None without."""
    if not resolution.transformer_config.get("tp_comm_overlap"):
        return None
    layers = resolution.userbuffers or {}
    gemms = map_of(resolution.request, layers, resolution.transformer_config)
    return {"memory_mib": memory_of(resolution.request, layers), "gemms": [gemm.to_dict() for gemm in gemms]}


def summary(resolution: Resolution) -> str:
    """Two lines about a plan's userbuffers: memory, and which GEMMs hide what; empty without TP overlap."""
    found = facts_of(resolution)
    if found is None:
        return ""
    memory = "unknown: model.hidden_size or seq_length is not set"
    if found["memory_mib"] is not None:
        memory = f"{found['memory_mib']:.0f} MiB per rank (computed)"
    hiding = [gemm for gemm in found["gemms"] if gemm["overlaps"]]
    by_method: dict[str, list[str]] = {}
    for gemm in hiding:
        by_method.setdefault(gemm["method"], []).append(gemm["gemm"])
    methods = "; ".join(f"{method}: {', '.join(names)}" for method, names in by_method.items())
    return f"userbuffers: {memory}; {len(hiding)} of {len(found['gemms'])} GEMMs hide communication\n  {methods}"


def _table(*columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold", no_wrap=column in ("preset", "gemm"))
    return table


def _value(value: Any) -> str:
    return "" if value is None else yaml_value(value)
