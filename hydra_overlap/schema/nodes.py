"""The request: one dataclass per config group, and what each field means, in which unit.

What a field may hold beyond its type is said where it stands, by the functions of `limits`.

Field names are megatron-core's and Transformer Engine's own. An overlap field is tri-state: `None` means "decide for
me", anything else means "asked" and either holds or is refused. This module imports neither hydra nor torch; the
`hydra_plugins` search-path plugin registers these classes with Hydra's ConfigStore.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Optional

from .annotations import default_of
from .limits import (
    BUFFER,
    EXPERTS,
    INT32,
    LAYERS,
    MINUTES,
    NODES,
    PER_NODE,
    RANKS,
    SAMPLES,
    SIGNAL_S,
    SMALLEST_FLOAT32,
    STEPS,
    WIDTH,
    at_least,
    choice,
    names,
    version,
    whole_numbers,
)  # fmt: skip

AUTO = "auto"  # a fact to be read from the machine at composition; see machine/local.py


class _Node:
    """What every node can do, written once.

    For each class of its own dataclasses would write these methods anew and Python compile them at every start of every
    Hydra app, at 16 times the price of all else in this module.
    """

    def __init__(self, **said: Any) -> None:
        unknown = said.keys() - self.__dataclass_fields__.keys()  # type: ignore[attr-defined]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        for one in fields(self):  # type: ignore[arg-type]
            setattr(self, one.name, said[one.name] if one.name in said else default_of(one))

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(init=False, repr=False, eq=False)
class TpOverlap(_Node):
    """Tensor-parallel overlap: Transformer Engine's userbuffers overlap SP's all-gathers and reduce-scatters with GEMMs."""

    tp_comm_overlap: Optional[bool] = None
    """Overlap TP communication with GEMMs. null = false, as upstream."""
    tp_comm_bootstrap_backend: Optional[str] = choice("nccl", "mpi", "gloo", default="nccl")
    """Process group that exchanges userbuffers handles: nccl, mpi or gloo."""
    tp_comm_overlap_ag: Optional[bool] = None
    """Pipeline the all-gather with the GEMM that follows it."""
    tp_comm_overlap_rs: Optional[bool] = None
    """Pipeline the reduce-scatter with the GEMM before it."""
    tp_comm_overlap_rs_dgrad: Optional[bool] = None
    """Pipeline the reduce-scatter with the dgrad GEMM; replaces both bulk overlaps of qkv and fc1."""
    tp_comm_bulk_dgrad: Optional[bool] = None
    """Bulk all-gather under the dgrad GEMM."""
    tp_comm_bulk_wgrad: Optional[bool] = None
    """Bulk reduce-scatter under the wgrad GEMM."""
    tp_comm_overlap_disable_qkv: Optional[bool] = None
    """Keep the QKV all-gather out of the overlap."""
    tp_comm_overlap_disable_fc1: Optional[bool] = None
    """Keep the FC1 all-gather out of the overlap."""


@dataclass(init=False, repr=False, eq=False)
class PpOverlap(_Node):
    """Pipeline-parallel overlap: point-to-point sends and receives under compute."""

    overlap_p2p_comm: Optional[bool] = None
    """Overlap p2p with compute, in the interleaved schedule only. null = true for PP > 1 and VPP > 1."""
    batch_p2p_comm: Optional[bool] = None
    """Send and receive in one batched call; not together with overlap_p2p_comm."""
    overlap_p2p_comm_warmup_flush: Optional[bool] = None
    """Overlap p2p in the warm-up and flush phases as well."""
    defer_embedding_wgrad_compute: Optional[bool] = None
    """Compute the output layer's weight gradient in the pipeline flush instead of in each backward."""
    wgrad_deferral_limit: Optional[int] = None
    """Microbatches whose output-layer weight gradient is deferred; 0 = all."""


