"""A plan for Megatron-Bridge v0.6.0: YAML that its scripts merge into a recipe's ConfigContainer, and the same in Python.

Every overlap field is said aloud, so that `CommOverlapConfig` derives nothing. The userbuffers dictionary is an object
in Bridge (`TransformerLayerTPOverlapCfg`); the YAML makes it with `_target_`, which Bridge's override code instantiates.
"""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from ..findings import Finding, Fix
from ..quoting import python_literal, python_name
from ..resolver.resolution import Resolution
from ..rules.dp import EMERGING
from ..rules.graphs import WHOLE, implementation, parts
from ..schema.fields import DEFAULTS, FIELDS
from ._base import (
    UNSAID,
    ExportError,
    Files,
    common_refusals,
    concerning,
    effective,
    header,
    left_open,
    rehearsed_sizes,
    unsaid,
    unsayable,
)
from .env import NAME as ENV_NAME
from .env import text as environment
from .megatron_lm import BASES

VERSION = "v0.6.0"
NAME, SNIPPET = "megatron_bridge.yaml", "megatron_bridge_overlap.py"
TARGET = f"Megatron-Bridge {VERSION} ConfigContainer"
SOURCE = f"Megatron-Bridge {VERSION} src/megatron/bridge/training/comm_overlap.py:"
MODULE = "megatron.bridge.training.comm_overlap"

NODES = {
    "parallelism": "model", "model": "model", "precision": "mixed_precision", "ddp": "ddp", "optimizer": "optimizer",
    "training": "train", "comm_overlap.tp": "model", "comm_overlap.pp": "comm_overlap", "comm_overlap.dp": "comm_overlap",
    "comm_overlap.ep": "comm_overlap",
}  # fmt: skip
MOVED = {
    "comm_overlap.tp.tp_comm_overlap": "comm_overlap.tp_comm_overlap",
    "comm_overlap.tp.tp_comm_bootstrap_backend": "comm_overlap.tp_comm_bootstrap_backend",
    "comm_overlap.pp.overlap_p2p_comm_warmup_flush": "model.overlap_p2p_comm_warmup_flush",
    "optimizer.lr_warmup_iters": "scheduler.lr_warmup_iters",
    "optimizer.lr_decay_style": "scheduler.lr_decay_style",
    "training.seed": "rng.seed",
    "training.log_interval": "logger.log_interval",
    "model.cuda_graph_scope": "model.cuda_graph_modules",  # megatron-core 0.19's name
}
KNOWN_ELSEWHERE = (*BASES, "parallelism.world_size")  # said by comm_overlap.dp, and by whoever starts the ranks
DIRECT = {
    "overlap_grad_reduce": ("ddp",),
    "overlap_param_gather": ("ddp", "optimizer"),
    "overlap_param_gather_with_optimizer_step": ("optimizer",),
    "align_param_gather": ("ddp",),
    "bucket_size": ("ddp",),
}
"""Without a distributed optimizer Bridge ignores comm_overlap's data-parallel fields: they go where they act."""

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bulk": ("BulkOverlapCfg", {"num_sm": 16, "cga_size": 2, "set_sm_margin": True}),
    "ring_exchange": (
        "RingExchangeOverlapCfg",
        {
            "num_sm": 1,
            "cga_size": 1,
            "set_sm_margin": False,
            "aggregate": False,
            "fp8_buf": False,
            "atomic_gemm": False,
        },
    ),
    "pipeline": (
        "PipelineOverlapCfg",
        {"num_sm": 16, "cga_size": 2, "num_splits": 4, "set_sm_margin": True, "fp8_buf": False, "atomic_gemm": False},
    ),
}
"""Method -> Bridge's class, and Transformer Engine's defaults of its fields (v2.11 module/base.py get_default_config)."""
LAYERS = (
    "qkv_fprop", "qkv_dgrad", "qkv_wgrad", "fc1_fprop", "fc1_dgrad", "fc1_wgrad", "proj_fprop", "proj_dgrad", "fc2_fprop",
    "fc2_dgrad",
)  # fmt: skip


def path(key: str) -> str | None:
    """Where a field stands in a ConfigContainer; None if it has no place there."""
    if key in KNOWN_ELSEWHERE or key.startswith(UNSAID):
        return None
    if key in MOVED:
        return MOVED[key]
    owner, _, name = key.rpartition(".")
    return f"{NODES[owner]}.{name}" if owner in NODES else None


