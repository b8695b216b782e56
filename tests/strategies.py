"""Hypothesis strategies for requests: plausible ones, which often resolve, and wild ones, which break every type."""

from typing import Any

from hypothesis import strategies as st

from hydra_overlap.rules.ub import GEMMS, METHODS, UB_ARGUMENTS
from hydra_overlap.schema.fields import CHOICES, DEFAULTS, FIELDS

Request = dict[str, Any]


def nest(flat: Request) -> Request:
    """`{"a.b": 1}` -> `{"a": {"b": 1}}`."""
    request: Request = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        node = request
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return request


tri_state = st.sampled_from([None, None, None, True, False])
OVERLAP = {key: tri_state for key in DEFAULTS if key.startswith("comm_overlap.") and FIELDS[key].kind is bool} | {
    "comm_overlap.tp.tp_comm_bootstrap_backend": st.sampled_from(["nccl", "mpi", "gloo", None]),
    "comm_overlap.pp.wgrad_deferral_limit": st.sampled_from([None, None, None, 0, 22, -1]),
    "comm_overlap.dp.bucket_size": st.sampled_from([None, None, 1000, 1_000_000, 40_000_000]),
}
BASES = dict.fromkeys(("ddp.overlap_grad_reduce", "ddp.overlap_param_gather", "ddp.align_param_gather", "optimizer.overlap_param_gather", "optimizer.overlap_param_gather_with_optimizer_step"), tri_state)  # fmt: skip
REST: dict[str, st.SearchStrategy[Any]] = {
    "parallelism.context_parallel_size": st.sampled_from([1, 1, 2]),
    "parallelism.virtual_pipeline_model_parallel_size": st.sampled_from([None, None, 1, 2, 3]),
    "parallelism.microbatch_group_size_per_vp_stage": st.sampled_from([None, None, 2, 5]),
    "parallelism.expert_model_parallel_size": st.sampled_from([1, 1, 2, 4]),
    "parallelism.expert_tensor_parallel_size": st.sampled_from([None, 1, 2]),
    "model.num_layers": st.sampled_from([None, 7, 8, 12, 80]),
    "model.hidden_size": st.sampled_from([None, 128, 8192]),
    "model.num_attention_heads": st.sampled_from([None, 6, 8, 64]),
    "model.num_query_groups": st.sampled_from([None, 2, 3, 8]),
    "model.seq_length": st.sampled_from([None, 128, 1022, 8192]),
    "model.ffn_hidden_size": st.sampled_from([None, 384, 1022]),
    "model.num_moe_experts": st.sampled_from([None, None, 1, 4, 6]),
    "model.moe_token_dispatcher_type": st.sampled_from(["allgather", "alltoall", "flex"]),
    "model.moe_shared_expert_intermediate_size": st.sampled_from([None, 64]),
    "model.moe_shared_expert_overlap": st.sampled_from([False, False, True]),
    "model.gradient_accumulation_fusion": st.booleans(),
    "model.recompute_granularity": st.sampled_from([None, None, "selective", "full"]),
    "model.recompute_method": st.sampled_from([None, None, "uniform"]),
    "model.recompute_num_layers": st.sampled_from([None, None, 1]),
    "model.recompute_modules": st.sampled_from([None, None, [], ["moe"], ["core_attn", "moe"], ["shared_experts"]]),
    "model.cuda_graph_scope": st.sampled_from([[], [], ["attn"], ["moe_router"], ["moe"], ["full_iteration"]]),
    "model.mtp_num_layers": st.sampled_from([None, None, 0, 1, 2]),
    "model.moe_flex_dispatcher_backend": st.sampled_from([None, None, "deepep", "hybridep"]),
    "model.moe_grouped_gemm": st.booleans(),
    "model.ep_overlap_early_attn_memory_release": st.sampled_from([False, False, True]),
    "model.overlap_dispatch_backward_with_experts_wgrad": st.sampled_from([False, False, True]),
    "model.deallocate_pipeline_outputs": st.booleans(),
    "precision.bf16": st.booleans(),
    "precision.fp16": st.sampled_from([False, False, True]),
    "precision.fp8": st.sampled_from([None, None, "hybrid"]),
    "precision.first_last_layers_bf16": st.booleans(),
    "precision.fp8_recipe": st.sampled_from([None, None, "delayed", "tensorwise", "blockwise", "mxfp8"]),
    "precision.num_layers_at_start_in_bf16": st.sampled_from([1, 1, 0, 3]),
    "model.multi_latent_attention": st.sampled_from([False, False, True]),
    "model.variable_seq_lengths": st.sampled_from([False, False, True]),
    "model.symmetric_ar_type": st.sampled_from([None, None, None, "one_shot"]),
    "model.cp_comm_type": st.sampled_from([None, None, "p2p", "a2a", "a2a+p2p"]),
    "ddp.reuse_grad_buf_for_mxfp8_param_ag": st.sampled_from([False, False, True]),
    "optimizer.reuse_grad_buf_for_mxfp8_param_ag": st.sampled_from([False, False, True]),
    "precision.fp8_param_gather": st.sampled_from([False, False, True]),
    "training.micro_batch_size": st.sampled_from([1, 2]),
    "training.global_batch_size": st.sampled_from([None, None, 6, 64]),
    "software.transformer_engine": st.sampled_from([None, "2.6.0", "2.11.0", "2.12.0"]),
    "software.torch": st.sampled_from([None, "2.5.1", "2.11.0"]),
    "software.megatron_core": st.sampled_from([None, "0.15.3", "0.16.1", "0.19.0"]),
    "launch.nccl_pp_comm_chunksize": st.sampled_from([None, None, 1, 2097152]),
    "ddp.num_distributed_optimizer_instances": st.sampled_from([1, 1, 2, 3]),
    "ddp.average_in_collective": st.sampled_from([False, False, True]),
    "ddp.check_for_nan_in_grad": st.sampled_from([False, False, True]),
    "ddp.reduce_scatter_with_fp32_accumulation": st.sampled_from([False, False, True]),
    "ddp.nccl_ub": st.sampled_from([False, False, True]),
    "ddp.disable_symmetric_registration": st.booleans(),
    "ddp.use_megatron_fsdp": st.sampled_from([False, False, True]),
    "ddp.data_parallel_sharding_strategy": st.sampled_from(["no_shard", "optim", "optim_grads", "optim_grads_params"]),
    "ddp.fsdp_double_buffer": st.sampled_from([False, False, True]),
    "ddp.fsdp_manual_registration": st.sampled_from([False, False, True]),
    "optimizer.optimizer": st.sampled_from(["adam", "adam", "sgd"]),
    "model.calculate_per_token_loss": st.sampled_from([False, False, True]),
    "model.vocab_size": st.sampled_from([None, 384, 128256]),
    "model.num_layers_in_first_pipeline_stage": st.sampled_from([None, None, 2, 3]),
    "model.num_layers_in_last_pipeline_stage": st.sampled_from([None, None, 2]),
    "model.pipeline_model_parallel_layout": st.sampled_from(
        [None, None, None, "Et*7|t*5L", "Et|(t|)*6tL", "Et*3|(tt|)*2tL", "EtmL", "Et*79|t|||L", "Ex"]
    ),
    "model.account_for_embedding_in_pipeline_split": st.sampled_from([False, False, True]),
    "model.account_for_loss_in_pipeline_split": st.sampled_from([False, False, True]),
    "launch.layernorm_sm_margin": st.sampled_from([None, 16]),
}
TRAIN_PY: dict[str, st.SearchStrategy[Any]] = {
    "launch.trainer": st.sampled_from(["train.py", "other"]),
    "optimizer.lr": st.sampled_from([1e-5, 3e-3, 1.0]),
    "optimizer.min_lr": st.sampled_from([0.0, 3e-5, 1.0]),
    "optimizer.lr_warmup_iters": st.sampled_from([0, 4, 8, 100]),
    "training.train_iters": st.sampled_from([1, 8, 100]),
    "training.global_batch_size": st.sampled_from([None, 6, 16, 64]),
    "training.micro_batch_size": st.sampled_from([1, 2]),
    "training.rampup_batch_size": st.sampled_from([None, [4, 4, 24], [4, 4], [], [1, 5, 24], [0, 1, 2], [2, 2, 9]]),
    "training.eval_interval": st.sampled_from([None, 2, 100]),
    "data.kind": st.sampled_from(["stdlib", "text", "mock"]),
    "data.files": st.sampled_from([[], ["a.txt"], ["a/*.txt", "b.txt"]]),
    "data.held_out": st.sampled_from([0.0, 0.03]),
    "model.vocab_size": st.sampled_from([None, 200, 257, 384]),
    "model.num_layers": st.sampled_from([None, 4]),
    "checkpoint.save": st.sampled_from([None, "saved"]),
    "checkpoint.save_interval": st.sampled_from([None, 2]),
    "launch.dry_run": st.booleans(),
    "launch.dry_run_ranks": st.sampled_from([[], [0], [1, 0], [99], [-1]]),
    "launch.where": st.sampled_from(["local", "slurm"]),
    "launch.slurm.nodes": st.sampled_from([None, 1, 2, 3]),
    "launch.slurm.tasks_per_node": st.sampled_from([None, 1, 2, 16]),
    "launch.slurm.gpus_per_node": st.sampled_from([None, 0, 1, 8]),
    "launch.vboost": st.sampled_from([False, False, True]),
    "parallelism.world_size": st.sampled_from([None, 1, 2, 4, 12, 16]),
    "parallelism.context_parallel_size": st.sampled_from([1, 2]),
    "model.multi_latent_attention": st.sampled_from([False, False, True]),
    "model.variable_seq_lengths": st.sampled_from([False, False, True]),
    "model.cuda_graph_scope": st.sampled_from([[], ["attn"]]),
    "ddp.use_megatron_fsdp": st.sampled_from([False, False, True]),
}
"""What rules TRN read, beside what is in `REST`."""


