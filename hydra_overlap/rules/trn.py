"""TRN: what train.py needs of a plan beside its overlaps: model, schedule, batches, data, checkpoints and launch.

They are judged where `launch.trainer` is train.py, which our own config says. Another program reads its own settings in its own
way, and what train.py does not build is no fault of a plan for it: docs/decisions/0006-one-judge.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from ..findings import Fix, yaml_value
from ..schema.keys import (
    CP,
    CUDA_GRAPH_SCOPE,
    DATA_FILES,
    DATA_KIND,
    DDP_REUSE,
    DRY_RUN,
    DRY_RUN_RANKS,
    EVAL_INTERVAL,
    FSDP,
    GATING,
    GBS,
    GPU,
    GPUS_PER_NODE,
    GROUP,
    HEADS,
    HELD_OUT,
    HIDDEN,
    ITERS,
    LR,
    MBS,
    MIN_LR,
    MLA,
    NUM_LAYERS,
    OPTIMIZER,
    PP,
    QUERY_GROUPS,
    RAMP,
    SAVE,
    SAVE_INTERVAL,
    SEQ_LENGTH,
    SLURM_GPUS,
    SLURM_NODES,
    SLURM_TASKS,
    TP,
    TRAINER,
    VARIABLE_LENGTHS,
    VBOOST,
    VOCAB,
    VPP,
    WARMUP,
    WHERE,
    WORLD,
)
from ._base import Config, Rule
from .ep import RULES as EXPERT_RULES
from .graphs import NO_GRAPHS
from .layout import data_parallel_size, interleaved
from .par import RULES as LAYOUT_RULES
from .pp import RULES as PIPELINE_RULES

OURS, OTHER = "train.py", "other"
VOCABULARY = 257  # tokens of text read as bytes: 256 values and the end of a document
FAR = 4096  # how far from the value asked for another one is looked for
NO_GPU = (None, "cpu")  # platforms that have none
SCHEDULER = "megatron-core core_v0.16.1 megatron/core/optimizer_param_scheduler.py:"
CALCULATOR = "megatron-core core_v0.16.1 megatron/core/num_microbatches_calculator.py:417-500"
FOR_US = (f"{TRAINER}={OURS}",)
ON_SLURM = (*FOR_US, f"{WHERE}=slurm")
FOR_ANOTHER = Fix(f"{TRAINER}={OTHER}", "judges the plan for another program; train.py does not run it then")
WHOLE_BATCH = Fix(f"{RAMP}=null", "takes global_batch_size from the first step")


class TrainerRule(Rule):
    """Base: judged for plans that train.py runs."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[TRAINER] == OURS) and cls.concerns(c)

    @classmethod
    def concerns(cls, c: Config) -> bool:
        """Whether the rule has something to say about a plan of train.py."""
        return True

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return cls.shows or tuple(key for key in cls.reads if key != TRAINER)


class TRN001(TrainerRule):
    """The model or the batch size is not completely described."""

    REQUIRED = (
        NUM_LAYERS,
        HIDDEN,
        HEADS,
        SEQ_LENGTH,
        VOCAB,
        GBS,
    )
    reads = (TRAINER, *REQUIRED)
    why = "A plan may leave these open, so that its overlap settings can be judged alone; training needs them."
    source = "hydra_overlap/megatron/configs.py transformer_config"
    refused = FOR_US

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not any(c[key] is None for key in cls.REQUIRED)

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return tuple(key for key in cls.REQUIRED if c[key] is None)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        heads = c[HEADS] or c[QUERY_GROUPS] or 2 * c[TP]
        hidden = c[HIDDEN] or 32 * heads
        example = {
            NUM_LAYERS: 2 * c[PP] * (c[VPP] or 1),
            HIDDEN: hidden,
            HEADS: heads if hidden % heads == 0 else c[TP],
            SEQ_LENGTH: 64 * c[TP] * c[CP],
            VOCAB: 384,
            GBS: 2 * c[MBS] * max(1, data_parallel_size(c)) * (c[GROUP] or c[PP]),
        }
        said = " ".join(f"{key}={value}" for key, value in example.items() if c[key] is None)
        return Fix(said, "an example; take the values of your model"), FOR_ANOTHER