def entries(layers: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, tuple[str, dict[str, Any]]], list[Finding]]:
    """GEMM -> Bridge's class and all its arguments; and what its classes cannot say."""
    made: dict[str, tuple[str, dict[str, Any]]] = {}
    problems: list[Finding] = []
    for gemm, entry in layers.items():
        key, method = f"userbuffers.layers.{gemm}", str(entry.get("method", ""))
        fix = Fix(f"~{key}", "Transformer Engine's default for this GEMM")
        if gemm not in LAYERS or method not in CLASSES:
            why = f"Bridge has no entry for {gemm} with method {method or '(none)'}."
            problems.append(unsayable(key, dict(entry), why, SOURCE + "80-94", fix))
            continue
        name, arguments = CLASSES[method]
        unknown = [argument for argument in entry if argument not in ("method", *arguments)]
        if unknown:
            why = f"{name} has no {', '.join(unknown)}."
            problems.append(unsayable(key, dict(entry), why, SOURCE + "44-78", fix))
        made[gemm] = (name, {argument: entry.get(argument, value) for argument, value in arguments.items()})
    return made, problems


def container(c: Mapping[str, Any], env: Mapping[str, str]) -> tuple[dict[str, Any], list[Finding]]:
    """Node -> field -> value, the userbuffers dictionary left out; and what cannot be said. c: flat effective request."""
    found: dict[str, dict[str, Any]] = {}
    problems = common_refusals(c)
    for key in FIELDS:
        place, value = path(key), c[key]
        if place is None and key not in KNOWN_ELSEWHERE and not key.startswith(UNSAID) and value != DEFAULTS[key]:
            problems.append(unsayable(key, value, "ConfigContainer has no field for it.", SOURCE))
        without_experts = key.startswith("model.moe_") and c["model.num_moe_experts"] is None
        if place is None or without_experts or (value is None and key != "comm_overlap.tp.tp_comm_bootstrap_backend"):
            continue
        node, name = place.split(".")
        owners = [node]
        if key.startswith("comm_overlap.dp.") and not c["ddp.use_distributed_optimizer"]:
            owners = list(DIRECT[name])
        for owner in owners:
            found.setdefault(owner, {})[name] = value
    _graphs(found, c)
    if c["precision.fp8"] is not None and c["precision.fp8_recipe"] is None:
        found["mixed_precision"]["fp8_recipe"] = "delayed"  # megatron-core's default; MixedPrecisionConfig has another
    if env:
        found["env_vars"] = dict(env)
    if c["optimizer.optimizer"] in EMERGING:
        why = "Bridge sets Muon and its relatives up with settings of their own, which the plan does not have."
        problems.append(unsayable("optimizer.optimizer", c["optimizer.optimizer"], why, ""))
    return found, problems


def _graphs(found: dict[str, dict[str, Any]], c: Mapping[str, Any]) -> None:
    """CUDA graphs in the words of megatron-core 0.19, which Bridge carries; Megatron FSDP's fields for them said aloud."""
    how = implementation(c)
    for name in ("enable_cuda_graph", "external_cuda_graph", "cuda_graph_impl", "cuda_graph_modules"):
        found["model"].pop(name, None)
    if how == "none":
        return
    found["model"] |= {"cuda_graph_impl": how, "cuda_graph_modules": list(parts(c))}
    if c["ddp.use_megatron_fsdp"]:
        found["ddp"]["megatron_fsdp_cuda_graph_mode"] = True
        found["ddp"]["fsdp_all_gather_in_start_param_sync"] = how != WHOLE


