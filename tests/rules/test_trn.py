"""TRN: what train.py needs of a plan; each refused here where it was refused by the run, and its nearest working neighbour."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_overlap import resolve
from hydra_overlap.findings import yaml_value
from hydra_overlap.resolver.resolve import _complete
from hydra_overlap.rules import DERIVATIONS
from hydra_overlap.rules.trn import BATCH_RULES, FOR_ANOTHER, RULES, TRN005, _WithBatch, sizes, slurm_gpus, slurm_tasks
from hydra_overlap.schema.keys import GBS
from tests.overrides import errors_of, flat_of, overridden, refusing, remarks, request_of
from tests.rules.test_all_rules import Recorder

DESCRIBED = (
    "launch.trainer=train.py", "model.num_layers=2", "model.hidden_size=128", "model.num_attention_heads=4",
    "model.seq_length=64", "model.vocab_size=384", "training.global_batch_size=16", "parallelism.world_size=2",
)  # fmt: skip
SLURM = ("launch.where=slurm", "platform=h100", "parallelism.world_size=16", "software.transformer_engine=2.11.0")
ON_H100 = ("platform=h100", "software.transformer_engine=2.11.0")
SHARDED = (
    "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true",
    "ddp.data_parallel_sharding_strategy=optim_grads_params", "parallelism.world_size=2",
)  # fmt: skip
EIGHT_A_NODE = "platform.gpus_per_node=8"

CASES = [  # refused, by this rule alone; a neighbour that passes
    (("model.vocab_size=null",), "TRN001", ("model.vocab_size=257",)),
    (("training.global_batch_size=null",), "TRN001", ()),
    (("optimizer.min_lr=1",), "TRN002", ("optimizer.min_lr=0.0003",)),
    (("optimizer.lr=0.00001",), "TRN002", ("optimizer.lr=0.00003",)),
    (("optimizer.lr_warmup_iters=100",), "TRN003", ("optimizer.lr_warmup_iters=99",)),
    (("training.rampup_batch_size=[4,4]",), "TRN004", ("training.rampup_batch_size=[4,4,24]",)),
    (("training.rampup_batch_size=[4,4,24,1]",), "TRN004", ("training.rampup_batch_size=null",)),
    (("training.rampup_batch_size=[16,4,24]",), "TRN004", ("training.rampup_batch_size=[12,4,24]",)),
    (("training.rampup_batch_size=[4,0,24]",), "TRN004", ("training.rampup_batch_size=[4,12,24]",)),
    (("training.rampup_batch_size=[4,5,24]",), "TRN004", ("training.rampup_batch_size=[4,6,24]",)),
    (("training.rampup_batch_size=[1,5,24]",), "TRN005", ("training.rampup_batch_size=[2,2,24]",)),
    (("training.eval_interval=2",), "TRN006", ("training.eval_interval=2", "data.kind=mock")),
    (("training.eval_interval=2",), "TRN006", ("training.eval_interval=2", "data.held_out=0.01")),
    (("data.kind=text",), "TRN007", ("data.kind=text", "data.files=[a.txt]")),
    (("data.files=[a.txt]",), "TRN008", ("data.kind=text", "data.files=[a.txt]")),
    (("data.kind=mock", "data.files=[a.txt]"), "TRN008", ("data.kind=mock",)),
    (("model.vocab_size=256",), "TRN009", ("model.vocab_size=257",)),
    (("model.vocab_size=256",), "TRN009", ("model.vocab_size=256", "data.kind=mock")),
    (("checkpoint.save_interval=2",), "TRN010", ("checkpoint.save_interval=2", "checkpoint.save=a")),
    (("launch.dry_run_ranks=[0]",), "TRN011", ("launch.dry_run_ranks=[0]", "launch.dry_run=true")),
    (("launch.dry_run_ranks=[2]", "launch.dry_run=true"), "TRN012", ("launch.dry_run_ranks=[1,0,1]", "launch.dry_run=true")),
    (("launch.dry_run_ranks=[0,9]", "launch.dry_run=true"), "TRN012", ("launch.dry_run_ranks=[]", "launch.dry_run=true")),
    ((*SLURM, "launch.slurm.nodes=3"), "TRN013", (*SLURM, "launch.slurm.nodes=2")),
    ((*SLURM, "platform=cpu", "launch.slurm.gpus_per_node=2"), "TRN014", (*SLURM, "launch.slurm.gpus_per_node=16")),
    ((*SLURM, "launch.slurm.tasks_per_node=16"), "TRN015", (*SLURM, "launch.slurm.tasks_per_node=8")),
    ((*SLURM, "launch.slurm.gpus_per_node=4"), "TRN015", (*SLURM, "launch.slurm.gpus_per_node=8")),
    (("platform=cpu", "parallelism.context_parallel_size=2"), "TRN016", ("parallelism.context_parallel_size=2",)),
    (
        ("platform=cpu", "parallelism.context_parallel_size=2"),
        "TRN016",
        ("platform=cpu", "parallelism.context_parallel_size=2", "launch.dry_run=true"),
    ),
    (
        (*SLURM, "launch.slurm.gpus_per_node=0", "parallelism.context_parallel_size=2"),
        "TRN016",
        (*SLURM, "parallelism.context_parallel_size=2"),
    ),
    (("model.multi_latent_attention=true",), "TRN017", ("model.multi_latent_attention=false",)),
    (("model.variable_seq_lengths=true",), "TRN018", ()),
    ((*SHARDED, "ddp.use_megatron_fsdp=true"), "TRN019", SHARDED),
    (("launch.vboost=true",), "TRN020", ()),
    ((*SLURM, "model.cuda_graph_scope=[attn]"), "TRN021", (*SLURM, "model.cuda_graph_scope=[attn]", "launch.dry_run=true")),
    (
        (*ON_H100, "parallelism.context_parallel_size=2", "model.cuda_graph_scope=[attn]"),
        "TRN021",
        (*ON_H100, "model.cuda_graph_scope=[attn]"),
    ),
    (
        (*SLURM, "model.cuda_graph_scope=[attn]"),
        "TRN021",
        (*SLURM, "model.cuda_graph_scope=[attn]", "launch.slurm.gpus_per_node=0"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("refused", "rule", "neighbour"), CASES, ids=lambda one: one if isinstance(one, str) else " ".join(one)
)
def test_refuses_by_one_rule_and_lets_the_neighbour_pass(
    refused: tuple[str, ...], rule: str, neighbour: tuple[str, ...]
) -> None:
    facts = (EIGHT_A_NODE,) if "platform=h100" in refused else ()
    assert refusing(*DESCRIBED, *refused, *facts) == [rule]
    facts = (EIGHT_A_NODE,) if "platform=h100" in neighbour else ()
    assert refusing(*DESCRIBED, *neighbour, *facts) == []


@pytest.mark.parametrize("refused", sorted({refused for refused, _, _ in CASES}), ids=" ".join)
def test_a_plan_for_another_program_is_refused_by_none_of_them(refused: tuple[str, ...]) -> None:
    assert refusing(*DESCRIBED, *refused, FOR_ANOTHER.override) == []
    assert refusing(*refused) == [], "and so is a host's, which says nothing of a trainer"


@pytest.mark.parametrize("refused", sorted({refused for refused, rule, _ in CASES if rule != "TRN005"}), ids=" ".join)
def test_bridge_mode_is_held_to_what_train_py_needs_as_well(refused: tuple[str, ...]) -> None:
    strict = errors_of(request_of(*DESCRIBED, *refused))
    bridge = errors_of(request_of(*DESCRIBED, *refused, "gating=bridge"))
    assert [finding.rule for finding in bridge] == [finding.rule for finding in strict]
    assert all(finding.fixes for finding in bridge)
    assert errors_of(request_of(*refused, "gating=bridge")) == ()


def test_what_a_rehearsal_leaves_out_is_warned_of_where_the_machine_decides() -> None:
    graphs = (*DESCRIBED, "model.cuda_graph_scope=[attn]")
    assert "TRN022" in remarks(*graphs)
    assert "TRN022" in remarks(*graphs, "gating=bridge")
    assert "TRN022" not in remarks(*graphs, "platform=cpu")
    assert "TRN022" not in remarks(*graphs, FOR_ANOTHER.override)


def test_a_ramp_up_names_the_size_the_rule_and_its_reason() -> None:
    (finding,) = errors_of(request_of(*DESCRIBED, "training.rampup_batch_size=[1,5,24]"))
    assert finding.why.startswith("At the batch size of 1, PAR009 refuses the plan: 1 ")


def test_of_a_ramp_up_every_fix_works_in_an_interleaved_schedule_too() -> None:
    request = request_of(
        *DESCRIBED, "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        "model.num_layers=8", "training.rampup_batch_size=[1,5,24]",
    )  # fmt: skip
    (finding,) = errors_of(request)
    assert finding.rule == "TRN005" and len(finding.fixes) == 2
    assert [errors_of(overridden(request, fix.override)) for fix in finding.fixes] == [(), ()]


layouts = st.fixed_dictionaries({
    "parallelism.pipeline_model_parallel_size": st.sampled_from([1, 2, 4]),
    "parallelism.virtual_pipeline_model_parallel_size": st.sampled_from([None, 2]),
    "parallelism.microbatch_group_size_per_vp_stage": st.sampled_from([None, 2, 3, 5]),
    "training.micro_batch_size": st.integers(1, 3),
    "comm_overlap.ep.overlap_moe_expert_parallel_comm": st.booleans(),
})  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    layout=layouts,
    start=st.integers(1, 12),
    increment=st.integers(1, 12),
    steps=st.integers(1, 40),
    ranks=st.integers(1, 2),
)
def test_the_sizes_looked_at_are_as_good_as_all_of_them(layout, start, increment, steps, ranks) -> None:
    """Later sizes of a ramp-up repeat what the first ones do, so that a long one costs no more to judge."""
    pp = layout["parallelism.pipeline_model_parallel_size"]
    said = [f"{key}={yaml_value(value)}" for key, value in layout.items()]
    ramp = f"training.rampup_batch_size=[{start},{increment},9]"
    full = start + increment * steps
    request = request_of(
        "launch.trainer=train.py",
        *said,
        ramp,
        f"training.global_batch_size={full}",
        f"parallelism.world_size={pp * ranks}",
    )
    flat = _complete(flat_of(request)).flat
    every = [
        (size, rule)
        for size, rule in product(sizes([start, increment, 9], full)[:-1], BATCH_RULES)
        if rule.applies(_WithBatch(flat, size)) and not rule.holds(_WithBatch(flat, size))
    ]
    assert TRN005._refused(flat) == (every[0] if every else None)


def test_nothing_that_is_derived_depends_on_the_global_batch_size() -> None:
    """So a plan is the same one at every size of a ramp-up, and only the rules have to be asked again."""
    for example in ((), *(rule.refused for rule in RULES), *(rule.refused for rule in BATCH_RULES)):
        recorder = Recorder(_complete(flat_of(request_of(*example))).flat)
        for derivation in DERIVATIONS:
            derivation.value(recorder)
        assert GBS not in recorder.read


@pytest.mark.parametrize(
    ("overrides", "tasks", "gpus"),
    [
        ((*SLURM, EIGHT_A_NODE), (2, 8), 8),
        (("launch.where=slurm", "platform=cpu", "parallelism.world_size=4"), (1, 4), 0),
        ((*SLURM, EIGHT_A_NODE, "launch.slurm.nodes=4"), (4, 4), 4),
        ((*SLURM, EIGHT_A_NODE, "launch.slurm.gpus_per_node=0"), (2, 8), 0),
    ],
)
def test_what_a_slurm_job_leaves_open_follows_from_ranks_and_platform(
    overrides: tuple[str, ...], tasks: tuple[int, int], gpus: int
) -> None:
    flat = _complete(flat_of(request_of(*overrides))).flat
    assert (slurm_tasks(flat), slurm_gpus(flat)) == (tasks, gpus)


def test_a_plan_that_says_nothing_of_a_trainer_resolves() -> None:
    resolve({"optimizer": {"lr": 1e-5}, "training": {"eval_interval": 5}})