class TRN002(TrainerRule):
    """The learning rate would end above its peak."""

    reads = (TRAINER, LR, MIN_LR)
    why = "lr is the peak of the schedule and min_lr its end; megatron-core asserts that the end is not above the peak."
    source = SCHEDULER + "148"
    refused = (*FOR_US, f"{MIN_LR}=1")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[MIN_LR] <= c[LR])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return Fix(f"{MIN_LR}={c[LR]}", "ends at the peak"), Fix(f"{LR}={c[MIN_LR]}", "raises the peak")


class TRN003(TrainerRule):
    """The learning rate is still warming up when training ends."""

    reads = (TRAINER, WARMUP, ITERS)
    why = "It decays over the steps that are left after the warm-up; megatron-core asserts that there are some."
    source = SCHEDULER + "157"
    refused = (*FOR_US, f"{WARMUP}=100")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[WARMUP] < c[ITERS])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        longer = Fix(f"{ITERS}={c[WARMUP] + 1}", "trains one step longer than the warm-up")
        return Fix(f"{WARMUP}=0", "starts at the peak learning rate"), longer


class TRN004(TrainerRule):
    """The batch-size ramp-up does not reach global_batch_size in equal steps."""

    reads = (TRAINER, RAMP, GBS)
    source = CALCULATOR
    refused = (*FOR_US, f"{RAMP}=[4,4]", f"{GBS}=16")

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return c[RAMP] is not None and c[GBS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.why_for(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        ramp, last = c[RAMP], c[GBS]
        if len(ramp) != 3:
            return "A ramp-up is [first size, increment, samples]."
        if min(ramp) < 1 or ramp[0] >= last:
            return "All three numbers are at least 1, and the first size is below global_batch_size."
        if (last - ramp[0]) % ramp[1]:
            return f"From {ramp[0]} to {last} is no whole number of increments of {ramp[1]}."
        return ""

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        ramp, last = c[RAMP], c[GBS]
        if len(ramp) != 3 or min(ramp) < 1 or ramp[0] >= last:
            return (WHOLE_BATCH,)
        return *_ramp_fix(ramp[0], last, 1, ramp, "takes the nearest increment that ends there"), WHOLE_BATCH


class _WithBatch(Mapping[str, Any]):
    """A request at another global batch size, without a ramp-up; nothing is copied."""

    def __init__(self, request: Config, size: int) -> None:
        self._request, self._size = request, size

    def __getitem__(self, key: str) -> Any:
        return self._size if key == GBS else None if key == RAMP else self._request[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._request)

    def __len__(self) -> int:
        return len(self._request)


BATCH_RULES = tuple(
    rule for rule in (*LAYOUT_RULES, *PIPELINE_RULES, *EXPERT_RULES) if GBS in rule.reads and rule.severity == "error"
)
"""The rules that the size of the global batch decides."""


class TRN005(TrainerRule):
    """The batch-size ramp-up passes through a size that a rule refuses."""

    requires = ("TRN004", *(rule.__name__ for rule in BATCH_RULES))
    reads = tuple(dict.fromkeys((TRAINER, GATING, RAMP, *(key for rule in BATCH_RULES for key in rule.reads))))
    shows = (RAMP, GBS, MBS)
    source = CALCULATOR
    refused = (*FOR_US, f"{RAMP}=[1,5,24]", f"{GBS}=16", f"{WORLD}=2")

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return c[RAMP] is not None and c[GBS] is not None and c[GATING] == "strict"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return cls._refused(c) is None

    @classmethod
    def _refused(cls, c: Config) -> tuple[int, type[Rule]] | None:
        """The first size that is refused on the way to the full batch, and by which rule."""
        # Microbatches come in groups: what the first sizes of one round of groups do, all later ones repeat.
        for size in islice(sizes(c[RAMP], c[GBS])[:-1], 1 + (c[GROUP] or c[PP])):
            at = _WithBatch(c, size)
            for rule in BATCH_RULES:
                if rule.applies(at) and not rule.holds(at):
                    return size, rule
        return None

    @classmethod
    def why_for(cls, c: Config) -> str:
        found = cls._refused(c)
        if found is None:
            return "Every size of the ramp-up is a global batch of its own."
        size, rule = found
        return f"At the batch size of {size}, {rule.__name__} refuses the plan: {rule.why_for(_WithBatch(c, size))}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        unit = c[MBS] * data_parallel_size(c) * ((c[GROUP] or c[PP]) if interleaved(c) else 1)
        last = c[GBS]
        if last % unit or last == unit:
            return (WHOLE_BATCH,)
        start = min(max(unit, c[RAMP][0] // unit * unit), last - unit)
        return *_ramp_fix(start, last, unit, c[RAMP], "makes whole microbatches at every size"), WHOLE_BATCH


class TRN006(TrainerRule):
    """A validation loss is asked for and no text is kept for it."""

    reads = (TRAINER, EVAL_INTERVAL, DATA_KIND, HELD_OUT)
    why = "Training takes all of the text, so a loss on it would say nothing. The end of the text can be held out."
    source = "hydra_overlap/megatron/data.py held_out"
    refused = (*FOR_US, f"{EVAL_INTERVAL}=10")
    fixes = (Fix(f"{HELD_OUT}=0.03", "keeps 3 % of the text for it"), Fix(f"{EVAL_INTERVAL}=null", "measures none"))

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return c[EVAL_INTERVAL] is not None and c[DATA_KIND] != "mock"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[HELD_OUT] > 0)


class TRN007(TrainerRule):
    """The run trains on text files and none is named."""

    reads = (TRAINER, DATA_KIND, DATA_FILES)
    why = "data.kind=text reads the files that data.files lists."
    source = "hydra_overlap/launch/text_files.py"
    refused = (*FOR_US, f"{DATA_KIND}=text")
    fixes = (
        Fix(f"{DATA_FILES}=[/path/*.txt]", "trains on your own files"),
        Fix(f"{DATA_KIND}=stdlib", "trains on the source files of Python's standard library"),
        Fix(f"{DATA_KIND}=mock", "trains on made-up tokens"),
    )

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return bool(c[DATA_KIND] == "text")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DATA_FILES])


class TRN008(TrainerRule):
    """Text files are named and data.kind does not read them."""

    reads = (TRAINER, DATA_KIND, DATA_FILES)
    why = "The run would train on something else than these files."
    source = "hydra_overlap/launch/text_files.py"
    refused = (*FOR_US, f"{DATA_FILES}=[a.txt]")

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return bool(c[DATA_FILES])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DATA_KIND] == "text")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return Fix(f"{DATA_KIND}=text", "trains on them"), Fix(
            f"{DATA_FILES}=[]", f"trains on data.kind={c[DATA_KIND]}"
        )


