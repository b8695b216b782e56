"""The audit of Megatron-Bridge's performance recipes: what each asks for, what Bridge makes of it, what our rules say.

The recipes come as a file of facts (tests/reference/bridge_recipes.json has its form): Bridge's recipe functions were
run and their configs recorded. Bridge's answer is worked out here again, by `gating: bridge`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import option_files
from ..errors import GatingError
from ..export.megatron_lm import BASES
from ..findings import Finding
from ..resolver.resolve import resolve
from ..rules import RULES
from ..schema.fields import TREE
from .megatron_bridge import preset

DIMS = {"layers": "num_layers", "hidden": "hidden_size", "ffn": "ffn_hidden_size", "heads": "num_attention_heads",
        "kv": "num_query_groups", "head_dim": "kv_channels", "vocab": "vocab_size"}  # fmt: skip
FP8 = {"fp8mx": "mxfp8", "fp8cs": "tensorwise", "fp8sc": "blockwise", "fp8ds": "delayed"}
SOFTWARE = {"torch": "2.11.0", "megatron_core": "0.19.0", "transformer_engine": "2.14.0", "origin": "assumed"}
"""megatron-core: what Bridge v0.6.0 carries; the others as new as its recipes need, assumed."""
TP_OVERLAP = "tp_comm_overlap"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe. asks: it sets tp_comm_overlap. in_bridge: it is in effect there. findings: of our rules."""

    recipe: str
    model: str
    asks: bool
    in_bridge: bool
    bridge: dict[str, Any] | None
    findings: tuple[Finding, ...]

    @property
    def refused_by(self) -> tuple[str, ...]:
        """Rules that refuse, in order."""
        return tuple(finding.rule for finding in self.findings if finding.severity == "error")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "recipe": self.recipe, "asks_tp_overlap": self.asks, "tp_overlap_in_bridge": self.in_bridge,
            "refused_by": list(self.refused_by),
            "remarks": [finding.rule for finding in self.findings if finding.severity != "error"],
        }  # fmt: skip


