"""A Megatron-Bridge YAML or list of overrides -> a request. Fields it does not say are the recipe's: not judged."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from .. import dotted, option_files
from ..export.megatron_bridge import path
from ..export.megatron_lm import BASES
from ..rules.pipeline_layout import LayoutError, text_of
from ..schema.fields import FIELDS
from ..schema.keys import PIPELINE_LAYOUT, SP, TP
from . import dictionary, shell, yamls
from .intake import Intake, Unknown, bears

KIND = "Megatron-Bridge configuration"
NODES = (
    "model", "comm_overlap", "mixed_precision", "ddp", "optimizer", "scheduler", "train", "rng", "logger", "dataset",
    "env_vars", "dist", "checkpoint", "tokenizer", "profiling", "validation",
)  # fmt: skip
SIGNS = ("comm_overlap", "mixed_precision", "ddp", "train")  # nodes that no other format here has at its top

PLACES: dict[str, str] = {place: key for key in FIELDS if (place := path(key)) is not None}
PLACES |= {key: key for key in BASES}
PLACES |= {
    f"model.{name}": f"precision.{name}"
    for name in ("bf16", "fp16", "fp8", "fp8_recipe", "fp4", "fp4_recipe", "first_last_layers_bf16")
}
PLACES |= {
    "mixed_precision.fp8_param": "precision.fp8_param_gather",
    "mixed_precision.fp4_param": "precision.fp4_param_gather",
    "ddp.grad_reduce_in_fp32": "precision.grad_reduce_in_fp32",
    "dataset.seq_length": "model.seq_length",
    "dataset.sequence_length": "model.seq_length",
}
DICTIONARY = "comm_overlap.tp_comm_overlap_cfg"
DICTIONARIES = (DICTIONARY, "model.tp_comm_overlap_cfg")
NAMES = frozenset(place.rpartition(".")[2] for place in PLACES)
GRAPHS = (
    "model.cuda_graph_impl", "model.cuda_graph_modules", "model.cuda_graph_scope", "model.enable_cuda_graph",
    "model.external_cuda_graph",
)  # fmt: skip
SKIPS = "Megatron-Bridge skips an unknown key in YAML with a log line; on its command line it stops."
SKIPPED = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/utils/omegaconf_utils.py:180, 470-474"
RECIPES = {
    "delayed_scaling": ("hybrid", "delayed"),
    "current_scaling": ("hybrid", "tensorwise"),
    "subchannel_scaling": ("hybrid", "blockwise"),
    "mxfp8": ("hybrid", "mxfp8"),
}
"""Part of a name in Bridge's table of precision recipes -> fp8, fp8_recipe (training/mixed_precision.py)."""


@dataclass(frozen=True)
class Content:
    """What a text holds, nested. lines: of the command whose overrides these are, in a script. notes: for the audit."""

    nested: dict[str, Any]
    lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def contents(text: str, around: shell.Around = shell.NOTHING) -> list[Content]:
    """Of a YAML file, or of overrides (`comm_overlap.tp_comm_overlap=true`): one for each command. Empty if it is neither.

    Raises UnreadableError on a YAML without bounds.
    """
    try:
        found = yamls.load(text)
    except yaml.YAMLError:
        found = None
    if isinstance(found, dict) and all(isinstance(key, str) and "=" not in key for key in found):
        return [Content(found)]
    return _overrides(text, around)


def _overrides(text: str, around: shell.Around) -> list[Content]:
    try:
        script = shell.read(text, around)
    except ValueError:
        return []
    found = [(command, nested) for command in script.commands if (nested := overrides(command.words))]
    programs = [(command, nested) for command, nested in found if any(word.endswith(".py") for word in command.words)]
    if programs:
        return [Content(nested, (command.line,), shell.conditions(command)) for command, nested in programs]
    # One override a line is a list, not a script; `mixed_precision=...` is an assignment to the shell.
    assigned = [f"{name}={value}" for name, value in script.variables.items() if name in NODES]
    nested = overrides([*assigned, *(word for command, _ in found for word in command.words)])
    return [Content(nested)] if nested else []


