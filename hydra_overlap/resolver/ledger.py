"""A row of the ledger: what was asked of one field, what holds, and by which rule."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..schema.nodes import AUTO

NO_PRESET = "none"


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One field: what was asked, what holds, and by which rule.

    origin: option file, `command line`, `default` or `derived`. rule: id of the derivation, empty if asked.
    """

    field: str
    asked: Any
    effective: Any
    origin: str
    rule: str
    reason: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def userbuffers_row(flat: Mapping[str, Any], on: bool, origin: Callable[[str], str]) -> Iterator[LedgerRow]:
    """The row of the userbuffers dictionary: with TP overlap always, without it where one was asked for.

    flat: a complete request. origin: key -> origin; of `userbuffers=auto` it says what was chosen and why.
    """
    layers, chosen = flat["userbuffers.layers"], origin("userbuffers.name")
    automatic = chosen.startswith(f"userbuffers={AUTO}")
    if not (on or layers or automatic):
        return
    name = flat["userbuffers.name"] or ("unnamed" if layers else NO_PRESET)
    effective, rule, reason = name if layers else NO_PRESET, "", "asked"
    if not on:
        effective, rule, reason = None, "UB202" if layers else "", "tp_comm_overlap is off"
    elif not layers and name != NO_PRESET:
        reason = f"asked; {name} has no entries: Transformer Engine's defaults"
    elif chosen.endswith(".yaml"):  # else it says so already, or nobody knows
        changed = [gemm for gemm in layers if origin(f"userbuffers.layers.{gemm}") not in (chosen, "")]
        chosen += f", except {', '.join(changed)}" if changed else ""
    yield LedgerRow(
        field="userbuffers", asked=AUTO if automatic and not layers else name, effective=effective, origin=chosen, rule=rule,
        reason=reason, source=flat["userbuffers.source"],
    )  # fmt: skip