@dataclass(init=False, repr=False, eq=False)
class DpOverlap(_Node):
    """Data-parallel overlap: gradient reduce under backward, parameter gather under forward."""

    overlap_grad_reduce: Optional[bool] = None
    """Reduce gradient buckets while backward runs."""
    overlap_param_gather: Optional[bool] = None
    """Gather parameter buckets while forward runs; needs the distributed optimizer."""
    overlap_param_gather_with_optimizer_step: Optional[bool] = None
    """Gather the first chunk's parameters during the optimizer step; needs the interleaved schedule."""
    align_param_gather: Optional[bool] = None
    """Launch the gathers of all pipeline stages together; needs the interleaved schedule."""
    bucket_size: Optional[int] = at_least(1)
    """Bucket size in parameters (not bytes). null = max(40 000 000, 1 000 000 x DP size), or less for small stages."""


@dataclass(init=False, repr=False, eq=False)
class EpOverlap(_Node):
    """Expert-parallel overlap: the MoE all-to-alls of one microbatch under the compute of another."""

    overlap_moe_expert_parallel_comm: Optional[bool] = None
    """Overlap token dispatch and combine with the compute of another microbatch."""
    delay_wgrad_compute: Optional[bool] = None
    """Compute weight gradients separately, so that there is more compute to hide the all-to-alls under."""


@dataclass(init=False, repr=False, eq=False)
class CommOverlap(_Node):
    """The overlap settings of each dimension."""

    tp: TpOverlap = field(default_factory=TpOverlap)
    pp: PpOverlap = field(default_factory=PpOverlap)
    dp: DpOverlap = field(default_factory=DpOverlap)
    ep: EpOverlap = field(default_factory=EpOverlap)


@dataclass(init=False, repr=False, eq=False)
class TunedFor(_Node):
    """The shape a userbuffers preset was tuned on."""

    gpu: Optional[str] = None
    """GPU, as in platform.name."""
    hidden_size: Optional[int] = None
    """model.hidden_size."""
    tp: Optional[int] = at_least(1)
    """tensor_model_parallel_size."""
    cp: Optional[int] = None
    """context_parallel_size."""
    mbs: Optional[int] = None
    """micro_batch_size, samples."""
    seq_length: Optional[int] = None
    """model.seq_length, tokens."""
    precision: Optional[str] = None
    """bf16 or fp8."""


@dataclass(init=False, repr=False, eq=False)
class Userbuffers(_Node):
    """The per-GEMM dictionary for Transformer Engine's initialize_ub, and what it was tuned for."""

    name: str = ""
    """Name of the preset."""
    tuned_for: TunedFor = field(default_factory=TunedFor)
    """The shape it was tuned on."""
    source: str = ""
    """Where the values are published."""
    layers: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    """{qkv,proj,fc1,fc2}_{fprop,dgrad,wgrad} -> keyword arguments of Transformer Engine's add_ub."""


@dataclass(init=False, repr=False, eq=False)
class Parallelism(_Node):
    """How ranks are laid out."""

    tensor_model_parallel_size: int = at_least(1, RANKS, default=1)
    """Ranks over which a layer is split."""
    pipeline_model_parallel_size: int = at_least(1, RANKS, default=1)
    """Pipeline stages."""
    virtual_pipeline_model_parallel_size: Optional[int] = at_least(1, LAYERS)
    """Model chunks per pipeline rank; null = not interleaved, or as many as model.pipeline_model_parallel_layout makes."""
    microbatch_group_size_per_vp_stage: Optional[int] = at_least(1, INT32)
    """Contiguous microbatches per virtual stage; null = pipeline_model_parallel_size."""
    context_parallel_size: int = at_least(1, RANKS, default=1)
    """Ranks over which a sequence is split."""
    expert_model_parallel_size: int = at_least(1, RANKS, default=1)
    """Ranks over which the experts are distributed."""
    expert_tensor_parallel_size: Optional[int] = at_least(1, RANKS)
    """Ranks over which one expert is split; null = tensor_model_parallel_size."""
    sequence_parallel: bool = False
    """Split norm and dropout activations along the sequence over the TP ranks."""
    world_size: Optional[int] = at_least(1, RANKS)
    """Number of ranks; null = TP x PP x CP, or more if the experts need them. The rest is data parallelism."""


