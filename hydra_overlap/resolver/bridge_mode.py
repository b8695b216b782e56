"""`gating: bridge`: what Megatron-Bridge v0.6.0 makes of the same request, and every change it makes, as findings.

For migration and comparison. It disables, derives, drops and asserts where Bridge does, and lets user overrides bypass
its gates where Bridge does. One finding of severity `warning` per warning Bridge logs; what Bridge changes without a
word is a `note`. Settings are those on the three objects after CommOverlapConfig.setup(); the later synchronisation of
overlap_param_gather (training/config.py:1964-1976) is a note. See docs/decisions/0003-bridge-mode.md.
"""

from collections.abc import Mapping
from typing import Any

from .. import dotted
from ..errors import GatingError
from ..findings import Finding, Place, yaml_value
from ..rules._base import Origin
from ..rules.env import ENV001, launch_environment
from ..rules.layout import data_parallel_size, model_ranks, smallest_world
from ..rules.pipeline_layout import virtual_size
from ..schema.keys import (
    ALIGN_GATHER,
    BATCH_P2P,
    BOOTSTRAP,
    BUCKET,
    CP,
    DEFER,
    DEFERRAL_LIMIT,
    DELAY_WGRAD,
    EP_OVERLAP,
    GRAD_REDUCE,
    P2P,
    PARAM_GATHER,
    PP,
    STEP_GATHER,
    TP,
    TP_OVERLAP,
    VPP,
    WORLD,
)
from ..schema.targets import TRANSFORMER_FIELDS, field_name
from ..schema.versions import at_least
from .ledger import LedgerRow, userbuffers_row
from .resolution import Resolution

SOURCE = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py"
DERIVED_BUCKET = 128 * 1024 * 1024  # parameters
DERIVED_DEFERRAL_LIMIT = -1  # which megatron-core refuses as soon as the deferral is on

USER_KEYS: dict[str, str] = {
    field_name(key): key
    for key in (
        TP_OVERLAP, BOOTSTRAP, P2P, BATCH_P2P, DEFER, DEFERRAL_LIMIT, GRAD_REDUCE, PARAM_GATHER, STEP_GATHER, ALIGN_GATHER,
        BUCKET, EP_OVERLAP, DELAY_WGRAD,
    )
}  # fmt: skip
"""Fields of Bridge's CommOverlapConfig."""
MODEL_KEYS = {name: key for name, key in TRANSFORMER_FIELDS.items() if name not in USER_KEYS}
"""Not in CommOverlapConfig: with Bridge these are set on the model itself, and stay."""
DDP_DEFAULTS = {
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "align_param_gather": False,
    "bucket_size": None,
}
WHY = {
    "error": "Megatron-Bridge asserts this. gating=strict judges the same request by our rules and names fixes.",
    "warning": "Megatron-Bridge logs one line and continues; gating=strict refuses instead of changing what was asked.",
    "note": "Megatron-Bridge does this silently.",
}
OPTIMIZER_DEFAULTS = {"overlap_param_gather": False, "overlap_param_gather_with_optimizer_step": False}