@st.composite
def changes(draw: st.DrawFn) -> Request:
    """Key -> value of a few settings that a user of train.py changes, those of its own rules first of all."""
    flat: Request = {}
    for fields, most in ((TRAIN_PY, 4), (OVERLAP | REST, 1)):
        for key in draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=most)):
            flat[key] = draw(fields[key])
    return flat


PLATFORMS = st.sampled_from(
    [
        {},
        {"name": "cpu"},
        {"name": "h100", "sm": 90, "nvlink_domain_size": 8},
        {"name": "b200", "sm": 100, "nvlink_domain_size": 8},
    ]
)


@st.composite
def userbuffers(draw: st.DrawFn) -> Request | None:
    """A dictionary with a few entries, some of them illegal; or none."""
    if draw(st.integers(0, 5)):
        return None
    entry = st.fixed_dictionaries(
        {"method": st.sampled_from(METHODS)},
        optional={
            "num_sm": st.sampled_from([1, 16, 64]), "cga_size": st.sampled_from([1, 2]), "atomic_gemm": st.booleans(),
        },
    )  # fmt: skip
    layers = draw(st.dictionaries(st.sampled_from((*GEMMS, "qkv_fwd")), entry, max_size=3))
    return {"name": "mine", "layers": layers, "tuned_for": {"tp": draw(st.sampled_from([None, 2, 4]))}}