def overrides(words: Iterable[str]) -> dict[str, Any]:
    """What overrides among the words say, nested."""
    nested: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.lstrip("+").partition("=")
        if not equals or name.partition(".")[0] not in NODES:
            continue
        with suppress(TypeError):  # below a value: `mixed_precision=NAME mixed_precision.bf16=true`
            dotted.put(nested, name, _meant(word, text))
    return nested


def _meant(word: str, text: str) -> Any:
    """The value of an override; the text itself where it is none, or known to a shell alone."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "$" in text and "${" not in text:
        return Unknown(text)
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return text
    return text if override.is_sweep_override() else override.value()


def looks_like(nested: Mapping[str, Any]) -> bool:
    """Whether nodes of a ConfigContainer are there."""
    return any(sign in nested for sign in SIGNS) or isinstance(nested.get("model"), dict)


def read(content: Content) -> Intake:
    """The request in one Megatron-Bridge file or list of overrides, which `contents` found."""
    intake = Intake(kind=KIND, lines=content.lines, notes=list(content.notes), settle=_settle, rest_is_default=False)
    nested = yamls.resolved(content.nested)
    for node, fields in nested.items():
        if node not in NODES and intake.misspelt(node, NODES, node, SKIPS, SKIPPED):
            continue
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
    _graphs_under_fsdp(intake)
    _distributed(intake)
    _experts(intake)
    return intake


def _settle(intake: Intake) -> None:
    """What finalize() of Bridge's model providers does: v0.4.0 to main, models/transformer_config.py (v0.6.0:176-177)."""
    if intake.flat.get(TP) == 1 and SP in intake.said:
        why = "Megatron-Bridge sets sequence_parallel to false where tensor_model_parallel_size is 1"
        intake.change(SP, False, why)


def _field(intake: Intake, place: str, value: Any) -> None:
    said = f"{place}={yamls.shown(value)}"
    if place in GRAPHS or place in ("mixed_precision.params_dtype", "mixed_precision.pipeline_dtype"):
        return
    if place in DICTIONARIES:
        _dictionary(intake, value, said)
        return
    key = PLACES.get(place)
    if key == PIPELINE_LAYOUT:
        value = _layout(value)
    if key is None:
        intake.unknown(place, () if place.rpartition(".")[2] in NAMES else _siblings(place), said, SKIPS, SKIPPED)
    elif value is not None or place in ("comm_overlap.tp_comm_bootstrap_backend",):
        intake.take(key, _number(value, FIELDS[key].kind), said)


def _layout(value: Any) -> Any:
    """A pipeline layout as one text: recipes write it as a list of stages, too."""
    if isinstance(value, list) and all(isinstance(stage, list) for stage in value):
        with suppress(LayoutError):
            return text_of(value)
    return value


def _siblings(place: str) -> list[str]:
    """Places of the same node on which a verdict hangs."""
    node = f"{place.partition('.')[0]}."
    judged = [known for known, key in PLACES.items() if bears(key)]
    return [known for known in (*judged, *DICTIONARIES, *GRAPHS) if known.startswith(node)]


def _number(value: Any, kind: type) -> Any:
    """`1e9` for a whole number, `1` for another."""
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if kind is float and type(value) is int else value


def _dictionary(intake: Intake, value: Any, said: str) -> None:
    """The userbuffers dictionary: in full, or by the name of one of Bridge's presets."""
    if isinstance(value, str):
        name = preset(value)
        if name in option_files.options("userbuffers"):
            for field, content_ in option_files.option("userbuffers", name).items():
                if field == "tuned_for":
                    for part, what in content_.items():
                        intake.take(f"userbuffers.tuned_for.{part}", what, said)
                else:
                    intake.take(f"userbuffers.{field}", content_, said)
        else:
            intake.notes.append(f"{said} is not a preset known here, so the dictionary is not judged.")
    elif isinstance(value, Mapping):
        dictionary.take(intake, value, said)
    elif value is not None:
        intake.take("userbuffers.layers", value, said)


