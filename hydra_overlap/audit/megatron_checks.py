"""What Megatron-LM's own code refuses, or passes over, of its arguments: assertions about settings that no rule of ours reads.

Lines are those of core_v0.16.1 where nothing else is said; read at core_v0.15.3, 0.16.1, 0.17.1, 0.18.2, 0.19.0 and main.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..findings import Finding, Fix, Place
from ..rules.ddp import DP028
from ..rules.env import CONNECTIONS
from ..schema.keys import CORE, EP_OVERLAP, FSDP, PP, STEP_GATHER, TP_OVERLAP
from ..schema.versions import at_least
from .intake import Intake
from .megatron_flags import RULE

ARGUMENTS = "Megatron-LM core_v0.16.1 megatron/training/arguments.py:"


@dataclass(frozen=True)
class Asked:
    """A command's arguments. values: destination -> value, defaults included. said: destination -> text of its flag.

    request: our fields, as far as they are known. program: the script or module.
    """

    values: Mapping[str, Any]
    said: Mapping[str, str]
    request: Mapping[str, Any]
    program: str

    def on(self, dest: str) -> bool:
        """Whether a switch is on; of one that this release of Megatron-LM does not have, no."""
        return bool(self.values.get(dest))

    def place(self, dest: str, flag: str) -> Place:
        """Where a value stands."""
        return Place(flag, _text(self.values.get(dest)), self.said.get(dest, f"no {flag}"))


def _text(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, list)
        else str(value)
    )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that Megatron-LM does not accept. wrong: whether it is there. shown: (destination, flag) that it is about."""

    title: str
    wrong: Callable[[Asked], bool]
    shown: tuple[tuple[str, str], ...]
    why: str
    source: str
    fixes: tuple[Fix, ...]
    severity: str = "error"
    rule: str = RULE

    def finding(self, asked: Asked) -> Finding:
        """The finding on a command that does it."""
        where = tuple(asked.place(dest, flag) for dest, flag in self.shown)
        return Finding(
            rule=self.rule, severity=self.severity, title=self.title, why=self.why, where=where, fixes=self.fixes,
            source=self.source,
        )  # fmt: skip


TORCH_FSDP = ("use_torch_fsdp2", "--use-torch-fsdp2")
WITHOUT_TORCH_FSDP = Fix("without --use-torch-fsdp2", "gives torch's FSDP up")


def _fsdp2(title: str, wrong: Callable[[Asked], bool], shown: tuple[str, str], lines: str, *fixes: Fix) -> Check:
    return Check(
        title=f"torch's FSDP2 does not work with {title}", wrong=lambda asked: asked.on("use_torch_fsdp2") and wrong(asked),
        shown=(TORCH_FSDP, shown), why="Megatron-LM asserts it before it starts.", source=ARGUMENTS + lines,
        fixes=(*fixes, WITHOUT_TORCH_FSDP),
    )  # fmt: skip