@dataclass(init=False, repr=False, eq=False)
class Model(_Node):
    """Architecture, with the names of TransformerConfig and GPTModel. null = not set: rules that need it do not apply."""

    name: Optional[str] = None
    """Name of the model, for reports only."""
    num_layers: Optional[int] = at_least(1, LAYERS)
    """Transformer layers."""
    hidden_size: Optional[int] = at_least(1, WIDTH)
    """Width of the residual stream."""
    ffn_hidden_size: Optional[int] = at_least(1, WIDTH)
    """Width inside the MLP; null = 4 x hidden_size."""
    num_attention_heads: Optional[int] = at_least(1, WIDTH)
    """Query heads."""
    num_query_groups: Optional[int] = at_least(1, WIDTH)
    """Key/value heads; null = num_attention_heads."""
    kv_channels: Optional[int] = at_least(1, WIDTH)
    """Width of a head; null = hidden_size / num_attention_heads."""
    seq_length: Optional[int] = at_least(1, INT32)
    """Tokens per sample."""
    vocab_size: Optional[int] = at_least(1, INT32)
    """Tokens in the vocabulary, before padding to a multiple of 128 x TP."""
    position_embedding_type: str = choice("rope", "learned_absolute", default="rope")
    """rope or learned_absolute."""
    rotary_base: int = at_least(1, default=10000)
    """RoPE base period."""
    share_embeddings_and_output_weights: bool = False
    """Tie the input and output embedding."""
    normalization: str = choice("RMSNorm", "LayerNorm", default="RMSNorm")
    """LayerNorm or RMSNorm."""
    layernorm_epsilon: float = at_least(0, default=1e-5)
    """Added to the variance in norms."""
    activation_func: str = choice("silu", "gelu", default="silu")
    """silu or gelu."""
    gated_linear_unit: bool = True
    """SwiGLU-style gated MLP (with silu)."""
    add_bias_linear: bool = False
    """Bias in linear layers."""
    add_qkv_bias: bool = False
    """Bias in the QKV projection only."""
    qk_layernorm: bool = False
    """Normalise queries and keys."""
    attention_dropout: float = at_least(0, default=0.0, below=1)
    """Dropout probability of attention weights."""
    hidden_dropout: float = at_least(0, default=0.0, below=1)
    """Dropout probability of hidden states."""
    init_method_std: float = at_least(0, default=0.02)
    """Standard deviation of the initial weights."""
    gradient_accumulation_fusion: bool = False
    """Accumulate weight gradients inside the wgrad GEMM, with a CUDA kernel."""
    num_moe_experts: Optional[int] = at_least(1, EXPERTS)
    """Experts per MoE layer; null = dense."""
    moe_ffn_hidden_size: Optional[int] = at_least(1, WIDTH)
    """Width inside one expert; null = ffn_hidden_size."""
    moe_router_topk: int = at_least(1, EXPERTS, default=2)
    """Experts per token."""
    moe_router_pre_softmax: bool = False
    """Take the softmax over all experts before the experts of a token are chosen, not over the chosen ones."""
    moe_router_score_function: str = choice("softmax", "sigmoid", "sqrtsoftplus", default="softmax")
    """What makes scores of the router's logits: softmax, sigmoid or, since megatron-core 0.19, sqrtsoftplus."""
    moe_router_load_balancing_type: str = choice("aux_loss", "seq_aux_loss", "sinkhorn", "none", default="aux_loss")
    """How the router balances load: aux_loss, seq_aux_loss, sinkhorn or none."""
    moe_aux_loss_coeff: float = at_least(0, default=0.0)
    """Weight of the load-balancing loss."""
    moe_token_dispatcher_type: str = choice("allgather", "alltoall", "flex", default="allgather")
    """How tokens reach their experts: allgather, alltoall or flex."""
    moe_flex_dispatcher_backend: Optional[str] = choice("deepep", "hybridep", "ncclep")
    """Backend of the flex dispatcher: deepep, hybridep or, since megatron-core 0.19, ncclep; null = deepep."""
    moe_deepep_num_sms: Optional[int] = at_least(1)
    """SMs of DeepEP's kernels; null = 20. From megatron-core 0.19 on: moe_flex_dispatcher_num_sms."""
    moe_hybridep_num_sms: Optional[int] = at_least(1)
    """SMs of HybridEP's kernels; null = megatron-core's or HybridEP's default. From 0.19 on: moe_flex_dispatcher_num_sms."""
    moe_grouped_gemm: bool = False
    """One grouped GEMM for all local experts."""
    moe_expert_capacity_factor: Optional[float] = at_least(0)
    """Tokens that an expert takes at most, as a multiple of the even share; null = all that are sent to it."""
    moe_pad_expert_input_to_capacity: bool = False
    """With moe_expert_capacity_factor: pad each expert's tokens to that number, so that shapes are known beforehand."""
    moe_shared_expert_intermediate_size: Optional[int] = at_least(1, WIDTH)
    """Width of the shared expert; null = none."""
    moe_shared_expert_overlap: bool = False
    """Run the shared expert under the dispatch; excludes overlap_moe_expert_parallel_comm."""
    overlap_dispatch_backward_with_experts_wgrad: bool = False
    """Run the experts' weight gradients under the backward of the dispatch; since megatron-core 0.18."""
    ep_overlap_early_attn_memory_release: bool = False
    """With overlap_moe_expert_parallel_comm: free attention's activations earlier."""
    mtp_num_layers: Optional[int] = at_least(0, LAYERS)
    """Multi-token-prediction layers."""
    multi_latent_attention: bool = False
    """Multi-latent attention: queries, keys and values through low-rank projections."""
    variable_seq_lengths: bool = False
    """Microbatches of different lengths, for example packed sequences without padding."""
    symmetric_ar_type: Optional[str] = choice("two_shot", "one_shot", "multimem_all_reduce")
    """All-reduce over symmetric memory in the forward pass: two_shot, one_shot or multimem_all_reduce; null = NCCL's."""
    cp_comm_type: Optional[str] = choice("p2p", "all_gather", "a2a", "a2a+p2p")
    """How context-parallel ranks exchange keys and values: p2p, all_gather, a2a or a2a+p2p; null = p2p."""
    num_layers_in_first_pipeline_stage: Optional[int] = at_least(1, LAYERS)
    """Layers of the first stage; null = as many as in the others."""
    num_layers_in_last_pipeline_stage: Optional[int] = at_least(1, LAYERS)
    """Layers of the last stage; null = as many as in the others."""
    pipeline_model_parallel_layout: Optional[str] = None
    """Layers of every stage, as in 'Et|(tt|)*30L': E embedding, t layer, m MTP layer, L loss; null = evenly split."""
    account_for_embedding_in_pipeline_split: bool = False
    """Count the embedding as a layer when layers are split over stages."""
    account_for_loss_in_pipeline_split: bool = False
    """Count the output layer and the loss as a layer when layers are split over stages."""
    deallocate_pipeline_outputs: bool = False
    """Free a stage's output once it is sent; Megatron-LM always does."""
    calculate_per_token_loss: bool = False
    """Scale gradients by the tokens of the whole batch instead of averaging over microbatches and ranks."""
    recompute_granularity: Optional[str] = choice("selective", "full")
    """Recompute activations in backward: selective or full; null = keep all activations."""
    recompute_method: Optional[str] = choice("uniform", "block")
    """With recompute_granularity=full: uniform or block."""
    recompute_num_layers: Optional[int] = at_least(1, LAYERS)
    """With recompute_granularity=full: layers per recomputed block."""
    # Source of both lists: megatron-core core_v0.16.1 transformer_config.py:1198, transformer/enums.py CudaGraphScope.
    recompute_modules: Optional[List[str]] = names(
        "core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"
    )
    """With recompute_granularity=selective: the modules to recompute; null = core_attn."""
    # As a list from 0.16 on; before that it was one text: full, attn or full_iteration.
    cuda_graph_scope: List[str] = names(
        "full_iteration", "attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba", default=[]
    )
    """Parts of a layer to capture in CUDA graphs; full_iteration captures the whole iteration. From 0.18 on: cuda_graph_modules."""
    cuda_graph_modules: List[str] = names("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba", default=[])
    """Parts of a layer to capture in CUDA graphs, since megatron-core 0.18; [] with an implementation = the whole layer."""
    cuda_graph_impl: Optional[str] = choice("none", "local", "transformer_engine", "full_iteration")
    """Who captures CUDA graphs; null = none, or what captures the scope. full_iteration since megatron-core 0.18."""
    enable_cuda_graph: bool = False
    """Older name of cuda_graph_impl=local."""
    external_cuda_graph: bool = False
    """Older name of cuda_graph_impl=transformer_engine."""


