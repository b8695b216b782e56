"""DP: what the other settings of DistributedDataParallelConfig do to the overlaps.

Collectives, NCCL user buffers, Megatron FSDP; the overlap flags against each other are in dp.py.
"""

from ..findings import Fix
from ..schema.keys import (
    AVERAGE_IN_COLLECTIVE,
    BUCKET,
    DDP_DISTRIBUTED,
    DOUBLE_BUFFER,
    EP,
    ETP,
    EXPERTS,
    FP8_PARAM_GATHER,
    FP16,
    FP32_SUM,
    FSDP,
    FSDP_SHARDING,
    GPU,
    GRAD_REDUCE,
    LOAD,
    LOCAL_REGISTRATION,
    MANUAL_REGISTRATION,
    NAN_CHECK,
    NCCL_UB,
    OPTIMIZER_DISTRIBUTED,
    OPTIMIZER_INSTANCES,
    PARAM_GATHER,
    PER_TOKEN_LOSS,
    PP,
    SAVE,
    STEP_GATHER,
    TORCH,
    VPP,
    WORLD,
)
from ..schema.versions import at_least
from ._base import ARCHITECTURE, GIVES_UP, KEEPS, Config, Rule
from .dp import ARGUMENTS, DP030, DP031, DP205, LAYOUT, MCORE, StepRule, sharing_ranks
from .layout import dp_cp_size, expert_ranks

DDP = MCORE + "distributed/distributed_data_parallel.py:"
BUFFER = MCORE + "distributed/param_and_grad_buffer.py:"
MEGATRON_FSDP = MCORE + "distributed/fsdp/src/megatron_fsdp/"
BRIDGE = "Megatron-Bridge v0.6.0 src/megatron/bridge/training/config.py:"

FORCED: dict[str, tuple[str, ...]] = {"optim_grads": (GRAD_REDUCE,), "optim_grads_params": (GRAD_REDUCE, PARAM_GATHER)}
"""Sharding strategy -> overlaps that Megatron FSDP switches on without a word (megatron_fsdp.py:274-283)."""


class AverageRule(Rule):
    """Base: applies while gradients are averaged inside the collective."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[AVERAGE_IN_COLLECTIVE])


class DP016(AverageRule):
    """average_in_collective is on with a per-token loss."""

    reads = (AVERAGE_IN_COLLECTIVE, PER_TOKEN_LOSS)
    why = (
        "A per-token loss is divided by the tokens of the whole batch after the reduction, not by the number of ranks "
        "inside it; megatron-core asserts while DDP is built."
    )
    records = ("dp-average-in-collective-per-token-loss",)
    source = DDP + "254-257"
    refused = (f"{AVERAGE_IN_COLLECTIVE}=true", f"{PER_TOKEN_LOSS}=true")
    fixes = (
        Fix(f"{AVERAGE_IN_COLLECTIVE}=false", "keeps the loss per token"),
        Fix(f"{PER_TOKEN_LOSS}=false", "averages over microbatches and ranks"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[PER_TOKEN_LOSS]


class DP017(AverageRule):
    """average_in_collective cannot scale the experts' gradients exactly."""

    requires = ("PAR001", "PAR002")
    reads = (AVERAGE_IN_COLLECTIVE, EP, ETP, OPTIMIZER_INSTANCES, *LAYOUT)
    why = (
        "megatron-core asserts, in floating point, that the two factors for expert gradients multiply to 1 / "
        "data-parallel size. For some sizes they miss it by one bit (7 expert ranks of 35), and building DDP fails."
    )
    source = DDP + "188-197"
    refused = (
        f"{AVERAGE_IN_COLLECTIVE}=true", f"{WORLD}=33", f"{EP}=3", "model.num_moe_experts=3",
    )  # fmt: skip
    fixes = (Fix(f"{AVERAGE_IN_COLLECTIVE}=false", "scales before a sum"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[AVERAGE_IN_COLLECTIVE]) and c[EP] > 1 and c[OPTIMIZER_INSTANCES] == 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        ranks, expert = dp_cp_size(c), c[WORLD] // expert_ranks(c)
        return bool((expert / ranks) / expert == 1.0 / ranks)


class DP018(Rule):
    """reduce_scatter_with_fp32_accumulation is on with settings that it does not support."""

    reads = (FP32_SUM, DDP_DISTRIBUTED, OPTIMIZER_INSTANCES, AVERAGE_IN_COLLECTIVE, FP8_PARAM_GATHER)
    why = (
        "It replaces one collective, sums in fp32 itself and takes one bucket at a time. Averaging, several optimizer "
        "instances and FP8 beside bf16 buffers fail an assertion; without the distributed optimizer nothing calls it."
    )
    records = ("dp-fp32-accum-reduce-scatter",)
    source = BUFFER + "158-170, 483-492; megatron/core/distributed/reduce_scatter_with_fp32_accumulation.py:62"
    refused = (f"{FP32_SUM}=true",)

    @classmethod
    def missing(cls, c: Config) -> dict[str, str]:
        """What would have to change: key -> value."""
        wanted = {} if c[DDP_DISTRIBUTED] else {DDP_DISTRIBUTED: "true", OPTIMIZER_DISTRIBUTED: "true"}
        wanted |= {OPTIMIZER_INSTANCES: "1"} if c[OPTIMIZER_INSTANCES] > 1 else {}
        return wanted | {key: "false" for key in (AVERAGE_IN_COLLECTIVE, FP8_PARAM_GATHER) if c[key]}

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FP32_SUM])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.missing(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        change = " ".join(f"{key}={value}" for key, value in cls.missing(c).items())
        return (
            Fix(change, "keeps the fp32 accumulation"),
            Fix(f"{FP32_SUM}=false", "reduces in the gradients' own format"),
        )


class DP019(Rule):
    """The NaN check before gradient reduction is on with fp16."""

    reads = (NAN_CHECK, FP16)
    why = (
        "Dynamic loss scaling finds its scale by overflowing, and the check raises at the first overflow. Megatron-LM "
        "switches the check off with a warning."
    )
    source = ARGUMENTS + "704-710; megatron/core/distributed/param_and_grad_buffer.py:214-235"
    refused = (f"{NAN_CHECK}=true", "precision.fp16=true")
    fixes = (Fix(f"{NAN_CHECK}=false", "keeps fp16"), Fix("precision.fp16=false", "keeps the check"))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[NAN_CHECK])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[FP16]


