"""Suggestions that work: what was meant is found, and every fix that is printed does what it says when it is pasted."""

import shlex
from collections.abc import Iterator
from random import Random

import pytest
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap import Finding
from hydra_overlap.compose import meanings
from hydra_overlap.compose.check import Verdict, check
from hydra_overlap.findings import Fix, render
from hydra_overlap.schema.fields import DEFAULTS
from hydra_overlap.schema.keys import WORLD
from hydra_overlap.suggest import likely, nearest
from tests.each import each

MEANT = {
    # command: the overrides of its fixes
    "tp_comm_overlap=true": ["comm_overlap.tp.tp_comm_overlap=true"],
    "+tp_comm_overlap=true": ["comm_overlap.tp.tp_comm_overlap=true"],
    "sequence_parallel=true": ["parallelism.sequence_parallel=true"],
    "seed=3": ["training.seed=3"],
    "lr=0.001": ["optimizer.lr=0.001"],
    "bucket_size=20000000": ["comm_overlap.dp.bucket_size=20000000"],
    "use_distributed_optimizer=true": ["ddp.use_distributed_optimizer=true optimizer.use_distributed_optimizer=true"],
    "tp=2": ["parallelism.tensor_model_parallel_size=2"],
    "parallelism.tp=2": ["parallelism.tensor_model_parallel_size=2"],
    "num_gpus=2": ["parallelism.world_size=2"],
    "tp=userbuffers": ["comm_overlap/tp=userbuffers"],
    "model.hidden=256": ["model.hidden_size=256"],
    "Comm_Overlap=dp": ["comm_overlap=dp"],
    "comm_overlap=DP": ["comm_overlap=dp"],
    "comm_overlap=TP4-H100": ["comm_overlap=tp4_h100"],
    "bundle=tp4_h100": ["comm_overlap=tp4_h100"],
    "TP4_H100": ["comm_overlap=tp4_h100"],
    "sequence_parallel": ["parallelism.sequence_parallel=true"],
    "precision=fp8": [
        "precision=fp8_blockwise", "precision=fp8_current", "precision=fp8_current_all_layers", "precision=fp8_delayed", "precision=fp8_mxfp8",
    ],
    "parallelism=tp3": ["parallelism.tensor_model_parallel_size=3 parallelism.sequence_parallel=true"],
    "parallelism=tp2_dp4": [
        "parallelism.tensor_model_parallel_size=2 parallelism.sequence_parallel=true parallelism.world_size=8",
    ],
    "comm_overlap=tp3_h100": ["comm_overlap=tp2_h100", "comm_overlap=tp4_h100", "comm_overlap=tp8_h100"],
    "comm_overlap/tp=ub": ["comm_overlap/tp=userbuffers"],
    "comm_overlap.tp=ub": [],
    "experiment=LLAMA3-8b_8gpu_h100_bf16": ["experiment=llama3_8b_8gpu_h100_bf16"],
    "comm_overlap.dp.bucket_size=1e6": ["comm_overlap.dp.bucket_size=1000000"],
    "comm_overlap=dp,none": ["comm_overlap=dp", "comm_overlap=none"],
    "--tp-comm-overlap": ["comm_overlap.tp.tp_comm_overlap=true"],
    "--disable-tp-comm-overlap-ag": ["comm_overlap.tp.tp_comm_overlap_ag=false"],
    "--tensor-model-parallel-size 2": ["parallelism.tensor_model_parallel_size=2"],
    "--comm_overlap=dp": ["comm_overlap=dp"],
    "--comm-overlap dp": ["comm_overlap=dp"],
    "--swiglu": ["model.activation_func=silu model.gated_linear_unit=true"],
    "CUDA_DEVICE_MAX_CONNECTIONS=1": ["++hydra.job.env_set.CUDA_DEVICE_MAX_CONNECTIONS=1"],
    # a value is never carried to a field of another meaning, and nothing is offered at random
    "+ddp.num_buckets=4": [],
    "+precision.fp6=e2m3": [],
    "data_parallel_size=2": [],
    "nonsense=3": [],
    "comm_overlap=nonsense": [],
    "parallelism=true": [],
}  # fmt: skip

