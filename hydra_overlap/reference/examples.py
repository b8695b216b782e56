"""What a rule says about its own example, the smallest request it refuses; what derivations answer to a few small ones."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import dotted
from ..errors import GatingError
from ..findings import Finding
from ..resolver.resolve import resolve
from ..rules import Derivation, Rule
from ..rules.tp import LEGAL
from ..schema.keys import DEFER, RS_DGRAD

_DP8 = ("parallelism.world_size=8",)
_SHARDED = (*_DP8, "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true")
_PP2 = ("parallelism.pipeline_model_parallel_size=2", "parallelism.world_size=16", *_SHARDED[1:])
_INTERLEAVED = ("parallelism.virtual_pipeline_model_parallel_size=2", "training.global_batch_size=16")
_SMALL = ("model.num_layers=4", "model.hidden_size=64", "model.num_attention_heads=4", "model.vocab_size=256")
PLANS: tuple[tuple[str, ...], ...] = (
    (),
    _DP8,
    _SHARDED,
    (*_SHARDED, "comm_overlap.dp.overlap_grad_reduce=false"),
    (*_SHARDED, "ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params"),
    (*_SHARDED, *_SMALL),
    LEGAL,
    (*LEGAL, f"{RS_DGRAD}=true"),
    (*LEGAL, "userbuffers.layers.qkv_dgrad={method:pipeline}"),
    _PP2,
    (*_PP2, *_INTERLEAVED, "model.num_layers=8"),
    (*_PP2, f"{DEFER}=true", "model.gradient_accumulation_fusion=true", "software.transformer_engine=2.11.0"),
)
"""Accepted requests, each with a decision of its own; a test holds them to both."""


_ATOM = r"(?:-?(?:0|[1-9]\d*)|\d+\.\d+\.\d+|(?!(?:inf|nan)\b)[a-z]\w*)"  # a whole number, a version, a name
_PLAIN = re.compile(rf"[a-z_][\w.]*=({_ATOM}|\[{_ATOM}(,{_ATOM})*\]|{{[a-z]\w*:{_ATOM}(,[a-z]\w*:{_ATOM})*}})")
_NAMED = {"true": True, "false": False, "null": None}


class Decision(NamedTuple):
    """What a derivation makes of one of PLANS, and why."""

    value: Any
    reason: str
    plan: tuple[str, ...]


def decisions(derivation: Derivation) -> Iterator[Decision]:
    """What it decides where: the first of PLANS for each value and reason. Other requests may have further reasons."""
    seen = set()
    for plan in PLANS:
        for row in resolve(_request(plan)).ledger:
            if row.rule == derivation.id and (row.effective, row.reason) not in seen:
                seen.add((row.effective, row.reason))
                yield Decision(row.effective, row.reason, plan)


def example(rule: type[Rule]) -> Finding | None:
    """The finding of `rule` on its example; None for rules that only a composition can trip."""
    if not rule.refused:
        return None
    try:
        findings = resolve(_request(rule.refused)).findings
    except GatingError as refusal:
        findings = refusal.findings
    return next(finding for finding in findings if finding.rule == rule.__name__)


def _request(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The request that says just these overrides, as Hydra reads them."""
    request: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        dotted.put(request, key, _value(text) if _PLAIN.fullmatch(override) else _parsed(override))
    return request


def _value(text: str) -> Any:
    """Of a text that _PLAIN describes."""
    if text.startswith("["):
        return [_value(item) for item in text[1:-1].split(",")]
    if text.startswith("{"):
        entries = (entry.partition(":") for entry in text[1:-1].split(","))
        return {name: _value(value) for name, _, value in entries}
    return int(text) if text.lstrip("-").isdigit() else _NAMED.get(text, text)


def _parsed(override: str) -> Any:
    """Any other value, by Hydra's grammar. Importing that takes longer than all else that a page needs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override).value()
