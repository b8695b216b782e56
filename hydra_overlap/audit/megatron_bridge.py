"""A Megatron-Bridge YAML or list of overrides -> a request. Fields it does not say are the recipe's: not judged."""

from collections.abc import Mapping
from typing import Any

import yaml

from .. import facts
from ..export.megatron_bridge import path
from ..export.megatron_lm import BASES
from ..request import LEAVES
from . import shell
from ._base import Intake

KIND = "Megatron-Bridge configuration"
NODES = (
    "model", "comm_overlap", "mixed_precision", "ddp", "optimizer", "scheduler", "train", "rng", "logger", "dataset",
    "env_vars", "dist", "checkpoint", "tokenizer", "profiling", "validation",
)  # fmt: skip
SIGNS = ("comm_overlap", "mixed_precision", "ddp", "train")  # nodes that no other format here has at its top

PLACES: dict[str, str] = {place: key for key in LEAVES if (place := path(key)) is not None}
PLACES |= {key: key for key in BASES}
PLACES |= {
    f"model.{name}": f"precision.{name}" for name in ("bf16", "fp16", "fp8", "fp8_recipe", "first_last_layers_bf16")
}
PLACES |= {
    "mixed_precision.fp8_param": "precision.fp8_param_gather",
    "ddp.grad_reduce_in_fp32": "precision.grad_reduce_in_fp32",
    "dataset.seq_length": "model.seq_length",
    "dataset.sequence_length": "model.seq_length",
}
DICTIONARIES = ("comm_overlap.tp_comm_overlap_cfg", "model.tp_comm_overlap_cfg")
GRAPHS = ("model.cuda_graph_impl", "model.cuda_graph_modules", "model.cuda_graph_scope")
RECIPES = {
    "delayed_scaling": ("hybrid", "delayed"),
    "current_scaling": ("hybrid", "tensorwise"),
    "subchannel_scaling": ("hybrid", "blockwise"),
    "mxfp8": ("hybrid", "mxfp8"),
}
"""Part of a name in Bridge's table of precision recipes -> fp8, fp8_recipe (training/mixed_precision.py)."""


class _Loader(yaml.SafeLoader):
    """Safe, and unmoved by tags it does not know: their content is taken as it stands."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _untagged)
_Loader.add_multi_constructor("tag:", _untagged)


def content(text: str) -> dict[str, Any] | None:
    """The nested content of a YAML file or of overrides (`comm_overlap.tp_comm_overlap=true`); None if it is neither."""
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError:
        found = None
    if isinstance(found, dict) and all(isinstance(key, str) and "=" not in key for key in found):
        return found
    return _overrides(text)


def _overrides(text: str) -> dict[str, Any] | None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        words = shell.read(text).words
    except ValueError:
        return None
    nested: dict[str, Any] = {}
    parser = OverridesParser.create()
    for word in words:
        name = word.lstrip("+").partition("=")[0]
        if "=" not in word or name.partition(".")[0] not in NODES:
            continue
        try:
            override = parser.parse_override(word)
        except HydraException:
            continue
        *parents, last = override.key_or_group.split(".")
        node = nested
        for part in parents:
            child = node.setdefault(part, {})
            node = child if isinstance(child, dict) else {}
        node[last] = override.value()
    return nested or None


def looks_like(nested: Mapping[str, Any]) -> bool:
    """Whether nodes of a ConfigContainer are there."""
    return any(sign in nested for sign in SIGNS) or isinstance(nested.get("model"), dict)


def read(nested: Mapping[str, Any]) -> Intake:
    """nested: what `content` gave."""
    intake = Intake(kind=KIND)
    for node, fields in nested.items():
        if node == "mixed_precision" and isinstance(fields, str):
            _precision(intake, fields)
        elif node == "env_vars" and isinstance(fields, Mapping):
            intake.env = {str(name): str(value) for name, value in fields.items()}
        elif isinstance(fields, Mapping):
            for name, value in fields.items():
                if str(name) not in ("_target_", "_call_", "_partial_"):
                    _field(intake, f"{node}.{name}", value)
        else:
            intake.overlook(f"{node}={fields}")
    _graphs(intake, nested.get("model"))
    _distributed(intake)
    return intake


def _field(intake: Intake, place: str, value: Any) -> None:
    said = f"{place}={_short(value)}"
    if place in GRAPHS or place in ("mixed_precision.params_dtype", "mixed_precision.pipeline_dtype"):
        return
    if place in DICTIONARIES:
        _dictionary(intake, value, said)
        return
    key = PLACES.get(place)
    if key is None:
        intake.overlook(said)
    elif value is not None or place in ("comm_overlap.tp_comm_bootstrap_backend",):
        intake.take(key, float(value) if LEAVES[key].kind is float and isinstance(value, int) else value, said)


def _short(value: Any) -> str:
    return "{...}" if isinstance(value, dict) else str(value).lower() if isinstance(value, bool) else str(value)


def _dictionary(intake: Intake, value: Any, said: str) -> None:
    """The userbuffers dictionary: in full, or by the name of one of Bridge's presets."""
    if isinstance(value, str):
        name = preset(value)
        if name in facts.options("userbuffers"):
            for field, content_ in facts.option("userbuffers", name).items():
                if field == "tuned_for":
                    for part, what in content_.items():
                        intake.take(f"userbuffers.tuned_for.{part}", what, said)
                else:
                    intake.take(f"userbuffers.{field}", content_, said)
        else:
            intake.notes.append(f"{said} is no preset that is known here: the dictionary is not judged.")
    elif isinstance(value, Mapping):
        layers = {str(gemm): _entry(entry) for gemm, entry in value.items() if gemm != "_target_" and entry is not None}
        intake.take("userbuffers.layers", layers, said)
        intake.flat["userbuffers.name"] = "of the configuration"