def export(resolution: Resolution, command: str = "", *, asked: Collection[str] | None = None) -> Files:
    """The YAML, the Python snippet, the environment. Raises ExportError."""
    c = effective(resolution)
    left = unsaid(c, asked)
    found, problems = container(c, resolution.env)
    names = {key: place for key in left if (place := path(key)) is not None}
    for place in names.values():
        node, name = place.split(".")
        found.get(node, {}).pop(name, None)
    layers, more = entries(c["userbuffers.layers"])
    if problems := concerning([*problems, *more], left):
        raise ExportError("megatron-bridge", problems)
    notes: tuple[str, ...] = (
        "To merge into a recipe: Bridge's process_config_with_overrides(config, config_filepath=...). Data, tokenizer",
        "and checkpoints stay the recipe's. `_target_` nodes replace what the recipe has there.",
    )
    found = {node: fields for node, fields in found.items() if fields}
    theirs = "".join(f"{line}\n" for line in left_open(left, names))
    notes = (*notes, *rehearsed_sizes(c, asked))
    return {
        NAME: header(TARGET, command, c, *notes) + _yaml(found, layers) + theirs,
        SNIPPET: header(TARGET, command, c) + _snippet(found, layers) + theirs,
        ENV_NAME: environment(resolution, command),
    }


def _yaml(found: Mapping[str, dict[str, Any]], layers: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    nodes: dict[str, Any] = {name: dict(fields) for name, fields in found.items()}
    kind = {"_target_": f"torch.{_dtype(found['mixed_precision'])}", "_call_": False}
    nodes["mixed_precision"] = {
        "_target_": "megatron.bridge.training.mixed_precision.MixedPrecisionConfig",
        "params_dtype": kind, "pipeline_dtype": dict(kind), **nodes["mixed_precision"],
    }  # fmt: skip
    overlap: dict[str, Any] = {"_target_": f"{MODULE}.CommOverlapConfig", **nodes["comm_overlap"]}
    if layers:
        overlap["tp_comm_overlap_cfg"] = {
            "_target_": f"{MODULE}.TransformerLayerTPOverlapCfg",
            **dict.fromkeys(LAYERS),
            **{gemm: {"_target_": f"{MODULE}.{name}", **arguments} for gemm, (name, arguments) in layers.items()},
        }
    nodes["comm_overlap"] = overlap
    return yaml.safe_dump(nodes, sort_keys=False, width=120)


def _snippet(found: Mapping[str, dict[str, Any]], layers: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    """`apply(config)` for a recipe's ConfigContainer."""
    imports = ["CommOverlapConfig", *(["TransformerLayerTPOverlapCfg"] if layers else [])]
    imports += sorted({name for name, _ in layers.values()})
    lines = [f"from {MODULE} import (", *(f"    {name}," for name in sorted(imports)), ")"]
    lines += ["from megatron.bridge.training.mixed_precision import MixedPrecisionConfig", "", ""]
    lines += ["def apply(config):", '    """Set the plan on a ConfigContainer."""']
    for node, fields in found.items():
        if node in ("comm_overlap", "mixed_precision"):
            continue
        for name, value in fields.items():
            if node == "env_vars":
                lines.append(f"    config.env_vars[{python_literal(name)}] = {python_literal(value)}")
            elif name == "activation_func":
                lines.append(f"    config.model.activation_func = torch.nn.functional.{python_name(value)}")
            else:
                lines.append(f"    config.{python_name(f'{node}.{name}')} = {python_literal(value)}")
    lines += _call("    config.mixed_precision = MixedPrecisionConfig", found["mixed_precision"], closed=False)
    kind = f"torch.{_dtype(found['mixed_precision'])}"
    lines += [f"        params_dtype={kind},", f"        pipeline_dtype={kind},", "    )"]
    lines += _call("    config.comm_overlap = CommOverlapConfig", found["comm_overlap"], closed=not layers)
    if layers:
        lines.append("        tp_comm_overlap_cfg=TransformerLayerTPOverlapCfg(")
        for gemm in LAYERS:
            made = layers.get(gemm)
            lines.append(f"            {gemm}={_made(*made) if made else None},")
        lines += ["        ),", "    )"]
    return "\n".join(["import torch", *lines]) + "\n"


def _dtype(precision: Mapping[str, Any]) -> str:
    """Of parameters and of what pipeline stages send, as Bridge's own precision recipes set them."""
    return "bfloat16" if precision["bf16"] else "float16" if precision["fp16"] else "float32"


def _made(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{python_name(argument)}={python_literal(value)}' for argument, value in arguments.items())})"


def _call(start: str, fields: Mapping[str, Any], *, closed: bool = True) -> list[str]:
    return [
        f"{start}(",
        *(f"        {python_name(name)}={python_literal(value)}," for name, value in fields.items()),
        *(["    )"] if closed else []),
    ]