REFUSED = (
    "comm_overlap=tp4_h100 parallelism=tp8",
    "comm_overlap=tp4_h100 parallelism.tensor_model_parallel_size=2",
    "comm_overlap=tp8_h100 parallelism=tp4 parallelism.world_size=8",
    "comm_overlap=tp4_h100 platform=cpu",
    "comm_overlap=tp4_h100 parallelism.world_size=6",
    "comm_overlap=tp4_h100 parallelism.sequence_parallel=false",
    "comm_overlap=dp parallelism.world_size=1 comm_overlap.dp.overlap_grad_reduce=true",
    "comm_overlap=pp_interleaved model.num_layers=6",
    "comm_overlap=default comm_overlap.pp.overlap_p2p_comm=true parallelism.world_size=2",
    "experiment=llama3_8b_8gpu_h100_bf16 parallelism.tensor_model_parallel_size=3",
    "experiment=llama3_70b_64gpu_h100_bf16 parallelism.tensor_model_parallel_size=8",
)


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


def judged(words: list[str]) -> Verdict:
    return check(words)


def text(verdict: Verdict) -> str:
    """What is printed of the findings."""
    return "\n".join(render(finding) for finding in verdict.findings)


def errors(verdict: Verdict) -> list[Finding]:
    return [finding for finding in verdict.findings if finding.severity == "error"]


def reason(finding: Finding) -> tuple[str, tuple[str, ...]]:
    """What tells one stated reason from another: the rule, and the settings it names."""
    return finding.rule, tuple(map(str, finding.where))


def pasted(words: list[str], fix: Fix) -> list[str]:
    """The command as a user makes it of a fix: after all of it, or in place of what the fix names."""
    new = shlex.split(fix.override)
    if not fix.replaces:
        return [*words, *new]
    old = fix.replaces.split()
    for place in range(len(words)):
        if words[place : place + len(old)] == old:
            return [*words[:place], *new, *words[place + len(old) :]]
        if words[place].lstrip("+~").partition("=")[0] == fix.replaces:
            return [*words[:place], *new, *words[place + 1 :]]
    raise AssertionError(f"{fix.replaces} is no part of {words}")


def prove(words: list[str]) -> int:
    """Every fix of a command is accepted, or refused for another reason than before; -> how many there were."""
    before = judged(words)
    reasons = {reason(finding) for finding in errors(before)}
    tried = 0
    for finding in errors(before):
        for fix in finding.fixes:
            tried += 1
            after = judged(pasted(words, fix))
            again = reason(finding) in {reason(one) for one in errors(after)}
            assert after.exit_code == 0 or not again, f"{words}: {fix} -> {text(after)}"
            assert after.exit_code < 2, f"{words}: {fix} cannot be read: {text(after)}"
    assert before.exit_code == 0 or reasons, words
    return tried


@each("command", MEANT)
def test_what_was_meant_is_named_and_nothing_else(command: str) -> None:
    verdict = judged(shlex.split(command))
    assert verdict.exit_code > 0
    assert [fix.override for finding in errors(verdict) for fix in finding.fixes] == MEANT[command], text(verdict)


@each("command", [*MEANT, *REFUSED])
def test_every_fix_that_is_printed_works_when_it_is_pasted(command: str) -> None:
    prove(shlex.split(command))


@each("command", [command for command in REFUSED if "world_size" in command or "experiment" in command])
def test_no_fix_changes_the_number_of_gpus_where_another_fix_exists(command: str) -> None:
    for finding in errors(judged(shlex.split(command))):
        said = [
            token.partition("=")[2]
            for fix in finding.fixes
            for token in fix.override.split()
            if token.startswith(WORLD)
        ]
        ranks = {"experiment=llama3_70b_64gpu_h100_bf16": "64", "experiment=llama3_8b_8gpu_h100_bf16": "8"}
        asked = command.partition(f"{WORLD}=")[2].partition(" ")[0] or ranks.get(command.split()[0])
        others = [fix for fix in finding.fixes if f"{WORLD}=" not in fix.override or f"{WORLD}={asked}" in fix.override]
        assert not others or set(said) <= {asked}, finding.fixes