def resolve(flat: dict[str, Any], origin: Origin) -> Resolution:
    """Bridge's answer. Raises GatingError where Bridge asserts."""
    request = dotted.nested(flat)
    if flat[WORLD] is None:
        flat[WORLD] = request["parallelism"]["world_size"] = smallest_world(flat)
    if flat[VPP] is None:  # TransformerConfig takes it from the layout before Bridge looks at it
        flat[VPP] = virtual_size(flat)
        dotted.put(request, VPP, flat[VPP])
    user = {name: flat[key] for name, key in USER_KEYS.items()}
    if flat[WORLD] % model_ranks(flat):
        title = "world_size is not a multiple of TP x PP x CP"
        raise GatingError([_refusal("BRIDGE100", title, (WORLD, TP, PP, CP), flat, origin)])
    if flat[PP] > 1 and not ENV001.holds(flat):  # PerfEnvPlugin asserts it, and looks only in a pipeline
        raise GatingError([ENV001.finding(flat, origin)])
    findings = _gate_tp(flat, user, origin)
    refused = [_refusal(rule, title, keys, flat, origin) for rule, title, keys in _assertions(flat, user)]
    if refused:
        raise GatingError(refused)

    model, reasons = _model_fields(flat, user)
    if model["tp_comm_overlap"] and model["tp_comm_overlap_cfg"] is None:
        title = "TP overlap runs on Transformer Engine's default userbuffers"
        findings.append(_finding("BRIDGE004", "warning", title, ("comm_overlap.tp.tp_comm_overlap",), flat, origin))
    model |= {name: flat[key] for name, key in MODEL_KEYS.items() if flat[key] is not None}
    base_ddp = {
        name: default if flat[f"ddp.{name}"] is None else flat[f"ddp.{name}"] for name, default in DDP_DEFAULTS.items()
    }
    base_opt = {
        name: default if flat[f"optimizer.{name}"] is None else flat[f"optimizer.{name}"]
        for name, default in OPTIMIZER_DEFAULTS.items()
    }
    ddp, optimizer = dict(base_ddp), dict(base_opt)
    if flat["ddp.use_distributed_optimizer"]:
        fields, why = _data_parallel_fields(flat, user)
        reasons |= why
        ddp.update({name: fields[name] for name in DDP_DEFAULTS})
        optimizer.update({name: fields[name] for name in OPTIMIZER_DEFAULTS})
        if user["delay_wgrad_compute"]:
            ddp["delay_wgrad_compute"] = True  # copied as well; left null it means megatron-core's false
    findings += _silent_changes(flat, user, base_ddp, ddp, base_opt, optimizer, origin)

    environment = launch_environment(flat)
    effective = {**model, **optimizer, **ddp}
    return Resolution(
        gating="bridge",
        transformer_config=model,
        optimizer_config=optimizer,
        ddp_config=ddp,
        userbuffers=_layers(flat) if model["tp_comm_overlap"] else None,
        env={value.name: value.value for value in environment},
        ledger=tuple(_ledger(flat, effective, reasons, origin)),
        findings=tuple(findings),
        request=request,
    )


def _gate_tp(flat: Mapping[str, Any], user: dict[str, Any], origin: Origin) -> list[Finding]:
    """comm_overlap.py:442-451. Bridge switches TP overlap off in its copy of the request, and logs a warning."""
    if user["tp_comm_overlap"] is not True:
        return []
    if flat[TP] < 2:
        rule, title, keys = "BRIDGE001", "TP overlap is switched off because TP < 2", (TP,)
    elif not flat["parallelism.sequence_parallel"]:
        rule, title, keys = (
            "BRIDGE002",
            "TP overlap is switched off without sequence parallelism",
            ("parallelism.sequence_parallel",),
        )
    elif flat["software.transformer_engine"] is None:
        rule, title, keys = (
            "BRIDGE003",
            "TP overlap is switched off without Transformer Engine",
            ("software.transformer_engine",),
        )
    else:
        return []
    user["tp_comm_overlap"] = False
    return [_finding(rule, "warning", title, ("comm_overlap.tp.tp_comm_overlap", *keys), flat, origin)]