def load(path: Path) -> list[dict[str, Any]]:
    """The recipes of a file. Raises ValueError if it is none."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("recipes"), list):
        raise ValueError(f"{path} does not hold a list of recipes")
    return list(content["recipes"])


def request(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as a request. What was not recorded is left unsaid, or (in `_model` and here) what refuses nothing."""
    asked = recipe["comm_overlap_user"]
    overlap: dict[str, dict[str, Any]] = {}
    for name, value in (asked or {}).items():
        dimension = next(d for d, fields in TREE["comm_overlap"].items() if name in fields)
        overlap.setdefault(dimension, {})[name] = value
    name = preset(recipe["ub_preset"]) if recipe["ub_preset"] else "none"
    ddp = {key: value for key, value in recipe["ddp"].items() if value is not None}
    in_fp32 = ddp.pop("grad_reduce_in_fp32", False)
    if asked is not None and ddp["use_distributed_optimizer"]:  # CommOverlapConfig writes over these
        ddp = {key: value for key, value in ddp.items() if f"ddp.{key}" not in BASES}
    if recipe["fsdp"]:
        ddp |= {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim_grads_params"}  # not recorded
    distributed = recipe["ddp"]["use_distributed_optimizer"]
    precision = {"bf16": True, "grad_reduce_in_fp32": in_fp32}
    if recipe["precision"] in FP8:
        precision |= {"fp8": "hybrid", "fp8_recipe": FP8[recipe["precision"]]}
    system = recipe["system"]
    return {
        "parallelism": {
            "tensor_model_parallel_size": recipe["tp"], "pipeline_model_parallel_size": recipe["pp"],
            "virtual_pipeline_model_parallel_size": recipe["vp"], "context_parallel_size": recipe["cp"],
            "expert_model_parallel_size": recipe["ep"], "expert_tensor_parallel_size": recipe["etp"],
            "sequence_parallel": recipe["sp"], "world_size": recipe["gpus"],
        },
        "comm_overlap": overlap,
        "userbuffers": option_files.option("userbuffers", name),
        "model": _model(recipe),
        "precision": precision,
        "ddp": ddp,
        "optimizer": {"use_distributed_optimizer": distributed},
        "training": {"micro_batch_size": recipe["mbs"], "global_batch_size": recipe["gbs"]},
        "platform": option_files.option("platform", system) if system in option_files.options("platform") else {"name": system},
        "software": SOFTWARE,
        "launch": _launch(recipe["env_vars"]),
    }  # fmt: skip


def _model(recipe: Mapping[str, Any]) -> dict[str, Any]:
    dims = {DIMS.get(name, name): value for name, value in recipe["dims"].items() if name != "dims_source"}
    if recipe["ep"] > 1:
        dims.setdefault("num_moe_experts", recipe["ep"])  # not recorded for all
    if dims.get("num_layers", 0) % (recipe["pp"] * (recipe["vp"] or 1)):
        del dims["num_layers"]  # dealt out unevenly, and how was not recorded
    moe = {}
    if dims.get("num_moe_experts"):
        dispatcher = recipe["moe"]["moe_token_dispatcher_type"]
        moe = {
            "moe_token_dispatcher_type": dispatcher,
            "moe_shared_expert_overlap": recipe["moe"]["moe_shared_expert_overlap"],
        }
        if dispatcher == "flex":  # elsewhere the field holds megatron-core's default, which nobody reads
            moe["moe_flex_dispatcher_backend"] = recipe["moe"]["moe_flex_dispatcher_backend"]
    granularity, modules, layers = recipe["recompute"]
    how, scope = recipe["cuda_graph"]
    scope = [scope] if isinstance(scope, str) else list(scope or [])
    scope = ["full_iteration"] if how == "full_iteration" else [] if how in (None, "none") else scope
    known = {"core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"}
    return {
        "name": recipe["model"], "seq_length": recipe["seq"], "gradient_accumulation_fusion": True, **dims, **moe,
        "recompute_granularity": granularity, "recompute_num_layers": layers,
        "recompute_method": "uniform" if granularity == "full" else None,  # not recorded
        "recompute_modules": [name for name in modules if name in known] if modules and granularity else None,
        "cuda_graph_scope": scope,
    }  # fmt: skip


def _launch(env: Mapping[str, Any]) -> dict[str, Any]:
    names = {"layernorm_sm_margin": "NVTE_FWD_LAYERNORM_SM_MARGIN", "nccl_pp_comm_chunksize": "NCCL_P2P_NET_CHUNKSIZE"}
    return {field: int(env[name]) for field, name in names.items() if name in env}


def judge(recipe: Mapping[str, Any]) -> Row:
    """One recipe under Bridge's rules and under ours."""
    said = request(recipe)
    asks = bool((recipe["comm_overlap_user"] or {}).get(TP_OVERLAP))
    try:
        bridge = resolve({**said, "gating": "bridge"})
        settings = {**bridge.transformer_config, **bridge.optimizer_config, **bridge.ddp_config}
    except GatingError:
        settings = None
    try:
        findings = resolve(said).findings
    except GatingError as refusal:
        findings = refusal.findings
    return Row(
        recipe=recipe["recipe"], model=recipe["model"], asks=asks,
        in_bridge=bool(settings and settings[TP_OVERLAP] and recipe["comm_overlap_user"]), bridge=settings,
        findings=findings,
    )  # fmt: skip


def audit(recipes: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What becomes of every performance recipe of Megatron-Bridge, in their order."""
    return [judge(recipe) for recipe in recipes]


def report(rows: list[Row]) -> str:
    """Markdown: the count, a table by model, a table by rule."""
    return "\n".join([*_summary(rows), "", *_by_model(rows), "", *_by_rule(rows)])


def _summary(rows: list[Row]) -> Iterator[str]:
    asking = [row for row in rows if row.asks]
    lost = [row for row in asking if not row.in_bridge]
    refused = [row for row in rows if row.refused_by]
    found = sum("TP001" in row.refused_by for row in lost)
    yield (
        f"{len(rows)} recipes. {len(asking)} ask for TP overlap; Megatron-Bridge switches it off in {len(lost)} of them. "
        f"Our rules refuse {sum(bool(row.refused_by) for row in lost)} of those {len(lost)} (TP001 in {found}), and "
        f"{len(refused)} recipes in all."
    )


def _by_model(rows: list[Row]) -> Iterator[str]:
    yield "| model | recipes | ask for TP overlap | in effect in Bridge | lost in Bridge | refused by our rules |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for model in sorted({row.model for row in rows}):
        mine = [row for row in rows if row.model == model]
        asks = [row for row in mine if row.asks]
        held = sum(row.in_bridge for row in asks)
        rules = Counter(rule for row in mine for rule in row.refused_by)
        refused = ", ".join(f"{rule} ({count})" for rule, count in sorted(rules.items()))
        yield f"| {model} | {len(mine)} | {len(asks)} | {held} | {len(asks) - held} | {refused or 'none'} |"


def _by_rule(rows: list[Row]) -> Iterator[str]:
    titles = {rule.__name__: rule for rule in RULES}
    counts = Counter(rule for row in rows for rule in {finding.rule for finding in row.findings})
    yield "| rule | severity | recipes | problem |"
    yield "| --- | --- | ---: | --- |"
    for rule in sorted(counts):
        yield f"| {rule} | {titles[rule].severity} | {counts[rule]} | {titles[rule].title()} |"
