"""CFG: the request itself. Keys exist, values have the right type and a legal value.

These rules look at the request before it is complete; `request.normalise` judges them while it reads, and nothing else
is judged when one of them refuses.
"""

import math
from collections.abc import Iterator
from typing import Any

from packaging.version import InvalidVersion, Version

from ..findings import Finding, Fix, Place, yaml_value
from ..suggest import nearest
from ._base import Rule

CHOICES: dict[str, tuple[str, ...]] = {
    "gating": ("strict", "bridge"),
    "comm_overlap.tp.tp_comm_bootstrap_backend": ("nccl", "mpi", "gloo"),
    "model.position_embedding_type": ("rope", "learned_absolute"),
    "model.normalization": ("RMSNorm", "LayerNorm"),
    "model.activation_func": ("silu", "gelu"),
    "model.moe_router_load_balancing_type": ("aux_loss", "seq_aux_loss", "sinkhorn", "none"),
    "model.moe_token_dispatcher_type": ("allgather", "alltoall", "flex"),
    "model.moe_flex_dispatcher_backend": ("deepep", "hybridep"),
    "model.symmetric_ar_type": ("two_shot", "one_shot", "multimem_all_reduce"),
    "model.cp_comm_type": ("p2p", "all_gather", "a2a", "a2a+p2p"),
    "model.recompute_granularity": ("selective", "full"),
    "model.recompute_method": ("uniform", "block"),
    "precision.fp8": ("e4m3", "hybrid"),
    "precision.fp8_recipe": ("delayed", "tensorwise", "blockwise", "mxfp8"),
    "optimizer.optimizer": ("adam", "sgd"),
    "ddp.data_parallel_sharding_strategy": ("no_shard", "optim", "optim_grads", "optim_grads_params"),
    "optimizer.lr_decay_style": ("cosine", "linear", "constant"),
    "data.kind": ("stdlib", "text", "mock"),
    "training.on_nonfinite": ("stop", "skip"),
    "launch.where": ("local", "slurm"),
}

LISTS: dict[str, tuple[str, ...]] = {
    "model.recompute_modules": ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"),
    "model.cuda_graph_scope": ("full_iteration", "attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba"),
    "launch.loggers": ("tensorboard", "wandb", "mlflow"),
}
"""Names a list may hold: megatron-core core_v0.16.1 transformer_config.py:1198, transformer/enums.py CudaGraphScope."""

AUTO = "auto"  # a fact still to be read from a machine; as in schema.py

MINIMUM: dict[str, float] = {
    "parallelism.tensor_model_parallel_size": 1,
    "parallelism.pipeline_model_parallel_size": 1,
    "parallelism.virtual_pipeline_model_parallel_size": 1,
    "parallelism.microbatch_group_size_per_vp_stage": 1,
    "parallelism.context_parallel_size": 1,
    "parallelism.expert_model_parallel_size": 1,
    "parallelism.expert_tensor_parallel_size": 1,
    "parallelism.world_size": 1,
    "comm_overlap.dp.bucket_size": 1,
    "ddp.bucket_size": 1,
    "ddp.num_distributed_optimizer_instances": 1,
    "model.num_layers": 1,
    "model.hidden_size": 1,
    "model.ffn_hidden_size": 1,
    "model.num_attention_heads": 1,
    "model.num_query_groups": 1,
    "model.kv_channels": 1,
    "model.seq_length": 1,
    "model.vocab_size": 1,
    "model.num_moe_experts": 1,
    "model.moe_ffn_hidden_size": 1,
    "model.moe_router_topk": 1,
    "model.moe_shared_expert_intermediate_size": 1,
    "model.mtp_num_layers": 0,
    "model.num_layers_in_first_pipeline_stage": 1,
    "model.num_layers_in_last_pipeline_stage": 1,
    "model.recompute_num_layers": 1,
    "model.rotary_base": 1,
    "model.attention_dropout": 0,
    "model.hidden_dropout": 0,
    "platform.sm": 1,
    "platform.nvlink_domain_size": 1,
    "userbuffers.tuned_for.tp": 1,
    "training.micro_batch_size": 1,
    "training.global_batch_size": 1,
    "training.train_iters": 1,
    "training.log_interval": 1,
    "training.eval_interval": 1,
    "training.eval_iters": 1,
    "training.spike_grad_norm": 0,
    "training.max_skipped_steps": 1,
    "optimizer.lr": 0,
    "optimizer.min_lr": 0,
    "optimizer.lr_warmup_iters": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_grad": 0,
    "launch.layernorm_sm_margin": 0,
    "launch.max_ranks": 1,
    "launch.slurm.nodes": 1,
    "launch.slurm.tasks_per_node": 1,
    "launch.slurm.gpus_per_node": 0,
    "launch.slurm.cpus_per_task": 1,
    "launch.slurm.time_min": 1,
    "launch.slurm.stop_s": 0,
    "launch.distributed_timeout_minutes": 0.01,
    "data.max_bytes": 1,
    "data.held_out": 0,
    "model.layernorm_epsilon": 0,
    "model.init_method_std": 0,
    "model.moe_aux_loss_coeff": 0,
    "optimizer.adam_beta1": 0,
    "optimizer.adam_beta2": 0,
    "optimizer.adam_eps": 0,
    "training.seed": 0,
    "checkpoint.save_interval": 1,
    "checkpoint.keep": 1,
}