def preset(name: str) -> str:
    """Our option for one of Bridge's presets: userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192."""
    return name.removeprefix("userbuffers_").replace("seqlen", "seq")


def _entry(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    kind = str(entry.get("_target_", "")).rpartition(".")[2]
    methods = {"BulkOverlapCfg": "bulk", "PipelineOverlapCfg": "pipeline", "RingExchangeOverlapCfg": "ring_exchange"}
    made = {"method": methods[kind]} if kind in methods else {}
    return made | {str(name): value for name, value in entry.items() if name != "_target_"}


def _precision(intake: Intake, name: str) -> None:
    """One of Bridge's precision recipes by name."""
    said = f"mixed_precision={name}"
    if "fp4" in name or not name.endswith("_mixed"):
        intake.notes.append(f"{said} is not known here: precision is not judged.")
        return
    half = "fp16" if name.startswith("fp16") else "bf16"
    intake.take(f"precision.{half}", True, said)
    intake.take("precision.grad_reduce_in_fp32", half == "bf16" and "fp8" not in name, said)
    for part, (fp8, recipe) in RECIPES.items():
        if part in name:
            intake.take("precision.fp8", fp8, said)
            intake.take("precision.fp8_recipe", recipe, said)
            intake.take("precision.fp8_param_gather", recipe != "blockwise", said)
            intake.take("precision.first_last_layers_bf16", recipe == "tensorwise", said)


def _graphs(intake: Intake, model: Any) -> None:
    """CUDA graphs: whose parts, if any."""
    if not isinstance(model, Mapping):
        return
    how = model.get("cuda_graph_impl")
    scope = model.get("cuda_graph_modules") or model.get("cuda_graph_scope") or []
    scope = [scope] if isinstance(scope, str) else list(scope)
    if how == "full_iteration":
        scope = ["full_iteration"]
    if how not in (None, "none") and not scope:
        intake.overlook(f"model.cuda_graph_impl={how} (a whole layer)")
    elif how not in (None, "none"):
        intake.take("model.cuda_graph_scope", scope, f"model.cuda_graph_modules={scope}")


def _distributed(intake: Intake) -> None:
    """Bridge makes both configs agree on the distributed optimizer; its recipes use it."""
    keys = ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer")
    said = [key for key in keys if key in intake.flat]
    if not said:
        intake.notes.append("the distributed optimizer is taken to be used, as in Bridge's recipes")
    value = any(intake.flat[key] for key in said) if said else True
    for key in keys:
        intake.flat[key] = value


def say(override: str) -> str:
    """An override of ours in Bridge's words; unchanged where it has none."""
    key, equals, value = override.partition("=")
    place = path(key) if key in LEAVES else None
    return f"{place}{equals}{value}" if place else override