@dataclass(init=False, repr=False, eq=False)
class Precision(_Node):
    """Number formats, including that of gradient reduction."""

    bf16: bool = False
    """Parameters and activations in bfloat16."""
    fp16: bool = False
    """Parameters and activations in float16, with loss scaling."""
    fp8: Optional[str] = choice("e4m3", "hybrid")
    """Format of FP8 GEMMs: e4m3 or hybrid; null = no FP8 GEMMs."""
    fp8_recipe: Optional[str] = choice("delayed", "tensorwise", "blockwise", "mxfp8")
    """FP8 scaling: delayed, tensorwise, blockwise or mxfp8; null = delayed."""
    first_last_layers_bf16: bool = False
    """Keep the first and last layers in bf16 under FP8."""
    num_layers_at_start_in_bf16: int = 1
    """With first_last_layers_bf16: how many first layers stay in bf16."""
    num_layers_at_end_in_bf16: int = 1
    """With first_last_layers_bf16: how many last layers stay in bf16."""
    grad_reduce_in_fp32: bool = False
    """Reduce gradients over data-parallel ranks in fp32."""
    fp8_param_gather: bool = False
    """Keep parameters in FP8 and gather them in FP8."""
    fp4: Optional[str] = choice("e2m1")
    """Format of FP4 GEMMs: e2m1, in place of FP8; null = no FP4 GEMMs."""
    fp4_recipe: Optional[str] = choice("nvfp4")
    """FP4 scaling: nvfp4; null = nvfp4."""
    fp4_param_gather: bool = False
    """Keep parameters in FP4 and gather them in FP4; since megatron-core 0.17.1."""