class TRN009(TrainerRule):
    """The vocabulary is too small for text that is read as bytes."""

    reads = (TRAINER, DATA_KIND, VOCAB)
    why = f"train.py reads text as bytes: 256 values and one end-of-document token, {VOCABULARY} tokens."
    source = "hydra_overlap/megatron/data.py ByteTokenizer"
    refused = (*FOR_US, f"{VOCAB}=200")
    fixes = (
        Fix(f"{VOCAB}=384", "holds them all"),
        Fix(f"{DATA_KIND}=mock {DATA_FILES}=[]", "trains on made-up tokens"),
    )

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return c[DATA_KIND] != "mock" and c[VOCAB] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[VOCAB] >= VOCABULARY)


class TRN010(TrainerRule):
    """A checkpoint interval is set and no directory for the checkpoints is named."""

    reads = (TRAINER, SAVE, SAVE_INTERVAL)
    why = "No checkpoint would be written."
    source = "hydra_overlap/megatron/checkpoint.py"
    refused = (*FOR_US, f"{SAVE_INTERVAL}=10")
    fixes = (Fix(f"{SAVE}=DIRECTORY", "writes them there"), Fix(f"{SAVE_INTERVAL}=null", "writes none"))

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return c[SAVE_INTERVAL] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[SAVE] is not None