CHECKS = (
    _fsdp2(
        "pipeline parallelism", lambda a: a.values["pipeline_model_parallel_size"] > 1,
        ("pipeline_model_parallel_size", "--pipeline-model-parallel-size"), "608-609",
    ),
    _fsdp2(
        "expert parallelism", lambda a: a.values["expert_model_parallel_size"] > 1,
        ("expert_model_parallel_size", "--expert-model-parallel-size"), "610-611",
    ),
    _fsdp2(
        "the distributed optimizer", lambda a: a.on("use_distributed_optimizer"),
        ("use_distributed_optimizer", "--use-distributed-optimizer"), "612-613",
        Fix("without --use-distributed-optimizer", "keeps FSDP2, which shards the optimizer itself"),
    ),
    _fsdp2(
        "gradient accumulation fusion", lambda a: a.on("gradient_accumulation_fusion"),
        ("gradient_accumulation_fusion", "--no-gradient-accumulation-fusion"), "614-615",
        Fix("--no-gradient-accumulation-fusion", "keeps FSDP2"),
    ),
    _fsdp2(
        "this checkpoint format", lambda a: a.values["ckpt_format"] not in ("torch_dist", "torch_dcp"),
        ("ckpt_format", "--ckpt-format"), "616-617", Fix("--ckpt-format torch_dist", "keeps FSDP2"),
    ),
    _fsdp2(
        "shared embeddings", lambda a: not a.on("untie_embeddings_and_output_weights"),
        ("untie_embeddings_and_output_weights", "--untie-embeddings-and-output-weights"), "618-619",
        Fix("--untie-embeddings-and-output-weights", "keeps FSDP2 (another model)"),
    ),
    _fsdp2("fp16", lambda a: a.on("fp16"), ("fp16", "--fp16"), "620-621", Fix("--bf16", "in place of --fp16")),
    Check(
        title="Gradient-reduce overlap is not what torch's FSDP2 looks at",
        wrong=lambda a: a.on("use_torch_fsdp2") and a.on("overlap_grad_reduce"),
        shown=(TORCH_FSDP, ("overlap_grad_reduce", "--overlap-grad-reduce")),
        why="FSDP2 reduces gradients layer by layer during backward of itself; the flag changes nothing.",
        source="Megatron-LM core_v0.16.1 megatron/core/distributed/torch_fully_sharded_data_parallel.py",
        fixes=(Fix("without --overlap-grad-reduce", "says what runs"), WITHOUT_TORCH_FSDP), severity="warning",
    ),
    Check(
        title="Megatron FSDP is on with another checkpoint format than its own",
        wrong=lambda a: bool(a.request.get(FSDP)) and a.values["ckpt_format"] != "fsdp_dtensor",
        shown=(("use_megatron_fsdp", "--use-megatron-fsdp"), ("ckpt_format", "--ckpt-format")),
        why="Megatron-LM asserts it, whether checkpoints are written or not; the default is torch_dist.",
        source=ARGUMENTS + "690-691", fixes=(Fix("--ckpt-format fsdp_dtensor", "keeps Megatron FSDP"),),
    ),
    Check(
        title=DP028.title(), rule=DP028.__name__,
        wrong=lambda a: bool(a.request.get(STEP_GATHER)) and a.values["ckpt_format"] != "torch",
        shown=(
            ("overlap_param_gather_with_optimizer_step", "--overlap-param-gather-with-optimizer-step"),
            ("ckpt_format", "--ckpt-format"),
        ),
        why="Megatron-LM asserts it, whether checkpoints are written or not; every format but torch is distributed, and the "
        "default is torch_dist.",
        source=ARGUMENTS + "642-643",
        fixes=(
            Fix("--ckpt-format torch", "keeps the overlap"),
            Fix("without --overlap-param-gather-with-optimizer-step", "gives the overlap up"),
        ),
    ),
    Check(
        title="TP overlap is on in deterministic mode",
        wrong=lambda a: a.on("deterministic_mode") and bool(a.request.get(TP_OVERLAP)) and at_least(a.request.get(CORE), "0.19.0"),
        shown=(("deterministic_mode", "--deterministic-mode"), ("tp_comm_overlap", "--tp-comm-overlap")),
        why="From core_v0.19.0 on Megatron-LM asserts that it is off: userbuffers do not reduce in a fixed order.",
        source="Megatron-LM core_v0.19.0 megatron/training/determinism.py:24, 118-160",
        fixes=(
            Fix("without --tp-comm-overlap", "keeps deterministic mode"), Fix("without --deterministic-mode", "keeps the overlap"),
        ),
    ),
)  # fmt: skip
SCHEDULES_OF_ONE = ("pretrain_mamba", "pretrain_hybrid", "pretrain_bert", "pretrain_t5", "pretrain_vlm", "pretrain_ict")
"""Programs of Megatron-LM whose forward step makes no schedule plan."""


def checks(intake: Intake, values: Mapping[str, Any], said: Mapping[str, str], program: str) -> Iterable[Finding]:
    """What Megatron-LM would refuse of a command. intake: complete, with what was said behind the file name."""
    asked = Asked(values, said, intake.flat, program)
    for check in CHECKS:
        if check.wrong(asked):
            yield check.finding(asked)
    yield from _combined(asked)
    yield from _one_queue(intake, asked)


def _combined(asked: Asked) -> Iterator[Finding]:
    """Expert-parallel overlap in a program whose model has no schedule of its parts."""
    name = asked.program.rpartition("/")[2].removesuffix(".py")
    if asked.request.get(EP_OVERLAP) and name in SCHEDULES_OF_ONE:
        yield Finding(
            rule=RULE, severity="error", title="Expert-parallel overlap is on in a program that cannot take forward apart",
            why=f"megatron-core asks the forward step for a schedule plan (return_schedule_plan=True); that of {name}.py has no such "
            "argument and raises TypeError. Only pretrain_gpt.py has.",
            where=(asked.place("overlap_moe_expert_parallel_comm", "--overlap-moe-expert-parallel-comm"), Place("program", asked.program, "")),
            fixes=(Fix("without --overlap-moe-expert-parallel-comm", "gives the overlap up"),),
            source="Megatron-LM core_v0.16.1 pretrain_mamba.py:211, core_v0.19.0 pretrain_hybrid.py:280; "
            "megatron/core/pipeline_parallel/combined_1f1b.py:343",
        )  # fmt: skip


def _one_queue(intake: Intake, asked: Asked) -> Iterator[Finding]:
    """CUDA_DEVICE_MAX_CONNECTIONS=1 beside FSDP, which Megatron-LM asserts against."""
    fsdp = intake.several_queues
    if fsdp and intake.env.get(CONNECTIONS) == "1":
        yield Finding(
            rule="ENV002", severity="error", title="FSDP is on with a single hardware queue",
            why=f"Megatron-LM asserts that {CONNECTIONS} is not 1 with {fsdp}: its gathers and reductions need queues beside the "
            "one of compute.",
            where=(Place(f"{CONNECTIONS}=1", "", intake.of_environment), Place(fsdp, "", "")),
            fixes=(Fix(f"{CONNECTIONS}=8", "CUDA's default"),), source=ARGUMENTS + "622-623, 687-688",
        )  # fmt: skip


def normalised(flat: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that Megatron-LM sets itself: sends and receives are batched exactly where they are not overlapped."""
    if flat.get(PP, 1) == 1:
        return {}
    interleaved = flat.get("parallelism.virtual_pipeline_model_parallel_size") is not None
    return {"comm_overlap.pp.batch_p2p_comm": not (interleaved and values["overlap_p2p_comm"])}