DISTRIBUTED = {"ddp.use_distributed_optimizer": True, "optimizer.use_distributed_optimizer": True}
EXPERTS = {
    "model.num_moe_experts": 8, "parallelism.expert_model_parallel_size": 2, "model.moe_token_dispatcher_type": "alltoall",
    "precision.bf16": True, "software.torch": "2.11.0",
}  # fmt: skip
SCENARIOS: dict[str, Request] = {
    "nothing said": {},
    "data parallel": {
        **DISTRIBUTED, "parallelism.world_size": 8, "comm_overlap.dp.overlap_grad_reduce": True,
        "comm_overlap.dp.overlap_param_gather": True, "comm_overlap.dp.bucket_size": 1_000_000,
    },
    "small model": {
        **DISTRIBUTED, "parallelism.world_size": 4, "model.num_layers": 8, "model.hidden_size": 128,
        "model.num_attention_heads": 8, "model.ffn_hidden_size": 384, "model.vocab_size": 384,
        "comm_overlap.dp.overlap_param_gather": True, "comm_overlap.dp.bucket_size": 100_000,
    },
    "sharded": {
        **DISTRIBUTED, "parallelism.world_size": 8, "ddp.use_megatron_fsdp": True, "ddp.nccl_ub": True,
        "ddp.data_parallel_sharding_strategy": "optim_grads_params", "ddp.fsdp_double_buffer": True,
        "comm_overlap.dp.overlap_grad_reduce": True, "comm_overlap.dp.overlap_param_gather": True,
    },
    "tensor parallel": {
        "parallelism.tensor_model_parallel_size": 4, "parallelism.sequence_parallel": True, "parallelism.world_size": 8,
        "comm_overlap.tp.tp_comm_overlap": True, "comm_overlap.tp.tp_comm_overlap_rs": True,
        "software.transformer_engine": "2.12.0", "model.num_attention_heads": 8, "model.seq_length": 128,
        "precision.bf16": True,
    },
    "interleaved": {
        **DISTRIBUTED, "parallelism.pipeline_model_parallel_size": 2, "parallelism.world_size": 4,
        "parallelism.virtual_pipeline_model_parallel_size": 2, "model.num_layers": 8, "training.global_batch_size": 8,
        "comm_overlap.pp.overlap_p2p_comm": True, "comm_overlap.pp.overlap_p2p_comm_warmup_flush": True,
        "comm_overlap.dp.overlap_param_gather_with_optimizer_step": True, "comm_overlap.dp.align_param_gather": True,
    },
    "deferred": {
        "parallelism.pipeline_model_parallel_size": 4, "model.gradient_accumulation_fusion": True,
        "comm_overlap.pp.defer_embedding_wgrad_compute": True, "comm_overlap.pp.wgrad_deferral_limit": 22,
        "software.transformer_engine": "2.12.0",
    },
    "experts": {
        **EXPERTS, "comm_overlap.ep.overlap_moe_expert_parallel_comm": True, "comm_overlap.ep.delay_wgrad_compute": True,
        "software.transformer_engine": "2.12.0", "parallelism.world_size": 4,
    },
    "all at once": {
        **DISTRIBUTED, **EXPERTS, "parallelism.tensor_model_parallel_size": 2, "parallelism.sequence_parallel": True,
        "parallelism.pipeline_model_parallel_size": 2, "parallelism.virtual_pipeline_model_parallel_size": 2,
        "parallelism.world_size": 8, "comm_overlap.tp.tp_comm_overlap": True, "comm_overlap.pp.overlap_p2p_comm": True,
        "comm_overlap.dp.overlap_param_gather": True, "comm_overlap.ep.overlap_moe_expert_parallel_comm": True,
        "comm_overlap.ep.delay_wgrad_compute": True, "software.transformer_engine": "2.12.0",
    },
}  # fmt: skip
"""Legal requests that ask for something; a test says so."""