class TRN011(TrainerRule):
    """Ranks of a dry run are named and no dry run is asked for."""

    reads = (TRAINER, DRY_RUN, DRY_RUN_RANKS)
    why = "A run starts all ranks; only a dry run builds some of them."
    source = "hydra_overlap/dry_run/build.py ranks_to_build"
    refused = (*FOR_US, f"{DRY_RUN_RANKS}=[0]")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        there = all(0 <= rank < c[WORLD] for rank in c[DRY_RUN_RANKS])
        built = (Fix(f"{DRY_RUN}=true", "builds these ranks, starts none"),) if there else ()
        return (*built, Fix(f"{DRY_RUN_RANKS}=[]", "starts the run"))

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return bool(c[DRY_RUN_RANKS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[DRY_RUN])


class TRN012(TrainerRule):
    """A dry run names a rank that the plan does not have."""

    reads = (TRAINER, DRY_RUN, DRY_RUN_RANKS, WORLD)
    shows = (DRY_RUN_RANKS, WORLD)
    source = "hydra_overlap/dry_run/build.py ranks_to_build"
    refused = (*FOR_US, f"{DRY_RUN}=true", f"{DRY_RUN_RANKS}=[99]")

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return bool(c[DRY_RUN] and c[DRY_RUN_RANKS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return all(0 <= rank < c[WORLD] for rank in c[DRY_RUN_RANKS])

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"Its ranks are numbered from 0 to {c[WORLD] - 1}."

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        there = [rank for rank in c[DRY_RUN_RANKS] if 0 <= rank < c[WORLD]]
        those = (Fix(f"{DRY_RUN_RANKS}={yaml_value(there)}", "builds those that exist"),) if there else ()
        return (*those, Fix(f"{DRY_RUN_RANKS}=[]", "builds the first and last rank of every pipeline stage"))


class SlurmRule(TrainerRule):
    """Base: judged for plans that are submitted to Slurm."""

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return bool(c[WHERE] == "slurm")


class TRN013(SlurmRule):
    """The Slurm job has another number of tasks than the plan has ranks."""

    reads = (TRAINER, WHERE, WORLD, SLURM_NODES, SLURM_TASKS, GPUS_PER_NODE)
    shows = (WORLD, SLURM_NODES, SLURM_TASKS, GPUS_PER_NODE)
    why = "Every task of the job is one rank."
    source = "hydra_overlap/launch/slurm.py"
    refused = (*ON_SLURM, f"{SLURM_TASKS}=2")

    @classmethod
    def holds(cls, c: Config) -> bool:
        nodes, tasks = slurm_tasks(c)
        return bool(nodes * tasks == c[WORLD])

    @classmethod
    def why_for(cls, c: Config) -> str:
        nodes, tasks = slurm_tasks(c)
        return f"{nodes} x {tasks} tasks are {nodes * tasks} ranks, the plan is for {c[WORLD]}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        ranks, (_, tasks) = c[WORLD], slurm_tasks(c)
        most = max(size for size in range(1, min(tasks, FAR) + 1) if ranks % size == 0)
        same = Fix(f"{SLURM_NODES}={ranks // most} {SLURM_TASKS}={most}", "starts the same ranks")
        if ranks <= tasks:
            return (same,)
        full = ranks // tasks
        nodes = f"{SLURM_NODES}={full} " if c[SLURM_NODES] is not None else ""
        return same, Fix(f"{nodes}{WORLD}={full * tasks}", "fills whole nodes")


class TRN014(SlurmRule):
    """The Slurm job asks for GPUs and the plan uses none."""

    reads = (TRAINER, WHERE, SLURM_GPUS, GPU)
    shows = (SLURM_GPUS, GPU)
    why = "platform=auto stands for the machine that composes; where that has no GPU, the plan is for none."
    source = "hydra_overlap/launch/slurm.py"
    refused = (*ON_SLURM, f"{SLURM_GPUS}=2")
    fixes = (
        Fix("platform=h100", "plans for the GPUs of the nodes; conf/platform has others"),
        Fix(f"{SLURM_GPUS}=0", "rehearses on the CPUs of the nodes"),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[SLURM_GPUS] or c[GPU] not in NO_GPU


class TRN015(SlurmRule):
    """A node of the Slurm job has more ranks than GPUs."""

    requires = ("TRN013", "TRN014")
    reads = (TRAINER, WHERE, WORLD, SLURM_NODES, SLURM_TASKS, SLURM_GPUS, GPUS_PER_NODE, GPU)
    shows = (SLURM_TASKS, SLURM_GPUS, GPUS_PER_NODE)
    why = "Every rank has a GPU of its own."
    source = "hydra_overlap/launch/slurm.py"
    refused = (*ON_SLURM, f"{GPU}=h100", f"{WORLD}=8", f"{SLURM_GPUS}=4")

    @classmethod
    def holds(cls, c: Config) -> bool:
        gpus, (_, tasks) = slurm_gpus(c), slurm_tasks(c)
        return not gpus or bool(tasks <= cls._most(c, gpus))

    @staticmethod
    def _most(c: Config, gpus: int) -> int:
        return int(min(gpus, c[GPUS_PER_NODE] or gpus))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        most = cls._most(c, slurm_gpus(c))
        nodes = f"{SLURM_NODES}={c[WORLD] // most} " if c[SLURM_NODES] is not None else ""
        one_each = Fix(f"{nodes}{SLURM_TASKS}={most}", "starts one rank for each GPU")
        return one_each, Fix(f"{SLURM_GPUS}=0", "rehearses on the CPUs of the nodes")


class TRN016(TrainerRule):
    """Context parallelism cannot be rehearsed without a GPU."""

    reads = (TRAINER, CP, DRY_RUN, GPU, WHERE, SLURM_GPUS)
    shows = (CP, GPU)
    why = "megatron-core's context parallelism runs inside Transformer Engine's attention, which needs CUDA."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/dot_product_attention.py:55-57"
    refused = (*FOR_US, f"{CP}=2", f"{GPU}=cpu")

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return not c[DRY_RUN] and surely_on_cpu(c)

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[CP] == 1)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        asked = (
            Fix(f"{SLURM_GPUS}=null", "asks for GPUs")
            if c[GPU] not in NO_GPU
            else Fix("platform=h100", "plans for that GPU")
        )
        dry = Fix(f"{DRY_RUN}=true", "builds ranks of every stage in one process, starts none")
        return dry, Fix(f"{CP}=1", "rehearses the rest of the layout"), asked


class NotBuiltRule(TrainerRule):
    """Base: megatron-core could do it, train.py does not."""

    key: ClassVar[str]
    off: ClassVar[str]
    source = "hydra_overlap/megatron/configs.py"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[cls.key]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return Fix(f"{cls.key}={cls.off}", "trains without it"), FOR_ANOTHER

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return cls.key, TRAINER


class TRN017(NotBuiltRule):
    """train.py does not build multi-latent attention."""

    key, off = MLA, "false"
    reads = (TRAINER, key)
    why = "It builds attention with one QKV projection."
    refused = (*FOR_US, f"{key}=true")


class TRN018(NotBuiltRule):
    """train.py does not train on microbatches of different lengths."""

    key, off = VARIABLE_LENGTHS, "false"
    reads = (TRAINER, key)
    why = "All its samples have seq_length tokens."
    refused = (*FOR_US, f"{key}=true")


class TRN019(NotBuiltRule):
    """train.py does not use Megatron FSDP."""

    key, off = FSDP, "false"
    reads = (TRAINER, key)
    why = "It wraps the model in megatron-core's DistributedDataParallel."
    refused = (*FOR_US, f"{key}=true")


class TRN020(NotBuiltRule):
    """train.py does not steer the power of the GPUs."""

    key, off = VBOOST, "false"
    reads = (TRAINER, key)
    why = "That takes root on every node: `nvidia-smi boost-slider --vboost 1`, before the run."
    refused = (*FOR_US, f"{key}=true")


REHEARSED_AWAY: dict[str, tuple[str, str]] = {
    **{key: (value, "It captures no CUDA graphs.") for key, value in NO_GRAPHS.items()},
    DDP_REUSE: (
        "false",
        "Its steps do not copy main parameters into the gather's buffer.",
    ),
}
"""What train.py does not do on GPUs, and a rehearsal and a dry run leave out: how it is switched off, and why."""


def _asked(c: Config) -> list[str]:
    """Of these settings, those that ask for something."""
    return [key for key in REHEARSED_AWAY if c[key] not in (None, False, [], (), "none")]


class RehearsedAwayRule(TrainerRule):
    """Base: a setting that only a rehearsal or a dry run can leave out."""

    source = "hydra_overlap/megatron/configs.py"

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not _asked(c)

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return tuple(_asked(c))

    @classmethod
    def why_for(cls, c: Config) -> str:
        return " ".join([*dict.fromkeys(REHEARSED_AWAY[key][1] for key in _asked(c)), cls.why])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        off = " ".join(f"{key}={REHEARSED_AWAY[key][0]}" for key in _asked(c))
        return Fix(off, "trains without it"), FOR_ANOTHER


class TRN021(RehearsedAwayRule):
    """The plan is for GPUs and asks for what train.py does not do there."""

    reads = (TRAINER, WHERE, SLURM_GPUS, GPU, DRY_RUN, CP, *REHEARSED_AWAY)
    why = "A rehearsal would do without, but the GPUs asked of Slurm, or context parallelism, rule a rehearsal out."
    refused = (*ON_SLURM, f"{GPU}=h100", f"{CUDA_GRAPH_SCOPE}=[attn]")

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return *super().shown(c), WHERE if c[WHERE] == "slurm" else CP

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return not c[DRY_RUN] and (slurm_on_gpus(c) if c[WHERE] == "slurm" else c[CP] > 1) and not surely_on_cpu(c)


class TRN022(RehearsedAwayRule):
    """On GPUs, train.py would refuse this plan."""

    severity = "warning"
    reads = (TRAINER, WHERE, SLURM_GPUS, GPU, DRY_RUN, CP, *REHEARSED_AWAY)
    why = "A rehearsal and a dry run leave it out."
    refused = (
        *FOR_US, f"{NUM_LAYERS}=2", f"{HIDDEN}=128", f"{HEADS}=4",
        f"{SEQ_LENGTH}=64", f"{VOCAB}=384", f"{GBS}=2", f"{CUDA_GRAPH_SCOPE}=[attn]",
    )  # fmt: skip

    @classmethod
    def concerns(cls, c: Config) -> bool:
        return not TRN021.concerns(c) and not surely_on_cpu(c)


class TRN023(NotBuiltRule):
    """train.py does not build this optimizer."""

    key, off = OPTIMIZER, "adam"
    reads = (TRAINER, key)
    why = "It trains with adam and with sgd; Muon and its relatives come from another package."
    refused = (*FOR_US, f"{key}=lion")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[OPTIMIZER] in ("adam", "sgd")


RULES: tuple[type[Rule], ...] = (
    TRN001, TRN002, TRN003, TRN004, TRN005, TRN006, TRN007, TRN008, TRN009, TRN010, TRN011, TRN012, TRN013, TRN014,
    TRN015, TRN016, TRN017, TRN018, TRN019, TRN020, TRN021, TRN022, TRN023,
)  # fmt: skip


def sizes(ramp: Sequence[int] | None, last: int) -> range:
    """The global batch sizes of a run, in order, the full one included. ramp: [first size, increment, samples], or None."""
    return range(last, last + 1) if ramp is None else range(ramp[0], last + 1, ramp[1])


def slurm_tasks(c: Config) -> tuple[int, int]:
    """(nodes, tasks on every node) of the job that launch=slurm submits; what is left open follows from the ranks."""
    ranks, nodes, tasks = c[WORLD], c[SLURM_NODES], c[SLURM_TASKS]
    if tasks is None:
        tasks = max(1, ranks // nodes) if nodes else min(ranks, c[GPUS_PER_NODE] or ranks)
    return nodes or max(1, ranks // tasks), tasks


def slurm_on_gpus(c: Config) -> bool:
    """Whether the job that launch=slurm submits asks for GPUs."""
    return bool(c[GPU] not in NO_GPU if c[SLURM_GPUS] is None else c[SLURM_GPUS])


def slurm_gpus(c: Config) -> int:
    """GPUs on every node of that job; 0 = a rehearsal on the CPUs of the nodes."""
    gpus = slurm_tasks(c)[1] if c[SLURM_GPUS] is None else c[SLURM_GPUS]
    return int(gpus) if slurm_on_gpus(c) else 0


def surely_on_cpu(c: Config) -> bool:
    """Whether the plan is rehearsed on whatever machine. Where it says nothing of GPUs, the machine decides."""
    return not slurm_on_gpus(c) if c[WHERE] == "slurm" else bool(c[GPU] == "cpu")


def _ramp_fix(start: int, last: int, unit: int, ramp: Sequence[int], effect: str) -> tuple[Fix, ...]:
    """A ramp-up from `start` in increments that are multiples of `unit`, as near as possible to the one asked for."""
    increment = _nearest_divisor(last - start, unit, ramp[1])
    return () if increment is None else (Fix(f"{RAMP}=[{start},{increment},{ramp[2]}]", effect),)


def _nearest_divisor(number: int, unit: int, near: int) -> int | None:
    """The divisor of `number` among the multiples of `unit` that is nearest to `near`; None if none is anywhere near."""
    for distance in range(FAR):
        for factor in (near // unit - distance, near // unit + distance):
            if factor > 0 and number % (unit * factor) == 0:
                return unit * factor
    return None
