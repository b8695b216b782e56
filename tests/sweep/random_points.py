"""Random points of a sweep of our own app: what people write, and what they get wrong."""

from random import Random

GROUPS = (
    "comm_overlap=none", "comm_overlap=dp", "comm_overlap=tp4_h100", "comm_overlap=pp_interleaved", "comm_overlap=tp2_h100",
    "comm_overlap=tp8_b200_fp8", "comm_overlap=null", "parallelism=tp1", "parallelism=tp2", "parallelism=pp2_vpp2_dp2",
    "parallelism=dp4", "parallelism=ep2", "parallelism=tp99", "parallelism=[tp2,dp2]", "+parallelism=tp4", "userbuffers=none",
    "userbuffers=auto", "comm_overlap/dp=none", "comm_overlap/dp=overlap", "comm_overlap/tp=userbuffers", "comm_overlap/pp=none",
    "model=llama3_8b", "model=qwen3_30b_a3b", "precision=fp8_delayed", "precision=bf16_grads", "ddp=replicated",
    "optimizer=adam_replicated", "training=smoke", "launch=local_margin", "data=mock", "platform=h100", "software=none",
    "experiment=llama3_8b_8gpu_h100_bf16", "~experiment", "~comm_overlap/dp", "~data=text", "+grop=x", "comm_overlap@x=dp",
    "+training@other=smoke", "comm_overlap/xx=none", "++training=smoke",
)  # fmt: skip
VALUES = (
    "comm_overlap.dp.bucket_size=20000000", "comm_overlap.dp.bucket_size=null", "comm_overlap.dp.bucket_size=abc",
    "comm_overlap.dp.overlap_grad_reduce=true", "comm_overlap.dp.overlap_grad_reduce=false", "+comm_overlap.dp.bucket_sise=4",
    "++comm_overlap.dp.overlap_param_gather=true", "comm_overlap.tp.tp_comm_overlap=false", "comm_overlap.tp=none",
    "comm_overlap={dp:{bucket_size:51200},tp:{tp_comm_overlap:false}}", "comm_overlap.dp={overlap_grad_reduce:true}",
    "parallelism.world_size=8", "parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=false",
    "parallelism.world_size=${model.num_layers}", "model.num_layers=8", "model.num_layers=3", "model.hidden_size=${model.ffn_hidden_size}",
    "model.name='quoted name'", 'model.name="a,b=c"', "model.name='it\\'s'", "model.name=caf\\ e", "model.name=${precision.bf16}x",
    "model.name=${oc.env:HOME}", "model.name=${hydra:job.num}", "model.name=${hydra.job.override_dirname}", "model.num_experts=3",
    "model.cuda_graph_scope=[attn,mlp]", "training.train_iters=7", "training.train_iters=${training.global_batch_size}",
    "training.global_batch_size=64", "training={train_iters:3,seed:5}", "+training={train_iters:4}", "training=3",
    "training.seed='12'", "training.seed=1.5", "optimizer.lr=1e-3", "optimizer.lr=0.01", "optimizer.overlap_param_gather=true",
    "ddp.use_distributed_optimizer=false", "ddp.bucket_size=1000", "data.files=[a.txt,'b c.txt']", "data.files=[]",
    "data.cache_dir=/tmp/${hydra:job.num}", "checkpoint.save=ckpt/${hydra:job.num}", "launch.max_ranks=4", "~launch.max_ranks",
    "~training.seed=1234", "~training.seed=7", "~nothing", "~checkpoint", "~userbuffers.layers", "+note=hello", "+note={a:1,b:[1,2]}",
    "+note.deep.inside=3", "++note=[1,${training.seed}]", "foo=bar", "gating=bridge", "gating=loose", "overlap.env_copy=[HOME]",
    "overlap.env_copy=[NOT_SET_ANYWHERE]", "overlap.effective={a:1}", "++overlap.reads.model.num_layers=note", "~overlap",
    "++userbuffers.layers.qkv_fprop.num_sm=4", "userbuffers.layers.qkv_fprop.num_smm=4", "userbuffers=null",
    "++userbuffers.layers.proj_fprop={method:pipeline,num_splits:4}", "platform.name=null", "platform.sm=90", "software.torch=2.6.0",
    "+hydra={job:{name:x}}", "+linked=${training}", "++linked.seed=3", "training.micro_batch_size=", "model.hidden_size=???",
    "training.train_iters=[1,2]", "training.seed=1,2", "training.seed=choice(1,2)", "model.num_layers=${nothing.there}",
)  # fmt: skip
HYDRAS = (
    "hydra.job.name=mine", "+hydra.job.env_set.SOMETHING=1", "hydra.run.dir=${model.name}", "hydra.job.env_copy=[HOME]",
    "hydra.job.env_set={CUDA_DEVICE_MAX_CONNECTIONS:'8'}", "hydra.job.config.override_dirname.exclude_keys=[training.seed]",
    "hydra.job.chdir=true", "hydra.verbose=true", "hydra/job_logging=none", "hydra.nothing=1", "hydra/job_logging=absent",
    "hydra.launcher=null", "+hydra.launcher.extra=3", "hydra.searchpath=[pkg://hydra_overlap.conf]",
)  # fmt: skip


def draw(random: Random) -> list[str]:
    """The overrides of one point, in any order, each key once or twice."""
    lines = random.sample(GROUPS, random.choice((0, 0, 1, 1, 1, 2, 3)))
    lines += random.sample(VALUES, random.choice((0, 1, 2, 2, 3, 5)))
    if random.random() < 0.15:
        lines += random.sample(HYDRAS, random.choice((1, 1, 2)))
    random.shuffle(lines)
    return lines