@st.composite
def plausible(draw: st.DrawFn) -> Request:
    """A request somebody might write: types right, a legal scenario with a few fields changed, or none to start from."""
    flat: Request = dict(SCENARIOS[draw(st.sampled_from(sorted(SCENARIOS)))])
    changes = draw(st.sampled_from([0, 1, 2, 4, 12]))
    if changes > 2:
        flat |= draw(_layout())
    fields = OVERLAP | BASES | REST
    for key in draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=changes)):
        flat[key] = draw(fields[key])
    request = nest(flat)
    request["platform"] = dict(draw(PLATFORMS))
    request["userbuffers"] = draw(userbuffers())
    return request


@st.composite
def _layout(draw: st.DrawFn) -> Request:
    tp, pp = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 1, 2, 4]))
    distributed = draw(st.booleans())
    return {
        "parallelism.tensor_model_parallel_size": tp,
        "parallelism.pipeline_model_parallel_size": pp,
        "parallelism.sequence_parallel": draw(st.booleans()) if draw(st.integers(0, 4)) == 0 else tp > 1,
        "parallelism.world_size": draw(st.sampled_from([None, tp * pp, 2 * tp * pp, 8 * tp * pp, 6])),
        "ddp.use_distributed_optimizer": distributed,
        "optimizer.use_distributed_optimizer": distributed if draw(st.integers(0, 5)) else not distributed,
    }


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 10**30, 2**63]), st.floats(), st.text(max_size=8),
    st.sampled_from(["auto", "true", "8", "2.11.0", "???", "${x}", "h100", "bridge"]), st.binary(max_size=3),
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_choices = st.sampled_from(sorted({choice for choices in CHOICES.values() for choice in choices}))


@st.composite
def wild(draw: st.DrawFn) -> Any:
    """Anything at all, most often near the shape of a request."""
    if draw(st.integers(0, 9)) == 0:
        return draw(anything)
    request: Any = draw(plausible())
    for key in draw(st.lists(st.sampled_from(sorted(DEFAULTS)), unique=True, max_size=4)):
        *path, name = key.split(".")
        node = request
        for part in path:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[name] = draw(anything | _choices | st.integers(-2, 16))
    if draw(st.integers(0, 3)) == 0:
        names = st.text(max_size=4) | st.sampled_from(GEMMS)
        entry = st.dictionaries(st.text(max_size=4) | st.sampled_from(sorted(UB_ARGUMENTS)), scalars, max_size=3)
        request["userbuffers"] = {"layers": draw(st.dictionaries(names, entry | st.none(), max_size=3))}
    if draw(st.booleans()):
        request[draw(st.text(max_size=6) | st.sampled_from(["comm_overlap", "model", "userbuffers"]))] = draw(anything)
    return request