def preset(name: str) -> str:
    """Our option for one of Bridge's presets: userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192."""
    return name.removeprefix("userbuffers_").replace("seqlen", "seq")


def _precision(intake: Intake, name: str) -> None:
    """One of Bridge's precision recipes by name."""
    said = f"mixed_precision={name}"
    if not name.endswith("_mixed"):
        intake.notes.append(f"{said} is not known here, so precision is not judged.")
        return
    half = "fp16" if name.startswith("fp16") else "bf16"
    intake.take(f"precision.{half}", True, said)
    intake.take("precision.grad_reduce_in_fp32", half == "bf16" and "fp8" not in name and "fp4" not in name, said)
    if "nvfp4" in name:
        intake.take("precision.fp4", "e2m1", said)
        intake.take("precision.fp4_recipe", "nvfp4", said)
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
    scope = [scope] if isinstance(scope, str) else scope
    if how == "full_iteration":
        scope = ["full_iteration"]
    scope = [part for part in scope if part != "full"] if isinstance(scope, list) else scope
    if how not in (None, "none", "full_iteration"):
        intake.take("model.cuda_graph_impl", how, f"model.cuda_graph_impl={how}")
    if scope and how is not None:
        name = "cuda_graph_modules" if model.get("cuda_graph_modules") else "cuda_graph_scope"
        said = f"model.{name}={scope}" if how != "full_iteration" else f"model.cuda_graph_impl={how}"
        intake.take("model.cuda_graph_scope", scope, said)
    for name in ("enable_cuda_graph", "external_cuda_graph"):
        if model.get(name) is not None:
            intake.take(f"model.{name}", model[name], f"model.{name}={yamls.shown(model[name])}")


def _graphs_under_fsdp(intake: Intake) -> None:
    """Bridge leaves Megatron FSDP's fields for graphs as megatron-core has them; null would mean what Megatron-LM makes of them."""
    graphs = "model.cuda_graph_scope" in intake.flat or "model.cuda_graph_impl" in intake.flat
    if graphs and intake.flat.get("ddp.use_megatron_fsdp"):
        intake.flat.setdefault("ddp.megatron_fsdp_cuda_graph_mode", False)
        intake.flat.setdefault("ddp.fsdp_all_gather_in_start_param_sync", True)


def _distributed(intake: Intake) -> None:
    """Bridge makes both configs agree on the distributed optimizer; its recipes use it."""
    keys = ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer")
    said = [key for key in keys if key in intake.flat]
    if not said:
        intake.notes.append("the distributed optimizer is assumed, as in Bridge's recipes")
    value = any(intake.flat[key] for key in said) if said else True
    for key in keys:
        intake.flat[key] = value


def _experts(intake: Intake) -> None:
    """Expert parallelism with the recipe's experts, whose number is not said."""
    ranks = intake.flat.get("parallelism.expert_model_parallel_size", 1)
    if ranks > 1 and "model.num_moe_experts" not in intake.flat:
        # At least as many as a token goes to, so that nothing is refused for the assumption.
        intake.flat["model.num_moe_experts"] = ranks * int(intake.flat.get("model.moe_router_topk", 2))
        intake.notes.append("the number of experts is assumed to be divisible by the expert-parallel ranks")


def say(override: str) -> str:
    """An override of ours in Bridge's words; unchanged where it has none."""
    about_dictionary = dictionary.say(override, f"{DICTIONARY}.", f"{DICTIONARY}=null")
    if about_dictionary is not None:
        return about_dictionary
    key, equals, value = override.partition("=")
    place = path(key) if key in FIELDS else None
    return f"{place}{equals}{value}" if place else override