class DP020(Rule):
    """NCCL user buffers or Megatron FSDP without GPUs."""

    reads = (NCCL_UB, FSDP, GPU)
    why = (
        "nccl_ub compiles an allocator against the CUDA toolkit while DDP is built; FSDP's buffers are on CUDA devices."
    )
    records = ("dp-nccl-ub-cpu",)
    source = MCORE + "nccl_allocator.py:25-30; megatron/core/distributed/fsdp/mcore_fsdp_adapter.py:91"
    refused = (f"{NCCL_UB}=true", "platform.name=cpu")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[NCCL_UB] or c[FSDP])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GPU] != "cpu")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        off = " ".join(f"{key}=false" for key in (NCCL_UB, FSDP, MANUAL_REGISTRATION, DOUBLE_BUFFER) if c[key])
        return (Fix("platform=h100", "plans for GPUs"), Fix(off, "plain buffers, plain DDP"))


class DP021(AverageRule):
    """average_in_collective is on with symmetric NCCL user buffers."""

    reads = (AVERAGE_IN_COLLECTIVE, NCCL_UB, LOCAL_REGISTRATION)
    why = (
        "NCCL's symmetric kernels sum and cannot average. megatron-core does not check; Megatron-Bridge switches the "
        "averaging off, under Megatron FSDP even without nccl_ub, for which we see no reason."
    )
    records = ("dp-nccl-ub-average-in-collective",)
    source = BRIDGE + "1085-1087"
    refused = (f"{AVERAGE_IN_COLLECTIVE}=true", f"{NCCL_UB}=true")
    fixes = (
        Fix(f"{AVERAGE_IN_COLLECTIVE}=false", "keeps the user buffers, scales before a sum"),
        Fix(f"{LOCAL_REGISTRATION}=true", "keeps the averaging, registers the buffers locally"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[NCCL_UB] or bool(c[LOCAL_REGISTRATION])


class FsdpRule(Rule):
    """Base: applies to Megatron FSDP."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FSDP])


class DP022(FsdpRule):
    """Megatron FSDP is on without the distributed optimizer or without ranks to shard over."""

    requires = ("PAR001", "DP011")
    reads = (FSDP, DDP_DISTRIBUTED, OPTIMIZER_INSTANCES, *LAYOUT)
    why = (
        "FSDP hands its shards to the distributed optimizer, which Megatron-Bridge, and Megatron-LM from 0.18, switch "
        "on themselves. With data x context parallel size 1, or as many optimizer instances as ranks, nothing is sharded."
    )
    records = ("dp-fsdp-dist-optimizer-auto",)
    source = BRIDGE + "1073-1077; megatron-core core_v0.18.2 megatron/training/arguments.py:1131"
    refused = (f"{FSDP}=true",)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DDP_DISTRIBUTED]) and sharing_ranks(c) > 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        changes = [] if c[DDP_DISTRIBUTED] else [f"{DDP_DISTRIBUTED}=true {OPTIMIZER_DISTRIBUTED}=true"]
        changes += [f"{WORLD}={c[WORLD] * 2}"] if dp_cp_size(c) == 1 else []
        changes += [f"{OPTIMIZER_INSTANCES}=1"] if sharing_ranks(c) < 2 <= c[OPTIMIZER_INSTANCES] else []
        off = " ".join(f"{key}=false" for key in (FSDP, MANUAL_REGISTRATION, DOUBLE_BUFFER) if c[key])
        return (Fix(" ".join(changes), "keeps FSDP"), Fix(off, "plain DDP"))


class DP023(FsdpRule):
    """The overlaps contradict Megatron FSDP's sharding strategy."""

    requires = ("DP022", "PP011")
    reads = (FSDP, FSDP_SHARDING, GRAD_REDUCE, PARAM_GATHER)
    why = (
        "optim_grads switches the gradient-reduce overlap on, optim_grads_params both overlaps, silently and whatever "
        "was asked; no_shard keeps all parameters on every rank and gathers none."
    )
    records = ("dp-fsdp-forces-overlap",)
    source = MEGATRON_FSDP + "megatron_fsdp.py:274-283"
    refused = (
        f"{FSDP}=true", f"{FSDP_SHARDING}=optim_grads", f"{GRAD_REDUCE}=false", f"{WORLD}=2", f"{DDP_DISTRIBUTED}=true",
        f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip

    @classmethod
    def _off(cls, c: Config) -> list[str]:
        return [key for key in FORCED.get(c[FSDP_SHARDING], ()) if not c[key]]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls._off(c) and not (c[FSDP_SHARDING] == "no_shard" and c[PARAM_GATHER])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if c[FSDP_SHARDING] == "no_shard":
            shard = Fix(f"{FSDP_SHARDING}=optim_grads_params", f"{KEEPS}, shards everything")
            return (shard, Fix(f"{PARAM_GATHER}=false", GIVES_UP))
        on = " ".join(f"{key}=true" for key in cls._off(c))
        return (Fix(on, "as the strategy does it"), Fix(f"{FSDP_SHARDING}=optim", "shards the optimizer state alone"))


class DP024(FsdpRule):
    """A bucket size or the parameter gather with the optimizer step under Megatron FSDP."""

    reads = (FSDP, BUCKET, STEP_GATHER)
    why = (
        "FSDP communicates units of at least 1,000,000,000 parameters whatever bucket_size says (its code takes max "
        "where its comment says cap), and its optimizer returns before the gather with the step is set up."
    )
    source = MEGATRON_FSDP + "megatron_fsdp.py:374-396; megatron/core/optimizer/distrib_optimizer.py:529-530"
    refused = (
        f"{FSDP}=true", f"{WORLD}=2", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true", f"{BUCKET}=1000000",
    )  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[BUCKET] is None and not c[STEP_GATHER]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        changes = [f"{BUCKET}=null"] if c[BUCKET] is not None else []
        changes += [f"{STEP_GATHER}=false"] if c[STEP_GATHER] else []
        off = " ".join(f"{key}=false" for key in (FSDP, MANUAL_REGISTRATION, DOUBLE_BUFFER) if c[key])
        return (Fix(" ".join(changes), "keeps FSDP"), Fix(off, "plain DDP"))


class DP025(Rule):
    """FSDP buffer settings are on without Megatron FSDP or NCCL user buffers."""

    reads = (DOUBLE_BUFFER, MANUAL_REGISTRATION, FSDP, NCCL_UB)
    why = (
        "Nothing else reads these settings, and manual registration also needs NCCL user buffers. Megatron-LM asserts "
        "for manual registration; megatron-core says nothing."
    )
    records = ("dp-fsdp-manual-registration",)
    source = ARGUMENTS + "693-695"
    refused = (f"{MANUAL_REGISTRATION}=true",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[DOUBLE_BUFFER] or c[MANUAL_REGISTRATION])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[FSDP] and (c[NCCL_UB] or not c[MANUAL_REGISTRATION]))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        if c[FSDP]:
            return (
                Fix(f"{MANUAL_REGISTRATION}=false", "no user buffers"),
                Fix(f"{NCCL_UB}=true {DOUBLE_BUFFER}=true", "user buffers"),
            )
        return (Fix(" ".join(f"{key}=false" for key in (MANUAL_REGISTRATION, DOUBLE_BUFFER) if c[key]), "plain DDP"),)


class DP026(FsdpRule):
    """NCCL user buffers under Megatron FSDP without fsdp_double_buffer."""

    requires = ("DP022",)
    reads = (FSDP, NCCL_UB, DOUBLE_BUFFER)
    why = (
        "Only memory that stays in place can be registered, so FSDP later switches fsdp_double_buffer on silently. The "
        "plan has to show the memory it costs."
    )
    records = ("dp-fsdp-double-buffer",)
    source = MEGATRON_FSDP + "param_and_grad_buffer.py:1588-1595"
    refused = (
        f"{FSDP}=true",
        f"{NCCL_UB}=true",
        f"{WORLD}=2",
        f"{DDP_DISTRIBUTED}=true",
        f"{OPTIMIZER_DISTRIBUTED}=true",
    )
    fixes = (Fix(f"{DOUBLE_BUFFER}=true", "keeps the user buffers"), Fix(f"{NCCL_UB}=false", "plain buffers"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[NCCL_UB] or bool(c[DOUBLE_BUFFER])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        off = f"{NCCL_UB}=false {MANUAL_REGISTRATION}=false" if c[MANUAL_REGISTRATION] else f"{NCCL_UB}=false"
        return (cls.fixes[0], Fix(off, "plain buffers"))


class DP027(FsdpRule):
    """Megatron FSDP with several optimizer instances and expert parallelism."""

    requires = ("DP022",)
    reads = (FSDP, OPTIMIZER_INSTANCES, EP)
    why = "Hybrid sharding gets no process group for experts: ValueError while the model is wrapped."
    source = MEGATRON_FSDP + "megatron_fsdp.py:243-253; megatron/core/distributed/fsdp/mcore_fsdp_adapter.py:229-245"
    refused = (
        f"{FSDP}=true", f"{OPTIMIZER_INSTANCES}=2", f"{EP}=2", "model.num_moe_experts=4", f"{WORLD}=4", f"{DDP_DISTRIBUTED}=true",
        f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip
    fixes = (Fix(f"{OPTIMIZER_INSTANCES}=1", "keeps FSDP and the experts"), Fix(f"{EP}=1", ARCHITECTURE))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[OPTIMIZER_INSTANCES] == 1 or c[EP] == 1


class DP028(StepRule):
    """Parameter gather with the optimizer step is on with distributed checkpoints."""

    requires = ("DP005", "DP006")
    reads = (STEP_GATHER, SAVE, LOAD)
    why = (
        "When the step returns, the first chunk's parameters are still being gathered. Megatron-LM asserts; "
        "Megatron-Bridge never derives the setting for that reason, but does not refuse it."
    )
    records = ("dp-opt-step-gather-dist-ckpt",)
    source = ARGUMENTS + "642-643; Megatron-Bridge v0.6.0 src/megatron/bridge/training/comm_overlap.py:581"
    refused = (
        f"{STEP_GATHER}=true", f"{PP}=2", f"{VPP}=2", f"{WORLD}=4", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true",
        f"{SAVE}=checkpoints",
    )  # fmt: skip
    fixes = (Fix(f"{STEP_GATHER}=false", GIVES_UP), Fix(f"{SAVE}=null {LOAD}=null", f"{KEEPS}, no checkpoints"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[SAVE] is None and c[LOAD] is None


class DP029(Rule):
    """Parameter gather with the optimizer step can corrupt the experts' update."""

    requires = ("PAR001", "PAR002", "DP005", "DP006", "DP012", "DP024")
    reads = (STEP_GATHER, EP, ETP, *LAYOUT, OPTIMIZER_INSTANCES, GPU)
    why = (
        "Experts have an optimizer of their own, which steps last. The gather of the first chunk starts after the "
        "first optimizer's step and includes the chunk's experts, so other ranks that hold them silently train on old "
        "weights (loss 5.693 instead of 5.577 in the third step). If no other rank holds them, NCCL has nothing to "
        "copy, but gloo copies them onto themselves and sometimes overwrites their step."
    )
    source = (
        MCORE + "optimizer/optimizer.py:1247-1250; megatron/core/optimizer/__init__.py:537-542, 647-682; "
        "megatron/core/distributed/distributed_data_parallel.py:479-484"
    )
    refused = (
        f"{STEP_GATHER}=true", f"{PP}=2", f"{VPP}=2", f"{EP}=2", "model.num_moe_experts=4", f"{WORLD}=8",
        f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip

    @classmethod
    def holders(cls, c: Config) -> int:
        """Ranks that gather the same experts (megatron-core's intra_expt_dp group)."""
        return int(c[WORLD] // expert_ranks(c) // c[OPTIMIZER_INSTANCES])

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[STEP_GATHER]) and c[EP] > 1

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[GPU] != "cpu") and cls.holders(c) == 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        gives_up = Fix(f"{STEP_GATHER}=false", GIVES_UP)
        wider = c[EP] * cls.holders(c)
        if c[GPU] == "cpu" or not c[EXPERTS] or c[EXPERTS] % wider:
            return (gives_up,)
        return (gives_up, Fix(f"{EP}={wider}", f"{KEEPS}, no two ranks hold the same experts"))


class DP201(StepRule):
    """Parameter gather with the optimizer step leaves one bucket per model chunk."""

    severity = "warning"
    requires = ("DP005", "DP006")
    reads = (STEP_GATHER,)
    why = (
        "Every model chunk becomes one bucket, so gradients are reduced chunk by chunk. Measure before relying on it: "
        "5 of 9 gathers stayed exposed in a small run."
    )
    records = ("dp-opt-step-gather-single-bucket",)
    source = "megatron-core core_v0.16.1 megatron/training/training.py:1336-1339"
    refused = (
        f"{STEP_GATHER}=true", f"{PP}=2", f"{VPP}=2", f"{WORLD}=4", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true",
    )  # fmt: skip
    fixes = (Fix(f"{STEP_GATHER}=false", "keeps buckets"),)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return False


class DP202(Rule):
    """Expert parallelism without parameter-gather overlap gathers all parameters twice."""

    severity = "warning"
    requires = ("DP003", "DP004")
    reads = (EP, DDP_DISTRIBUTED, PARAM_GATHER, FSDP)
    why = (
        "The optimizers of dense and of expert parameters each gather all parameters after their step (16 all-gathers "
        "instead of 8). As a baseline such a run is unfairly slow."
    )
    records = ("dp-moe-double-all-gather",)
    source = MCORE + "optimizer/distrib_optimizer.py:2614-2619"
    refused = (
        f"{EP}=2", "model.num_moe_experts=4", f"{DDP_DISTRIBUTED}=true", f"{OPTIMIZER_DISTRIBUTED}=true", f"{PARAM_GATHER}=false",
    )  # fmt: skip
    fixes = (Fix(f"{GRAD_REDUCE}=true {PARAM_GATHER}=true", "gathers once, under forward"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EP] > 1 and bool(c[DDP_DISTRIBUTED]) and not c[FSDP]

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[PARAM_GATHER])


class DP203(Rule):
    """Symmetric NCCL user buffers with torch older than 2.9."""

    severity = "note"
    reads = (NCCL_UB, LOCAL_REGISTRATION, TORCH)
    why = (
        "Before 2.9 torch has no symmetric memory pool; megatron-core then registers the buffers locally, and says so "
        "only at log level info."
    )
    records = ("dp-nccl-ub-symmetric-fallback",)
    source = MCORE + "nccl_allocator.py:112-119"
    refused = (f"{NCCL_UB}=true", "software.torch=2.8.0")
    fixes = (
        Fix(f"{LOCAL_REGISTRATION}=true", "asks for the local registration"),
        Fix("software.torch=2.9.0", "if the run will have that version"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[NCCL_UB]) and not c[LOCAL_REGISTRATION] and c[TORCH] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[TORCH], "2.9.0")


class DP204(Rule):
    """The NaN check delays overlapped gradient reduction."""

    severity = "note"
    reads = (NAN_CHECK, GRAD_REDUCE)
    why = (
        "Before each bucket's reduction the host waits for its gradient norm, and so for all of backward that was "
        "launched. The reduction still overlaps what is launched later, but the launches no longer run ahead."
    )
    source = BUFFER + "214-235; megatron/core/rerun_state_machine.py:517-519"
    refused = (f"{NAN_CHECK}=true", f"{WORLD}=2")
    fixes = (Fix(f"{NAN_CHECK}=false", "no wait"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[NAN_CHECK])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[GRAD_REDUCE]


RULES: tuple[type[Rule], ...] = (
    DP016, DP017, DP018, DP019, DP020, DP021, DP022, DP023, DP024, DP025, DP026, DP027, DP028, DP029, DP030, DP031, DP201,
    DP202, DP203, DP204, DP205,
)  # fmt: skip