BELOW: dict[str, float] = {
    "data.held_out": 1,
    "model.attention_dropout": 1,
    "model.hidden_dropout": 1,
    "optimizer.adam_beta1": 1,
    "optimizer.adam_beta2": 1,
    "training.seed": 2**32,  # numpy's, which shuffles the samples
}
"""Values that must stay below this one."""

VERSIONS = ("software.torch", "software.megatron_core", "software.transformer_engine")


class CfgRule(Rule):
    """Base: findings are made by `request.normalise`."""

    @classmethod
    def refuse(cls, key: str, value: Any, origin: str, why: str, *fixes: Fix) -> Finding:
        """The finding for one key."""
        place = Place(key, yaml_value(value), origin)
        return Finding(
            rule=cls.__name__, severity="error", title=cls.title(), why=why, where=(place,), fixes=fixes,
            source=cls.source,
        )  # fmt: skip


class CFG001(CfgRule):
    """Every key exists."""

    source = "hydra_overlap/schema/nodes.py"
    refused = ("comm_overlap.dp.bucket_sise=4",)

    @classmethod
    def unknown(cls, key: str, value: Any, origin: str, known: tuple[str, ...]) -> Finding:
        """Refuse `key`, naming its near miss and its siblings."""
        parent, _, name = key.rpartition(".")
        match = nearest(name, known)
        where = f" in {parent}" if parent else ""
        why = f"There is no {name}{where}; there are: {', '.join(known)}. An unknown key would be read by nobody."
        prefix = f"{parent}." if parent else ""
        meant = Fix(f"{prefix}{match}={yaml_value(value)}", f"in place of {key}: did you mean this?")
        fixes = (meant,) if match else ()
        return cls.refuse(key, value, origin, why, *fixes)


class CFG002(CfgRule):
    """Every value has its field's type."""

    source = "hydra_overlap/schema/nodes.py"
    refused = ("comm_overlap.dp.bucket_size=true",)


class CFG003(CfgRule):
    """Every named choice exists."""

    records = ("cp-comm-type-bogus", "dp-fsdp-sharding-strategy", "dp-muon-overlap")
    source = "hydra_overlap/rules/cfg.py CHOICES"
    refused = ("gating=lenient",)


class CFG004(CfgRule):
    """Every version is a version."""

    source = "PEP 440"
    refused = ("software.transformer_engine=newest",)


class CFG005(CfgRule):
    """Every size is in its range."""

    records = ("dp-bucket-size-nonpositive",)
    source = "hydra_overlap/rules/cfg.py MINIMUM"
    refused = ("comm_overlap.dp.bucket_size=-1",)


class CFG006(CfgRule):
    """The rules run on every composition."""

    source = "hydra_overlap/compose/enforce.py"


class CFG007(CfgRule):
    """comm_overlap stands at the top of the config."""

    source = "hydra_overlap/compose/enforce.py"


class CFG008(CfgRule):
    """A group takes one option."""

    source = "hydra_overlap/compose/enforce.py"


RULES: tuple[type[Rule], ...] = (CFG001, CFG002, CFG003, CFG004, CFG005, CFG006, CFG007, CFG008)


def judge_values(flat: dict[str, Any], origin: Any) -> Iterator[Finding]:
    """CFG003 to CFG005 on a request whose keys and types are right."""
    for key, choices in CHOICES.items():
        value = flat[key]
        if value is not None and value not in choices:
            match = nearest(value, choices)
            fixes = [Fix(f"{key}={choice}", "did you mean this?" if choice == match else "") for choice in choices]
            yield CFG003.refuse(key, value, origin(key), f"One of: {', '.join(choices)}.", *fixes)
    for key, choices in LISTS.items():
        for item in flat[key] or ():
            if item not in choices:
                known = [name for name in flat[key] if name in choices]
                fix = Fix(f"{key}={yaml_value(known)}", "those that exist")
                yield CFG003.refuse(key, flat[key], origin(key), f"{item} is none of: {', '.join(choices)}.", fix)
                break
    for key in VERSIONS:
        value = flat[key]
        if value is not None and not _is_version(value):
            why = "A version such as 2.11.0, or null for not installed."
            if value == AUTO:
                why += (
                    " auto stands for a fact of the machine: Hydra's composition fills it in, a plain call must say it."
                )
            versions = (Fix(f"{key}=2.11.0", "such as"), Fix(f"{key}=null", "not installed"))
            yield CFG004.refuse(key, value, origin(key), why, *versions)
    if flat["platform.name"] == AUTO:
        why = "auto stands for the machine that composes: Hydra's composition fills it in, a plain call must say it."
        stand_ins = (Fix("platform.name=cpu", "no GPU"), Fix("platform.name=h100 platform.sm=90", "such as"))
        yield CFG003.refuse("platform.name", AUTO, origin("platform.name"), why, *stand_ins)
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield CFG005.refuse(key, value, origin(key), "A finite number.", _default_fix(key))
    for key, limit in BELOW.items():
        if flat[key] >= limit:
            yield CFG005.refuse(key, flat[key], origin(key), f"Below {limit:,}.", _default_fix(key))
    for key, least in MINIMUM.items():
        value = flat[key]
        if value is not None and value < least:
            why = f"{key} is at least {least:g}."
            if key == "comm_overlap.dp.bucket_size":
                why += " It counts parameters, not bytes."
            yield CFG005.refuse(key, value, origin(key), why, _default_fix(key))


def _default_fix(key: str) -> Fix:
    return Fix(f"{key}={yaml_value(DEFAULTS[key])}", "the default")


DEFAULTS: dict[str, Any] = {}
"""Flat defaults of the schema; filled by request.py, which reads the schema."""


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
