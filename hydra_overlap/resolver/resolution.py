"""The answer to a request: which fields are set on which megatron-core object, in which environment, and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import HydraOverlapError
from ..findings import Finding
from .ledger import LedgerRow

PROVIDER_FIELD = (
    "tp_comm_overlap_cfg"  # Megatron-Bridge's model provider has it; megatron-core's TransformerConfig does not
)


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
            raise ApplyError(f"These values did not stay set: {', '.join(lost)}.")

    def _targets(self, *objects: Any) -> Iterator[tuple[Any, str, Any]]:
        settings: tuple[Mapping[str, Any], ...] = (self.transformer_config, self.optimizer_config, self.ddp_config)
        for obj, values in zip(objects, settings, strict=True):
            for name, value in values.items():
                if obj is not None and (name != PROVIDER_FIELD or hasattr(obj, name)):
                    yield obj, name, value