@dataclass(init=False, repr=False, eq=False)
class Ddp(_Node):
    """Base values of DistributedDataParallelConfig. Overlap flags belong to comm_overlap.dp; here they may not differ."""

    use_distributed_optimizer: bool = False
    """Shard the optimizer over data-parallel ranks: reduce-scatter and all-gather instead of all-reduce."""
    overlap_grad_reduce: Optional[bool] = None
    """Set comm_overlap.dp.overlap_grad_reduce instead."""
    overlap_param_gather: Optional[bool] = None
    """Set comm_overlap.dp.overlap_param_gather instead."""
    align_param_gather: Optional[bool] = None
    """Set comm_overlap.dp.align_param_gather instead."""
    bucket_size: Optional[int] = at_least(1)
    """Set comm_overlap.dp.bucket_size instead."""
    num_distributed_optimizer_instances: int = at_least(1, RANKS, default=1)
    """Number of replicas of the sharded optimizer."""
    average_in_collective: bool = False
    """Average inside the collective instead of scaling before it."""
    check_for_nan_in_grad: bool = False
    """Check each bucket for NaN and Inf before it is reduced."""
    pad_buckets_for_high_nccl_busbw: bool = False
    """Pad buckets to a multiple of 2^16 parameters."""
    reduce_scatter_with_fp32_accumulation: bool = False
    """Reduce with an all-to-all in the gradients' format and a sum in fp32."""
    nccl_ub: bool = False
    """Allocate parameter and gradient buffers as registered NCCL user buffers; communication then uses fewer SMs."""
    disable_symmetric_registration: bool = False
    """With nccl_ub: register locally, not as symmetric windows."""
    use_megatron_fsdp: bool = False
    """Use Megatron FSDP instead of DistributedDataParallel; train.py does not build it."""
    data_parallel_sharding_strategy: str = choice(
        "no_shard", "optim", "optim_grads", "optim_grads_params", default="no_shard"
    )
    """With use_megatron_fsdp: no_shard, optim, optim_grads or optim_grads_params."""
    fsdp_double_buffer: bool = False
    """With use_megatron_fsdp: persistent double buffers, which nccl_ub registers."""
    fsdp_manual_registration: bool = False
    """With use_megatron_fsdp and nccl_ub: register all buffers in a few calls."""
    fsdp_all_gather_in_start_param_sync: Optional[bool] = None
    """With use_megatron_fsdp: gather the first unit after the optimizer step; since 0.17. null = unless the whole iteration is a graph."""
    megatron_fsdp_cuda_graph_mode: Optional[bool] = None
    """With use_megatron_fsdp: keep gradients in place, as CUDA graphs need it; since 0.18. null = where there are graphs."""
    reuse_grad_buf_for_mxfp8_param_ag: bool = False
    """Gather MXFP8 parameters through the gradient buffer. Must equal optimizer.reuse_grad_buf_for_mxfp8_param_ag."""