def _assertions(c: Mapping[str, Any], user: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """comm_overlap.py:466-557: (id, what Bridge asserts, keys) of every assertion that fails. Bridge stops at the first."""
    ep_on, delay = user["overlap_moe_expert_parallel_comm"] is True, user["delay_wgrad_compute"] is True
    te = c["software.transformer_engine"]
    method, layers = c["model.recompute_method"], c["model.recompute_num_layers"]
    failed: list[tuple[str, str, tuple[str, ...]]] = []

    def expect(holds: bool, rule: str, title: str, *keys: str) -> None:
        if not holds:
            failed.append((rule, title, keys))

    if ep_on:
        expect(c["parallelism.expert_model_parallel_size"] > 1, "BRIDGE101", "EP overlap is on with expert_model_parallel_size = 1",
               "parallelism.expert_model_parallel_size")  # fmt: skip
        expect(
            (c["model.num_moe_experts"] or 0) > 1,
            "BRIDGE102",
            "EP overlap is on with fewer than two experts",
            "model.num_moe_experts",
        )
        expect(c["model.moe_token_dispatcher_type"] in ("alltoall", "flex"), "BRIDGE103",
               "EP overlap is on without the alltoall or flex dispatcher", "model.moe_token_dispatcher_type")  # fmt: skip
        expect(
            c["precision.bf16"] or c["precision.fp16"],
            "BRIDGE104",
            "EP overlap is on without bf16 or fp16",
            "precision.bf16",
        )
        expect(
            _torch_is_new_enough(c["software.torch"]),
            "BRIDGE105",
            "EP overlap is on with torch older than 2.6",
            "software.torch",
        )
        expect(c[PP] == 1 or c[VPP] is not None, "BRIDGE106", "EP overlap is on with PP > 1 and without VPP", PP, VPP)
        expect(c["model.recompute_granularity"] != "full", "BRIDGE107", "EP overlap is on with full recomputation",
               "model.recompute_granularity")  # fmt: skip
        expect(method is None, "BRIDGE108", "EP overlap is on with a recompute method", "model.recompute_method")
        expect(layers is None, "BRIDGE109", "EP overlap is on with recompute_num_layers", "model.recompute_num_layers")
        expect("moe" not in (c["model.recompute_modules"] or ()), "BRIDGE110", "EP overlap is on with recomputation of moe",
               "model.recompute_modules")  # fmt: skip
        expect(not c["model.moe_shared_expert_overlap"], "BRIDGE111", "EP overlap is on together with shared-expert overlap",
               "model.moe_shared_expert_overlap")  # fmt: skip
        expect(c["model.mtp_num_layers"] in (None, 0, 1), "BRIDGE112", "EP overlap is on with several MTP layers",
               "model.mtp_num_layers")  # fmt: skip
    if delay:
        # The base value of ddp counts as well as the user's, the derived one does not.
        reduces = bool(c["ddp.overlap_grad_reduce"] or user["overlap_grad_reduce"])
        gaf = c["model.gradient_accumulation_fusion"]
        expect(not reduces or at_least(te, "2.7.0"), "BRIDGE113", "delay_wgrad_compute and overlap_grad_reduce are on without TE 2.7",
               "software.transformer_engine")  # fmt: skip
        expect(not gaf or at_least(te, "2.7.0"), "BRIDGE114",
               "delay_wgrad_compute and gradient_accumulation_fusion are on without TE 2.7", "software.transformer_engine")  # fmt: skip
        expect(bool(user["overlap_moe_expert_parallel_comm"]), "BRIDGE115", "delay_wgrad_compute is on without EP overlap",
               "comm_overlap.ep.overlap_moe_expert_parallel_comm")  # fmt: skip
        scope = c["model.cuda_graph_scope"] or ()
        shared = c["model.moe_shared_expert_intermediate_size"] is not None and not c["model.moe_shared_expert_overlap"]
        if "attn" in scope or ("moe_router" in scope and shared):
            expect(at_least(te, "2.12.0"), "BRIDGE116", "delay_wgrad_compute is on in a CUDA graph without TE 2.12",
                   "software.transformer_engine", "model.cuda_graph_scope")  # fmt: skip
            expect(gaf, "BRIDGE117", "delay_wgrad_compute is on in a CUDA graph without gradient_accumulation_fusion",
                   "model.gradient_accumulation_fusion", "model.cuda_graph_scope")  # fmt: skip
            biased = c["model.add_bias_linear"] or c["model.add_qkv_bias"]
            expect("attn" not in scope or not biased, "BRIDGE118", "delay_wgrad_compute is on in a CUDA graph with attention bias",
                   "model.add_bias_linear", "model.add_qkv_bias")  # fmt: skip
    return failed


def _torch_is_new_enough(version: str | None) -> bool:
    """Bridge runs inside torch: where the request does not say which, its assertion is taken to hold."""
    return version is None or at_least(version, "2.6.0")


def _model_fields(c: Mapping[str, Any], user: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """comm_overlap.py:421-464, 594-602, 614-633: derive, let the user's values win, copy."""
    interleaved = c[PP] > 1 and (c[VPP] or 1) > 1
    derived = {
        "tp_comm_overlap": False,
        "tp_comm_bootstrap_backend": None,
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": c[PP] > 1 and not interleaved,
        "defer_embedding_wgrad_compute": False,
        "wgrad_deferral_limit": DERIVED_DEFERRAL_LIMIT,
        "overlap_moe_expert_parallel_comm": False,
        "delay_wgrad_compute": False,
    }
    layout = f"PP = {c[PP]}, VPP = {c[VPP] or 1}"
    reasons = {name: layout if "p2p" in name else "Bridge's default" for name in derived if user[name] is None}
    fields = {name: value if user[name] is None else user[name] for name, value in derived.items()}
    fields["tp_comm_overlap_cfg"] = _layers(c)  # stays on the model even with the overlap off
    return fields, reasons


def _layers(c: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The userbuffers dictionary, a copy; None where the request has none."""
    return {gemm: dict(entry) for gemm, entry in c["userbuffers.layers"].items()} or None


def _data_parallel_fields(c: Mapping[str, Any], user: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """comm_overlap.py:559-586. Data-parallel size without context parallelism: Bridge forgets it, and so do we here."""
    ranks = data_parallel_size(c)
    on = ranks > 1
    derived = {
        "bucket_size": DERIVED_BUCKET if on else None,
        "overlap_grad_reduce": on,
        "overlap_param_gather": on,
        "overlap_param_gather_with_optimizer_step": False,
        "align_param_gather": on and c[PP] > 1 and (c[VPP] or 1) > 1,
    }
    reasons = {
        name: f"data-parallel size {ranks}, PP = {c[PP]}, VPP = {c[VPP] or 1}" for name in derived if user[name] is None
    }
    return {name: value if user[name] is None else user[name] for name, value in derived.items()}, reasons


def _silent_changes(
    c: Mapping[str, Any], user: Mapping[str, Any], base_ddp: Mapping[str, Any], ddp: Mapping[str, Any],
    base_opt: Mapping[str, Any], optimizer: Mapping[str, Any], origin: Origin,
) -> list[Finding]:  # fmt: skip
    """Notes on what Bridge changes, drops or lets through without a word."""
    notes: list[Finding] = []

    def note(rule: str, title: str, *keys: str) -> None:
        notes.append(_finding(rule, "note", title, keys, c, origin))

    distributed = c["ddp.use_distributed_optimizer"]
    for owner, base, final in (("ddp", base_ddp, ddp), ("optimizer", base_opt, optimizer)):
        for name in base:
            if base[name] != final[name] and c[f"{owner}.{name}"] is not None:
                note("BRIDGE201", f"{owner}.{name} is overwritten: {yaml_value(final[name])}", f"{owner}.{name}")
    if not distributed:
        ignored = [
            USER_KEYS[name]
            for name in (*DDP_DEFAULTS, "overlap_param_gather_with_optimizer_step")
            if user[name] is not None
        ]
        if ignored:
            note("BRIDGE202", "comm_overlap.dp is ignored without the distributed optimizer", *ignored)
    if optimizer["overlap_param_gather"] != ddp["overlap_param_gather"]:
        note("BRIDGE203", "overlap_param_gather differs between ddp and optimizer; later validation turns both on",
             "ddp.overlap_param_gather", "optimizer.overlap_param_gather")  # fmt: skip
    if distributed and c[CP] > 1 and data_parallel_size(c) == 1:
        note("BRIDGE204", "DP overlap is not derived, because context-parallel ranks are not counted", CP, WORLD)
    if distributed != c["optimizer.use_distributed_optimizer"]:
        note("BRIDGE206", "Later validation turns the distributed optimizer on, after DP overlap was decided",
             "ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer")  # fmt: skip
    if user["defer_embedding_wgrad_compute"] and user["wgrad_deferral_limit"] is None:
        title = f"wgrad_deferral_limit is derived as {DERIVED_DEFERRAL_LIMIT}, which megatron-core refuses"
        note("BRIDGE207", title, USER_KEYS["defer_embedding_wgrad_compute"], USER_KEYS["wgrad_deferral_limit"])
    if c["comm_overlap.tp.tp_comm_bootstrap_backend"] is None:
        note("BRIDGE205", "tp_comm_bootstrap_backend stays null", "comm_overlap.tp.tp_comm_bootstrap_backend")
    return notes


def _ledger(
    c: Mapping[str, Any], effective: Mapping[str, Any], reasons: Mapping[str, str], origin: Origin
) -> list[LedgerRow]:
    left = {name: key for name, key in MODEL_KEYS.items() if c[key] is not None}
    rows = []
    for name, key in {**USER_KEYS, **left}.items():
        asked, value = c[key], effective[name]
        if name in reasons:
            where, why = "derived", reasons[name]
        elif asked is None:
            where, why = (
                "default",
                "the base value of ddp or optimizer; nothing is derived without the distributed optimizer",
            )
        else:
            where = origin(key)
            why = "asked" if asked == value else "switched off or ignored by Megatron-Bridge"
        decided = asked != value or name in reasons
        row = LedgerRow(
            field=key, asked=asked, effective=value, origin=where, rule="bridge" if decided else "", reason=why,
            source=SOURCE if decided else "",
        )  # fmt: skip
        rows.append(row)
    return [*rows, *userbuffers_row(c, bool(effective["tp_comm_overlap"]), origin)]


def _finding(
    rule: str, severity: str, title: str, keys: tuple[str, ...], c: Mapping[str, Any], origin: Origin
) -> Finding:
    places = tuple(Place(key, yaml_value(c[key]), origin(key)) for key in keys)
    return Finding(rule=rule, severity=severity, title=title, why=WHY[severity], where=places, source=SOURCE)


def _refusal(rule: str, title: str, keys: tuple[str, ...], c: Mapping[str, Any], origin: Origin) -> Finding:
    return _finding(rule, "error", title, keys, c, origin)
