"""An accepted plan on a terminal: the verdict and the layout in one line, then only what is not as megatron-core has it."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..presets.one_line import in_one_line
from ..presets.tables import facts_of, hidden, memory
from ..resolver.ledger import LedgerRow
from ..resolver.ledger_table import because, print_ledger, setting
from ..resolver.resolution import Resolution
from ..schema.targets import UPSTREAM
from ..screen import print_findings, print_pairs, print_prose

COMMAND_LINE = "command line"
NAMES = {"torch": "torch", "megatron_core": "megatron-core", "transformer_engine": "Transformer Engine"}
ENVIRONMENT, SOFTWARE = "env.", "software."
CHECK_ALL = "--verbose lists every field, with the reason for its value."
RUN_ALL = "`hydra-overlap check --verbose` with the same overrides lists every field, with the reason for its value."


def print_accepted(resolution: Resolution, console: Console, *, verbose: bool = False, rest: str = CHECK_ALL) -> None:
    """The verdict, what differs from megatron-core's defaults, and warnings and notes.

    verbose: every field of the ledger instead. rest: how the reader gets the fields that are left out.
    """
    print_prose(f"accepted: {in_one_line(resolution)}", console, style="bold green", most=console.width)
    if verbose:
        console.print()
        print_ledger(resolution.ledger, console)
        _print_gemms(resolution, console)
    else:
        _print_differences(resolution, console, rest)
    print_findings(resolution.findings, console)


def _print_differences(resolution: Resolution, console: Console, rest: str) -> None:
    fields = [row for row in resolution.ledger if not row.field.startswith(SOFTWARE)]
    environment = [row for row in fields if row.field.startswith(ENVIRONMENT)]
    lost = [row for row in fields if row.asked is not None and row.asked != row.effective]
    asked = [row for row in fields if row.asked is not None and row not in lost and _notable(row)]
    decided = [
        row
        for row in fields
        if row.asked is None and row not in environment and _notable(row) and _matters(row, resolution)
    ]
    _print_section("asked for", asked, console)
    _print_section("asked for, and not in effect", lost, console)
    _print_section("decided for this layout", decided, console)
    _print_section("environment of every rank", environment, console)
    _print_software(resolution.ledger, console)
    left = len(fields) - len([*asked, *lost, *decided, *environment])
    _print_aside(f"{left} other overlap fields are as megatron-core has them, or without effect here. {rest}", console)


def _notable(row: LedgerRow) -> bool:
    """Whether a field was typed by the user, or is not as megatron-core has it."""
    return row.origin == COMMAND_LINE or row.field not in UPSTREAM or row.effective != UPSTREAM[row.field]


def _matters(row: LedgerRow, resolution: Resolution) -> bool:
    """Whether there is anything that a field decided by us could overlap."""
    node = row.field.split(".")[1:2]
    if node == ["tp"]:
        return bool(resolution.transformer_config.get("tp_comm_overlap"))
    return node != ["pp"] or resolution.request["parallelism"]["pipeline_model_parallel_size"] > 1


def _print_section(title: str, rows: Sequence[LedgerRow], console: Console) -> None:
    if rows:
        console.print(Text(f"\n{title}", "bold"))
        print_pairs(((setting(row, name=row.field.removeprefix(ENVIRONMENT)), _origin(row)) for row in rows), console)


def _origin(row: LedgerRow) -> str:
    """Why a value is what it is; nothing of a preset whose file has its name."""
    return "" if because(row) == f"userbuffers/{row.effective}.yaml" else because(row)


def _print_software(ledger: Sequence[LedgerRow], console: Console) -> None:
    versions = [row for row in ledger if row.field.startswith(SOFTWARE)]
    if versions:
        said = ", ".join(f"{NAMES[row.field.removeprefix(SOFTWARE)]} {row.effective}" for row in versions)
        _print_aside(f"assumed: {said}; checked where the run starts.", console)


def _print_aside(text: str, console: Console) -> None:
    console.print()
    print_prose(text, console, style="dim", hanging=0)


def _print_gemms(resolution: Resolution, console: Console) -> None:
    facts: dict[str, Any] | None = facts_of(resolution)
    if facts is None:
        return
    console.print()
    said = f"GEMMs that hide communication: {hidden(facts)}; buffers: {memory(facts)}"
    print_prose(said, console, style="bold", hanging=0, most=console.width)
    methods: dict[str, list[str]] = {}
    for gemm in facts["gemms"]:
        if gemm["overlaps"]:
            methods.setdefault(gemm["method"], []).append(gemm["gemm"])
    print_pairs(((Text(method), ", ".join(names)) for method, names in methods.items()), console)