@dataclass(init=False, repr=False, eq=False)
class Optimizer(_Node):
    """Base values of OptimizerConfig and of the learning-rate schedule."""

    optimizer: str = choice("adam", "sgd", "muon", "dist_muon", "lion", "soap", "adaptive_muon", default="adam")
    """Optimizer. dist_muon shards whole layers over ranks; from megatron-core 0.18 on, use_distributed_optimizer does so for all but adam."""
    use_distributed_optimizer: bool = False
    """Must equal ddp.use_distributed_optimizer."""
    overlap_param_gather: Optional[bool] = None
    """Set comm_overlap.dp.overlap_param_gather instead."""
    overlap_param_gather_with_optimizer_step: Optional[bool] = None
    """Set comm_overlap.dp.overlap_param_gather_with_optimizer_step instead."""
    reuse_grad_buf_for_mxfp8_param_ag: bool = False
    """Must equal ddp.reuse_grad_buf_for_mxfp8_param_ag."""
    lr: float = at_least(0, default=3.0e-4)
    """Peak learning rate."""
    min_lr: float = at_least(0, default=3.0e-5)
    """Learning rate at the end of the decay."""
    lr_warmup_iters: int = at_least(0, STEPS, default=0)
    """Steps over which the learning rate rises to lr."""
    lr_decay_style: str = choice("cosine", "linear", "constant", default="cosine")
    """How the learning rate decays after the warm-up: cosine, linear or constant."""
    weight_decay: float = at_least(0, default=0.1)
    """Decoupled weight decay."""
    adam_beta1: float = at_least(0, default=0.9, below=1)
    """Adam: decay of the first moment."""
    adam_beta2: float = at_least(0, default=0.95, below=1)
    """Adam: decay of the second moment."""
    adam_eps: float = at_least(SMALLEST_FLOAT32, default=1.0e-8)
    """Adam: added to the denominator; zero would divide by zero where no gradient has been."""
    clip_grad: float = at_least(0, default=1.0)
    """Global gradient norm limit; 0 = off."""


@dataclass(init=False, repr=False, eq=False)
class Training(_Node):
    """Batch sizes and steps."""

    micro_batch_size: int = at_least(1, INT32, default=1)
    """Samples per forward."""
    global_batch_size: Optional[int] = at_least(1, INT32)
    """Samples per step over all ranks; null = not set: rules that need it do not apply."""
    train_iters: int = at_least(1, STEPS, default=100)
    """Optimizer steps."""
    seed: int = at_least(0, default=1234, below=2**32)  # numpy's limit, which shuffles the samples
    """Seed of initial weights and data order."""
    log_interval: int = at_least(1, STEPS, default=1)
    """Steps between log lines."""
    rampup_batch_size: Optional[List[int]] = whole_numbers(SAMPLES, default=None)
    """[first size, increment, samples]: grow from the first size to global_batch_size in equal steps over so many samples."""
    eval_interval: Optional[int] = at_least(1, STEPS)
    """Steps between validation losses; another one follows at the end. null = none. Text needs data.held_out."""
    eval_iters: int = at_least(1, STEPS, default=10)
    """Global batches per validation loss; the same batches every time."""
    on_nonfinite: str = choice("stop", "skip", default="stop")
    """What to do with a step whose loss or gradient norm is not finite: stop or skip. Neither changes a parameter."""
    spike_grad_norm: Optional[float] = at_least(0)
    """Treat a step the same way if its gradient norm before clipping exceeds this; null = no limit."""
    max_skipped_steps: int = at_least(1, STEPS, default=10)
    """Abort after this many consecutive skipped steps."""


