"""The answer to a request: which fields are set on which megatron-core object, in which environment, and why."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import HydraOverlapError
from ..findings import Finding
from ..schema.nodes import AUTO

NO_PRESET = "none"
PROVIDER_FIELD = (
    "tp_comm_overlap_cfg"  # Megatron-Bridge's model provider has it; megatron-core's TransformerConfig does not
)


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
        chosen += f", but for {', '.join(changed)}" if changed else ""
    yield LedgerRow(
        field="userbuffers", asked=AUTO if automatic and not layers else name, effective=effective, origin=chosen, rule=rule,
        reason=reason, source=flat["userbuffers.source"],
    )  # fmt: skip


class ApplyError(HydraOverlapError):
    """A target object lacks a field, or did not keep the value it was given."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What `resolve` answers. Everything that runs, exports or reports reads this and decides nothing.

    transformer_config, optimizer_config, ddp_config: exactly the fields to set on megatron-core's TransformerConfig,
    OptimizerConfig and DistributedDataParallelConfig. userbuffers: the dict Transformer Engine's initialize_ub gets, or
    None. env: variables every rank starts with. ledger: one row per field. findings: warnings and notes; a request
    with errors has no Resolution. request: the complete request, nested, facts and derived sizes filled in.
    """

    gating: str
    transformer_config: dict[str, Any]
    optimizer_config: dict[str, Any]
    ddp_config: dict[str, Any]
    userbuffers: dict[str, dict[str, Any]] | None
    env: dict[str, str]
    ledger: tuple[LedgerRow, ...]
    findings: tuple[Finding, ...]
    request: dict[str, Any]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The three dicts of fields to set, by their names here."""
        return {
            "transformer_config": self.transformer_config,
            "optimizer_config": self.optimizer_config,
            "ddp_config": self.ddp_config,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and YAML; `request` left out, it has a place of its own in plans and manifests."""
        return {
            "gating": self.gating,
            "transformer_config": dict(self.transformer_config),
            "optimizer_config": dict(self.optimizer_config),
            "ddp_config": dict(self.ddp_config),
            "userbuffers": None
            if self.userbuffers is None
            else {gemm: dict(e) for gemm, e in self.userbuffers.items()},
            "env": dict(self.env),
            "ledger": [row.to_dict() for row in self.ledger],
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def apply(self, transformer_config: Any, optimizer_config: Any, ddp_config: Any) -> None:
        """Set every field on megatron-core's objects and read it back.

        Any of the three may be None (left out). Raises ApplyError, before anything is set, if an object lacks a field
        (Megatron-Bridge skips it, and the overlap with it), and after if a value did not stay. tp_comm_overlap_cfg is
        set only where it exists: it is a field of Megatron-Bridge's provider, `userbuffers` says the same.
        """
        targets = list(self._targets(transformer_config, optimizer_config, ddp_config))
        missing = [f"{type(obj).__name__}.{name}" for obj, name, _ in targets if not hasattr(obj, name)]
        if missing:
            raise ApplyError(f"No such field: {', '.join(missing)}. Nothing was set.")
        for obj, name, value in targets:
            setattr(obj, name, value)
        lost = [
            f"{type(obj).__name__}.{name}={getattr(obj, name)!r}, not {value!r}"
            for obj, name, value in targets
            if getattr(obj, name) != value
        ]
        if lost:
            raise ApplyError(f"Values did not stay: {', '.join(lost)}.")

    def _targets(self, *objects: Any) -> Iterator[tuple[Any, str, Any]]:
        settings: tuple[Mapping[str, Any], ...] = (self.transformer_config, self.optimizer_config, self.ddp_config)
        for obj, values in zip(objects, settings, strict=True):
            for name, value in values.items():
                if obj is not None and (name != PROVIDER_FIELD or hasattr(obj, name)):
                    yield obj, name, value