def test_fixes_of_commands_with_random_slips_work() -> None:
    """Letters lost, doubled, swapped, in another case, a dash for an underscore: in keys, groups and options."""
    random = Random(12)
    good = [
        "comm_overlap=tp4_h100", "parallelism=tp2_dp2", "precision=fp8_current", "precision=fp8_current_all_layers", "userbuffers=none", "platform=h100",
        "comm_overlap.dp.bucket_size=40000000", "training.micro_batch_size=2", "parallelism.sequence_parallel=false",
        "comm_overlap/dp=overlap", "model=llama3_8b", "optimizer.lr=0.001", "ddp.check_for_nan_in_grad=true",
        "experiment=llama3_8b_8gpu_h100_bf16", "comm_overlap.tp.tp_comm_overlap=false", "model.num_layers=8",
    ]  # fmt: skip
    tried = sum(prove([slipped(random, random.choice(good))]) for _ in range(30))
    assert tried > 15  # most slips are understood


def slipped(random: Random, override: str) -> str:
    """The override with one slip in its key or its value."""
    key, _, value = override.partition("=")
    if random.random() < 0.5 and value.isidentifier():
        return f"{key}={slip(random, value)}"
    return f"{slip(random, key)}={value}"


def slip(random: Random, word: str) -> str:
    place = random.randrange(1, len(word) - 1)
    lost = word[:place] + word[place + 1 :]
    doubled = word[:place] + word[place] + word[place:]
    swapped = word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
    return random.choice([lost, doubled, swapped, word.upper(), word.replace("_", "-", 1)])


def test_a_refused_preset_is_answered_with_presets_for_the_plans_own_tp_size() -> None:
    words = ["experiment=llama3_70b_64gpu_h100_bf16", "parallelism.tensor_model_parallel_size=8"]
    (finding,) = errors(judged(words))
    first, *_, last = finding.fixes
    assert finding.rule == "UB001"
    assert first.override == "userbuffers=bf16_h100_h16384_tp8_cp2_mbs1_seq8192"
    assert last.override == "parallelism.tensor_model_parallel_size=4 parallelism.world_size=64"
    assert "64 GPUs" in last.effect


def test_a_command_that_judges_one_plan_does_not_send_its_user_to_m() -> None:
    assert "-m comm_overlap" not in text(judged(["comm_overlap=dp,none"]))


def test_a_large_group_names_what_may_be_meant_and_where_all_are_listed() -> None:
    said = " ".join(text(judged(["experiment=llama3_70b"])).split())
    assert "experiment=llama3_70b_64gpu_h100_bf16 Llama 3 70B on 64 H100, bf16, TP4 PP4 VPP5 CP2" in said
    assert "deepseek" not in said and "`hydra-overlap explain experiment` lists them" in said


@pytest.mark.parametrize(("word", "known", "found"), [
    ("tp3", ["tp2", "tp8"], None), ("fp4", ["fp8"], None), ("h200", ["h100"], None), ("a100", ["h100"], None),
    ("pp", ["tp"], None), ("num_buckets", ["bucket_size"], None), ("fp16", ["bf16"], None),
    ("tp_comm_overlap_as", ["tp_comm_overlap_ag"], None), ("TP4-H100", ["tp4_h100"], "tp4_h100"),
    ("tp4h100", ["tp4_h100"], "tp4_h100"), ("seq8129", ["seq8192"], "seq8192"), ("all2all", ["alltoall"], "alltoall"),
    ("seq_len", ["seq_length"], "seq_length"), ("dmodel", ["d_model"], "d_model"), ("paralelism", ["parallelism"], "parallelism"),
])  # fmt: skip
def test_a_slip_is_a_slip_and_another_number_is_another_thing(word: str, known: list[str], found: str | None) -> None:
    assert nearest(word, known) == found


def test_every_name_is_the_nearest_to_itself_and_to_itself_in_capitals() -> None:
    for key in DEFAULTS:
        assert nearest(key, DEFAULTS) == key
        assert nearest(key.upper(), DEFAULTS) == key
        assert likely(key, DEFAULTS) == (key,)


def test_a_layout_without_an_option_is_said_in_sizes() -> None:
    assert meanings.layout_of("tp3_pp2_dp2") == (
        "parallelism.tensor_model_parallel_size=3 parallelism.pipeline_model_parallel_size=2 "
        "parallelism.sequence_parallel=true parallelism.world_size=12"
    )
    assert meanings.layout_of("tp") is None and meanings.layout_of("wide_tp3") is None