@dataclass(init=False, repr=False, eq=False)
class Data(_Node):
    """Where training tokens come from."""

    kind: str = choice("stdlib", "text", "mock", default="stdlib")
    """stdlib (source files of the running Python), text (data.files) or mock (made-up tokens)."""
    files: List[str] = field(default_factory=list)
    """With kind=text: the text files; shell patterns are allowed."""
    cache_dir: Optional[str] = None
    """Directory for the tokenised data; null = the user's cache directory."""
    max_bytes: Optional[int] = at_least(1)
    """Tokenise at most this many bytes; null = all."""
    held_out: float = at_least(0, default=0.0, below=1)
    """Share at the end of the text that is not trained on but used for validation, for example 0.03."""


@dataclass(init=False, repr=False, eq=False)
class Checkpoint(_Node):
    """Distributed checkpoints of train.py."""

    save: Optional[str] = None
    """Directory to write checkpoints to; null = write none."""
    load: Optional[str] = None
    """Directory whose last complete checkpoint is resumed. If it is also checkpoint.save, it may be empty at first."""
    save_interval: Optional[int] = at_least(1, STEPS)
    """Steps between checkpoints; null = only at the end and when the run is asked to stop."""
    keep: int = at_least(1, default=2)
    """Number of newest checkpoints to keep."""
    async_save: bool = False
    """Write checkpoints in separate processes while training continues; an interrupted one never counts as complete."""
    on_damage: str = choice("refuse", "older", default="refuse")
    """What happens if the newest checkpoint is damaged: refuse, or resume from the newest one that is whole (older)."""


@dataclass(init=False, repr=False, eq=False)
class Platform(_Node):
    """Facts about the GPU that the plan is for; `auto` reads them from the machine that composes."""

    name: Optional[str] = None
    """a100, a800, h100, h800, h20, h200, b200, gb200, b300, gb300, cpu, or auto (read from this machine); null = not set."""
    sm: Optional[int] = at_least(1)
    """Compute capability x 10 (90 = Hopper, 100 = Blackwell); null = no GPU."""
    num_sms: Optional[int] = None
    """Streaming multiprocessors."""
    memory_gib: Optional[float] = None
    """Device memory, GiB."""
    gpus_per_node: Optional[int] = None
    """GPUs per host."""
    nvlink_domain_size: Optional[int] = at_least(1, RANKS)
    """GPUs that reach each other over NVLink."""
    nvlink_gbps: Optional[float] = None
    """NVLink bandwidth per GPU, both directions, GB/s (1e9 bytes)."""
    memory_bandwidth_gbps: Optional[float] = None
    """Device memory bandwidth, GB/s (1e9 bytes)."""


@dataclass(init=False, repr=False, eq=False)
class Software(_Node):
    """Versions that the plan is for. null = not installed; auto = read here, or assumed for another platform."""

    torch: Optional[str] = version()
    """Version of torch."""
    megatron_core: Optional[str] = version()
    """Version of megatron-core."""
    transformer_engine: Optional[str] = version()
    """Version of transformer-engine; null also if it does not work (machine/local.py)."""
    origin: str = "pinned"
    """Where the versions come from: pinned, installed (read on this machine) or assumed (a named reference stack)."""


@dataclass(init=False, repr=False, eq=False)
class Slurm(_Node):
    """The job that launch=slurm submits: one allocation, one task per rank. launch=local reads none of it."""

    nodes: Optional[int] = at_least(1, NODES)
    """Nodes; null = as many as the ranks need with tasks_per_node each."""
    tasks_per_node: Optional[int] = at_least(1, PER_NODE)
    """Ranks per node; null = the platform's gpus_per_node, or all ranks if they are fewer."""
    gpus_per_node: Optional[int] = at_least(0, PER_NODE)
    """GPUs per node to request; 0 = rehearse on the nodes' CPUs; null = one per task, none with platform=cpu."""
    cpus_per_task: Optional[int] = at_least(1, PER_NODE)
    """Cores per rank; null = Slurm's default."""
    partition: Optional[str] = None
    """Slurm partition; null = the cluster's default."""
    account: Optional[str] = None
    """Account to charge; null = your default."""
    qos: Optional[str] = None
    """Quality of service; null = your default."""
    time_min: Optional[int] = at_least(1, MINUTES)
    """Time limit in minutes; null = the partition's default."""
    stop_s: int = at_least(0, SIGNAL_S, default=120)
    """Ask ranks to save and stop this many seconds before the time limit."""
    requeue: bool = True
    """Requeue a job that was asked to stop and has a checkpoint; it resumes from checkpoint.save."""
    wait: bool = False
    """Wait until the job has ended, and fail if it failed; false = print its id and return."""
    setup: List[str] = field(default_factory=list)
    """Shell commands that the batch script runs before the ranks start, for example ['module load cuda']."""
    options: List[str] = field(default_factory=list)
    """Further options for sbatch, for example ['--constraint=h100','--exclusive']."""


