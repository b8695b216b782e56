"""Arguments of Megatron-LM's pretrain_gpt.py and its relatives -> a request: what its own code would make of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..export.megatron_lm import TRANSLATED, destination, spell
from ..export.megatron_lm_parser import by_dest, default, release_of
from ..rules.env import CONNECTIONS
from ..schema.fields import FIELDS
from ..schema.keys import POSITION_EMBEDDING
from ..schema.versions import is_version
from . import dictionary, megatron_checks, model_chunks, yamls
from .intake import Intake, UnreadableError
from .launchers import Ranks
from .megatron_flags import DICTIONARY, needed_release, parsed

KIND = "Megatron-LM command line"
WORLD = "parallelism.world_size"
PLAIN = (
    "Megatron-LM reads the file with yaml.safe_load: ${...} is an interpolation only for OmegaConf; here it stays text."
)
POSITIONS = {"mrope": "rope", "yarn": "rope", "relative": "learned_absolute", "none": "learned_absolute"}
"""Position embeddings that are none of ours -> the one that is like it in what rules ask: whether heads are rotated."""
# Destinations that other flags of the same command decide with.
HELPERS = (
    "swiglu", "untie_embeddings_and_output_weights", "group_query_attention", "num_query_groups", "ffn_hidden_size",
    "cuda_graph_impl", "cuda_graph_scope", "cp_comm_type", "moe_aux_loss_coeff", "moe_router_load_balancing_type",
    "grad_reduce_in_bf16", "accumulate_allreduce_grads_in_fp32", "transformer_impl", "use_distributed_optimizer",
    "num_layers_per_virtual_pipeline_stage", "reuse_grad_buf_for_mxfp8_param_ag", "max_position_embeddings", DICTIONARY,
    "recompute_activations", "use_rotary_position_embeddings", "ckpt_format",
    "use_torch_fsdp2", "deterministic_mode", "enable_cuda_graph", "external_cuda_graph", "cuda_graph_modules",
)  # fmt: skip


class _Values(dict[str, Any]):
    """Destination -> value; None of one that a release does not have."""

    def __missing__(self, name: str) -> None:
        return None


def read(
    words: Sequence[str], ranks: Ranks, folder: Path | None = None, program: str = "", core: str | None = None
) -> Intake:
    """The request in the arguments of a training program. folder: where files they name are looked for; None reads none.

    core: version of megatron-core, whose Megatron-LM declares the flags; None is the one of exports.

    Raises UnreadableError.
    """
    fork = any(word.startswith("--deepspeed") for word in words)
    intake = Intake(kind=KIND, asserts_connections=not fork)
    if fork:
        intake.notes.append("--deepspeed is a flag of Megatron-DeepSpeed; the rest is judged as Megatron-LM reads it")
    if core is None:
        core = needed_release(words, intake)
    release = release_of(core if core is not None and is_version(core) else None)
    given, said = parsed(list(words), intake, release)
    take_ranks(intake, ranks)
    values = _Values({dest: default(row) for dest, row in by_dest(release).items()} | given)
    for key in FIELDS:
        dest = destination(key, release)
        if dest is not None:
            _take(intake, key, dest, values, said, by_dest(release)[dest])
    _translate(intake, values, said, by_dest(release))
    for key, value in megatron_checks.normalised(intake.flat, values).items():
        intake.take(key, value, "as Megatron-LM sets it")
    intake.torch_fsdp = bool(values["use_torch_fsdp2"])
    intake.checks.append(lambda complete: megatron_checks.checks(complete, values, said, program))
    _dictionary(intake, given, folder)
    known = {destination(key, release) for key in FIELDS} | set(HELPERS)
    for dest, flag in said.items():
        if dest not in known:
            intake.overlook(flag)
    return intake


def take_ranks(intake: Intake, ranks: Ranks) -> None:
    """The number of ranks, or what of it is not known."""
    if ranks.total:
        intake.take(WORLD, ranks.total, f"{ranks.said}: {ranks.total} rank{'' if ranks.total == 1 else 's'}")
    elif ranks.unknown:
        intake.notes.append(f"the number of ranks is not known: {', '.join(ranks.unknown)}; say it with {WORLD}=...")


def _take(
    intake: Intake, key: str, dest: str, values: Mapping[str, Any], said: Mapping[str, str], row: dict[str, Any]
) -> None:
    """One field with a flag of its own. What Megatron-LM does unasked is an ask only where that leaves an overlap off."""
    value = values[dest]
    chosen = key.startswith("comm_overlap.") and default(row) is not False
    if dest not in said and (chosen or (FIELDS[key].default is None and not key.startswith("comm_overlap."))):
        return
    text = said.get(dest, f"no {row['flags'][0]}")
    if value is None or (isinstance(value, str) and FIELDS[key].kind is not str):
        return
    intake.take(key, POSITIONS.get(value, value) if key == POSITION_EMBEDDING else value, text)


def _translate(
    intake: Intake, v: Mapping[str, Any], said: Mapping[str, str], table: Mapping[str, dict[str, Any]]
) -> None:
    """Fields that several flags decide, as validate_args and core_transformer_config_from_args do."""

    def take(key: str, value: Any, *dests: str) -> None:
        text = next(
            (said[dest] for dest in dests if dest in said),
            f"no {table[dests[0]]['flags'][0]}" if dests[0] in table else "",
        )
        intake.take(key, value, text)

    take("model.activation_func", "silu" if v["swiglu"] else "gelu", "swiglu")
    take("model.gated_linear_unit", bool(v["swiglu"]), "swiglu")
    take("model.share_embeddings_and_output_weights", not v["untie_embeddings_and_output_weights"],
         "untie_embeddings_and_output_weights")  # fmt: skip
    if v["use_rotary_position_embeddings"]:
        take("model.position_embedding_type", "rope", "use_rotary_position_embeddings")
    take("model.num_query_groups", v["num_query_groups"] if v["group_query_attention"] else None, "num_query_groups")
    ffn, hidden = v["ffn_hidden_size"], v["hidden_size"]
    if ffn is None and hidden is not None and v["swiglu"]:
        ffn = int((4 * hidden * 2 / 3) / 64) * 64  # validate_args:812
    take("model.ffn_hidden_size", ffn, "ffn_hidden_size")
    modules = "cuda_graph_modules" if "cuda_graph_modules" in table else "cuda_graph_scope"  # renamed in core_v0.18
    scope, how = [part for part in v[modules] or [] if part != "full"], v["cuda_graph_impl"]
    take("model.cuda_graph_scope", scope, modules)
    if how not in (None, "none") or scope:
        take("model.cuda_graph_impl", how, "cuda_graph_impl")
    for dest in ("enable_cuda_graph", "external_cuda_graph"):
        if dest in table:
            take(f"model.{dest}", v[dest], dest)
    kinds = v["cp_comm_type"] or ["p2p"]
    if len(set(kinds)) == 1 and v["context_parallel_size"] > 1:
        take("model.cp_comm_type", kinds[0], "cp_comm_type")
    if v["num_experts"] is not None:
        take("model.moe_router_load_balancing_type", _first(v["moe_router_load_balancing_type"]),
             "moe_router_load_balancing_type")  # fmt: skip
        take("model.moe_aux_loss_coeff", float(_first(v["moe_aux_loss_coeff"])), "moe_aux_loss_coeff")
    if v["recompute_activations"]:
        take("model.recompute_granularity", "selective", "recompute_activations")
    in_fp32 = not v["grad_reduce_in_bf16"] if v["bf16"] else v["accumulate_allreduce_grads_in_fp32"]
    take("precision.grad_reduce_in_fp32", bool(in_fp32), "grad_reduce_in_bf16", "accumulate_allreduce_grads_in_fp32")
    for dest in ("use_distributed_optimizer", "reuse_grad_buf_for_mxfp8_param_ag"):
        for owner in ("ddp", "optimizer"):
            take(f"{owner}.{dest}", v[dest], dest)
    intake.flat["model.deallocate_pipeline_outputs"] = True  # core_transformer_config_from_args:1324
    if v["fp16"]:
        intake.flat["ddp.check_for_nan_in_grad"] = False  # validate_args:702
    if v["transformer_impl"] == "local":
        take("software.transformer_engine", None, "transformer_impl")
    model_chunks.take(intake, v, said)
    if v["tensor_model_parallel_size"] == 1 and not v["tp_comm_overlap"]:
        intake.flat["parallelism.sequence_parallel"] = False  # validate_args:906-913


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _dictionary(intake: Intake, given: Mapping[str, Any], folder: Path | None) -> None:
    """The file of --tp-comm-overlap-cfg, if it is there."""
    name = given.get(DICTIONARY)
    if name is None:
        return
    file = folder / name if folder is not None else None
    if file is None or not file.is_file():
        intake.notes.append(f"--tp-comm-overlap-cfg {name} was not found, so the dictionary is not judged.")
        return
    try:
        layers = yamls.load(file.read_text(), yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = yamls.describe(error) if isinstance(error, yaml.YAMLError) else str(error)
        raise UnreadableError(f"{name} is not valid YAML: {what}.") from error
    said = f"--tp-comm-overlap-cfg {name}"
    if isinstance(layers, Mapping):
        dictionary.take(intake, layers, said, PLAIN)
        intake.flat["userbuffers.name"] = Path(name).stem
    elif layers is not None:
        intake.take("userbuffers.layers", layers, said)


def say(override: str) -> str:
    """An override of ours in Megatron-LM's words; unchanged where it has none."""
    about_dictionary = dictionary.say(override, "", "without --tp-comm-overlap-cfg")
    if about_dictionary is not None:
        return about_dictionary
    key, _, text = override.partition("=")
    value = yaml.safe_load(text) if text else None
    if key == "parallelism.world_size":
        return "any legal number of ranks" if value is None else f"{text} ranks"
    if key.startswith("env."):
        return f"{CONNECTIONS}={text}"
    names = {"ddp.use_distributed_optimizer": "use_distributed_optimizer"}
    dest = destination(key) or names.get(key)
    if dest is None or (key in TRANSLATED and key not in names):
        return override
    row = by_dest()[dest]
    if value is None or (row["action"] != "store" and bool(value) == default(row)):
        return f"without {row['flags'][0]}"
    return spell(row, value)
