"""Userbuffers presets as text: the list, one preset with what its GEMMs do, two compared, the nearest to a plan."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import GatingError
from ..findings import PROSE, wrapped, yaml_value
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from ..screen import Column, print_pairs, print_rows
from .catalogue import DIMENSIONS, REASONS, Candidate, Preset, map_of, memory_of
from .gemms import NAMED, Gemm, Layers

HEADINGS = {
    "gpu": "gpu", "hidden_size": "hidden", "tp": "tp", "cp": "cp", "mbs": "mbs", "seq_length": "seq", "precision": "precision",
}  # fmt: skip
RIGHT = ("hidden_size", "tp", "cp", "mbs", "seq_length")
NUMBERS = ("num_sm", "cga_size", "num_splits")
SWITCHES = ("set_sm_margin", "aggregate", "fp8_buf", "atomic_gemm", "use_ce", "pipeline_rs_overlap_first_gemm")


def print_listing(presets: Sequence[Preset], whole: int, console: Console) -> None:
    """One row per preset: what it was tuned for, and the rules that refuse it on that very shape. whole: how many there are.

    Most names say what a preset was tuned for, so that is left out where the terminal is narrow.
    """
    tuned = [Column(title=title, right=name in RIGHT, spare=name != "cp") for name, title in HEADINGS.items()]
    columns = [Column(title="preset"), *tuned, Column(title="refused by", prose=True)]
    rows: list[tuple[str | Text, ...]] = [
        (one.name, *(_value(one.tuned_for[name]) for name in DIMENSIONS), Text(", ".join(one.refusals()), "red"))
        for one in presets
    ]
    print_rows(columns, rows, console)
    console.print(f"{len(presets)} of {whole} presets")


def print_candidates(found: Iterable[Candidate], console: Console) -> None:
    """One row per preset: how far it is from the plan, in what, and the rules that refuse it."""
    columns = (
        Column(title="preset"),
        Column(title="distance", right=True),
        Column(title="differs in", prose=True),
        Column(title="refused by", prose=True),
    )
    rows = []
    for one in found:
        why = "; ".join(f"{difference} ({REASONS[difference.dimension]})" for difference in one.differences)
        refused = Text(", ".join(one.preset.refusals()), "red")
        rows.append((one.preset.name, f"{one.distance:.1f}", why or "nothing", refused))
    print_rows(columns, rows, console)


def print_preset(one: Preset, console: Console) -> None:
    """What a preset is, then what it makes of each of the twelve GEMMs."""
    console.print(Text(one.name, "bold"), soft_wrap=True)
    for line in heading(one):
        for number, part in enumerate(wrapped(line, min(console.width, PROSE) - 4)):
            console.print(f"{'    ' if number else '  '}{part}", soft_wrap=True)
    console.print()
    _print_gemms(plan_map(one), one.layers, console)


def heading(one: Preset) -> Iterator[str]:
    """What a userbuffers preset is, line by line: its description, source, memory, the rules that refuse it."""
    yield one.description
    yield f"source: {one.source}"
    yield from one.remarks
    refused = one.refusals()
    if refused:
        yield f"refused by: {', '.join(refused)}, even for the shape it was tuned for"
    plan = one.plan()
    memory = memory_of(plan, one.layers)
    if memory is not None:
        yield f"memory: {memory:.0f} MiB per rank on that shape (computed)"


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


def _print_gemms(gemms: Iterable[Gemm], layers: Layers, console: Console) -> None:
    """One line per GEMM: the collective it hides, by which method, with which arguments of the dictionary."""
    print_pairs(((Text(one.gemm), _said(one, layers.get(one.gemm, {}))) for one in gemms), console)


def _said(one: Gemm, entry: Mapping[str, Any]) -> str:
    if not one.overlaps:
        return f"hides nothing: {one.why}"
    numbers = [f"{name} {_value(entry[name])}" for name in NUMBERS if entry.get(name) is not None]
    arguments = ", ".join([*numbers, *(name for name in SWITCHES if entry.get(name))])
    parts = [f"{one.collective} by {one.method}", arguments, "" if one.why == NAMED else one.why]
    return "; ".join(part for part in parts if part)


def differing(one: Preset, other: Preset) -> Iterator[tuple[str, Any, Any]]:
    """(argument, value, other value) where two presets differ; None is left to Transformer Engine."""
    rows = [(f"tuned_for.{name}", one.tuned_for[name], other.tuned_for[name]) for name in DIMENSIONS]
    for gemm in dict.fromkeys([*one.layers, *other.layers]):
        mine, theirs = one.layers.get(gemm, {}), other.layers.get(gemm, {})
        rows += [(f"{gemm}.{name}", mine.get(name), theirs.get(name)) for name in dict.fromkeys([*mine, *theirs])]
    yield from ((key, left, right) for key, left, right in rows if left != right)


def print_differing(one: Preset, other: Preset, console: Console) -> None:
    """Every argument in which two presets differ; empty cells are left to Transformer Engine."""
    rows = [(key, _value(left), _value(right)) for key, left, right in differing(one, other)]
    if rows:
        console.print(Text(f"{one.name} -> {other.name}", "bold"), soft_wrap=True)
        print_rows((Column(title="argument"), Column(title="first"), Column(title="second")), rows, console)
    else:
        console.print("The two presets have the same values.")


def facts_of(resolution: Resolution) -> dict[str, Any] | None:
    """Memory and GEMM map of a plan with TP overlap, for programs; None without."""
    if not resolution.transformer_config.get("tp_comm_overlap"):
        return None
    layers = resolution.userbuffers or {}
    gemms = map_of(resolution.request, layers, resolution.transformer_config)
    return {"memory_mib": memory_of(resolution.request, layers), "gemms": [gemm.to_dict() for gemm in gemms]}


def hidden(facts: Mapping[str, Any]) -> str:
    """`10 of 12`: GEMMs that hide communication. facts: of `facts_of`."""
    return f"{sum(gemm['overlaps'] for gemm in facts['gemms'])} of {len(facts['gemms'])}"


def memory(facts: Mapping[str, Any]) -> str:
    """What the buffers of a plan take. facts: of `facts_of`."""
    if facts["memory_mib"] is None:
        return "of unknown size, for model.hidden_size or seq_length is not set"
    return f"{facts['memory_mib']:.0f} MiB per rank (computed)"


def _value(value: Any) -> str:
    return "" if value is None else yaml_value(value)