@dataclass(init=False, repr=False, eq=False)
class Launch(_Node):
    """Where and how ranks start, and the environment they start with."""

    where: str = choice("local", "slurm", default="local")
    """local: start ranks on this machine, or join those that torchrun or srun started. slurm: submit a job."""
    trainer: str = choice("train.py", "other", default="other")
    """The program that trains. train.py: its own needs and limits are judged too (rules TRN). other: they are not."""
    layernorm_sm_margin: Optional[int] = at_least(0)
    """SMs that Transformer Engine's LayerNorm kernels leave to communication; null = not set."""
    nccl_pp_comm_chunksize: Optional[int] = at_least(None, BUFFER)
    """NCCL_P2P_NET_CHUNKSIZE in bytes, with PP > 1; null = NCCL's default."""
    vboost: bool = False
    """Steer power to the tensor cores; needs root on the nodes."""
    max_ranks: Optional[int] = at_least(1, RANKS)
    """Most ranks that may run on this machine; null = derived from its cores, memory and GPUs."""
    dry_run: bool = False
    """Start no ranks; report what they would hold, in one process, for any world size, without a GPU."""
    dry_run_ranks: List[int] = whole_numbers(RANKS, default=[])
    """Ranks that a dry run builds, for example [0,7]; [] = the first and last of every pipeline stage."""
    dry_run_minutes: float = at_least(0, MINUTES, default=60.0)
    """Start no dry run that is estimated to take longer than this, minutes of one core."""
    distributed_timeout_minutes: float = at_least(0.01, MINUTES, default=10.0)
    """Longest wait of a rank for others in a collective; then the run ends and names the ranks that did not arrive."""
    loggers: List[str] = names("tensorboard", "wandb", "mlflow", default=["tensorboard"])
    """Where rank 0 logs besides metrics.jsonl: tensorboard, wandb, mlflow; each reads its own environment variables."""
    slurm: Slurm = field(default_factory=Slurm)
    """The job of launch=slurm."""


@dataclass(init=False, repr=False, eq=False)
class Overlap(_Node):
    """The resolver's answer, written at composition. Set nothing here except env_copy and reads."""

    effective: Dict[str, Any] = field(default_factory=dict)
    """Fields set on TransformerConfig, OptimizerConfig and DistributedDataParallelConfig, the userbuffers dict, what auto meant."""
    env: Dict[str, str] = field(default_factory=dict)
    """Launch environment of every rank."""
    origin: Dict[str, str] = field(default_factory=dict)
    """Where each overlap field's value came from."""
    notes: List[str] = field(default_factory=list)
    """Warnings and notes."""
    plan: Optional[str] = None
    """Fingerprint of request and answer; null = the rules have not run."""
    env_copy: List[str] = field(default_factory=list)
    """Variables to copy to remote jobs; use this instead of hydra.job.env_copy."""
    reads: Dict[str, Any] = field(default_factory=dict)
    """Node -> field -> the key of your app's config that holds its value; see docs/hosts.md."""


@dataclass(init=False, repr=False, eq=False)
class Request(_Node):
    """The whole request, as `resolve` takes it."""

    gating: str = choice("strict", "bridge", default="strict")
    """strict: refuse what cannot hold. bridge: do what Megatron-Bridge v0.6.0 does, and report it."""
    parallelism: Parallelism = field(default_factory=Parallelism)
    comm_overlap: CommOverlap = field(default_factory=CommOverlap)
    userbuffers: Optional[Userbuffers] = None
    model: Model = field(default_factory=Model)
    precision: Precision = field(default_factory=Precision)
    ddp: Ddp = field(default_factory=Ddp)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    data: Data = field(default_factory=Data)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    platform: Platform = field(default_factory=Platform)
    software: Software = field(default_factory=Software)
    launch: Launch = field(default_factory=Launch)
