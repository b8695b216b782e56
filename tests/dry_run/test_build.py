"""A dry run: its numbers and calls against real ranks and published formulas, its refusals, and what it costs.

The fake world stays in a process, so dry runs are commands here.
"""

import json
import os
import re
from types import SimpleNamespace

import pytest

from hydra_overlap import LaunchError, dotted
from hydra_overlap.dry_run import activations, build, holdings
from hydra_overlap.megatron import rehearsal
from tests import needs, ranks, warm
from tests.plans import plan_of
from tests.train.conftest import ROOT

SMALL = ("training=smoke", "data=mock", "platform=cpu")
BIG = "experiment=llama31_405b_512gpu_h100_bf16"

RECOMPUTE = ("model.recompute_granularity=full", "model.recompute_method=uniform", "model.recompute_num_layers=1")
LAYOUTS = [
    (2, "parallelism=dp2", "comm_overlap.dp.bucket_size=60000"),
    (4, "parallelism=pp2_vpp2_dp2", "comm_overlap.dp.bucket_size=60000"),
    (4, "parallelism=tp2_pp2", "model.share_embeddings_and_output_weights=true", "precision=bf16_grads", *RECOMPUTE),
    (2, "parallelism=dp2", "ddp=replicated", "optimizer=adam_replicated", "precision=fp32"),
    (
        2,
        "parallelism=ep2",
        "model.num_moe_experts=4",
        "model.moe_token_dispatcher_type=alltoall",
        "comm_overlap/ep=a2a",
    ),
]
UNBALANCED = ("all-to-all",)  # operations whose sizes follow the router; a dry run's router is balanced


def started(folder, *overrides):
    """`python train.py launch.dry_run=true OVERRIDES`, warm."""
    command = [ROOT / "train.py", "launch.dry_run=true", f"hydra.run.dir={folder}", *overrides]
    return warm.run(command, cwd=folder, timeout=600, modules=warm.TRAINER)


def dry(folder, *overrides):
    """The same -> (exit code, output, dry_run.json or None)."""
    done = started(folder, *overrides)
    file = folder / "dry_run.json"
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text()) if file.exists() else None


def real(folder, number, *overrides):
    """What each real rank holds after a step, from real_ranks.py."""
    plan = rehearsal.rehearse(plan_of(*overrides, output_dir=folder))
    script = ROOT / "tests/dry_run/real_ranks.py"
    ranks.start(plan, str(script), {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(number)]


def counted(rows):
    """{(operation, group, ranks, bytes): times}; groups of one move nothing."""
    return {
        (operation, group.replace("_GROUP", "").replace("_", " ").lower(), ranks, size): times
        for operation, group, ranks, size, times in rows
        if ranks > 1
    }


def total(calls, operation):
    """(calls, bytes) of a step."""
    found = [(times, times * key[3]) for key, times in calls.items() if key[0] == operation]
    return tuple(map(sum, zip(*found, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: " ".join(layout[1:]))
def test_says_of_every_rank_what_the_real_one_holds_and_calls(layout, tmp_path):
    number, *overrides = layout
    named = f"launch.dry_run_ranks=[{','.join(map(str, range(number)))}]"
    code, output, found = dry(tmp_path, *SMALL, *overrides, named)
    assert code == 0, output
    real_ones = real(tmp_path, number, *SMALL, *overrides)
    for said, one in zip(found["ranks"], real_ones, strict=True):
        is_so = one["held"]
        assert [{key: chunk[key] for key in is_so["chunks"][0]} for chunk in said["chunks"]] == is_so["chunks"]
        assert {key: said[key] for key in is_so if key != "chunks"} == {k: v for k, v in is_so.items() if k != "chunks"}
    everyone = [counted(one["calls"]) for one in real_ones]
    per_stage = number // len(found["stages"])
    for stage in found["stages"]:
        said = counted([r["operation"], r["group"], r["ranks"], r["bytes"], r["times"]] for r in stage["collectives"])
        members = everyone[stage["stage"] * per_stage :][:per_stage]
        for one in members:  # any rank of the stage
            assert even(one) == even(said)
        for operation in {key[0] for key in said} & set(UNBALANCED):
            sums = [total(one, operation) for one in members]
            assert total(said, operation) == (sums[0][0], sum(size for _, size in sums) // len(sums))


def even(calls):
    return {key: times for key, times in calls.items() if key[0] not in UNBALANCED}


@pytest.mark.slow
def test_a_model_of_405_billion_parameters_on_16384_ranks_takes_seconds_and_no_memory(tmp_path):
    """Minutes of CPU time at most, of which a busy or slow machine needs more than an idle one."""
    world = 16384
    done = started(tmp_path, BIG, f"parallelism.world_size={world}", "training.global_batch_size=2048")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    found = json.loads((tmp_path / "dry_run.json").read_text())
    peak = float(re.search(r"s to build, ([\d.]+) GiB", output)[1])
    assert 0 < done.cpu_s < 300
    assert peak < 4
    assert [one["rank"] for one in found["ranks"]] == [
        r for s in range(8) for r in (s * world // 8, (s + 1) * world // 8 - 1)
    ]
    stages = {one["stage"]: one["parameters"] for one in found["ranks"]}
    assert sum(stages.values()) * 8 == pytest.approx(405.85e9, rel=1e-3)  # TP8; vocabulary padded, norms repeated
    assert found["padded_vocab_size"] == 129024


def test_prints_the_verdict_and_tags_numbers_as_computed(tmp_path):
    code, output, found = dry(tmp_path, *SMALL, "platform=h100", "parallelism=pp2", "training.global_batch_size=16")
    assert code == 0, output
    assert "DRY RUN of 2 ranks" in output
    assert re.search(
        r"fits: rank 0 \(stage 0\) needs the most, 1\.\d of 79\.2 GiB usable, \d%: [\d.]+ MiB counted and 1\.\d GiB assumed",
        " ".join(output.split()),
    )
    said = " ".join(output.split())
    assert "assumed, not measured: 1% of the GPU's memory kept by the driver, 1.2 GiB for the CUDA context" in said
    assert found["fit"]["verdict"] == "fits"
    assert found["origin"] == "computed"
    assert [one["in_flight"] for one in found["ranks"]] == [[2], [1]]  # 1F1B: as many as stages from here to the last
    assert all(one["num_microbatches"] == 16 for one in found["ranks"])


def test_a_sweep_of_dry_runs_says_of_each_point_whether_it_fits_and_compares_them_in_one_table(tmp_path):
    done = started(
        tmp_path, "hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}", "parallelism=tp1,pp2", *SMALL, "platform=h100"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nfits: rank 0 ") == 2
    assert "memory of a rank" not in done.stdout and "accepted:" not in done.stdout  # each point's files have the rest
    assert "bubble %" in done.stdout.partition("#1 completed")[2]
    assert all((tmp_path / number / name).exists() for number in "01" for name in ("dry_run.json", "schedule.html"))


def test_refuses_a_rank_beyond_the_world_without_a_traceback(tmp_path):
    code, output, found = dry(tmp_path, *SMALL, "launch.dry_run_ranks=[0,7]")
    assert (code, found) == (1, None)
    assert "TRN012  A dry run names a rank that the plan does not have" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (("model.num_layers=125",), "PAR017"),
        (("model.num_attention_heads=100",), "PAR006"),
        (("training.global_batch_size=100",), "PAR010"),
        (("launch.dry_run_ranks=[first]",), "CFG002"),
    ],
)
def test_wrong_arithmetic_is_refused_before_anything_is_built(overrides, rule, tmp_path):
    code, output, found = dry(tmp_path, BIG, *overrides)
    assert (code, found) == (1, None)
    assert rule in output
    assert "Traceback" not in output


def test_what_megatron_core_refuses_is_a_launch_error_with_its_place():
    with pytest.raises(LaunchError) as refusal, build._refusing(plan_of(), "rank 3"):
        raise AssertionError("hidden size must divide")
    text = str(refusal.value)
    assert "megatron-core does not build rank 3 of this plan" in text
    assert "AssertionError: hidden size must divide" in text
    assert "parallelism.world_size=2" in text
    assert "test_build.py:" in text


def test_builds_the_first_and_last_rank_of_every_stage():
    assert build.ranks_to_build(plan_of("parallelism=pp2_vpp2_dp2")) == (0, 1, 2, 3)
    assert build.ranks_to_build(plan_of("parallelism=tp1")) == (0,)
    assert build.ranks_to_build(plan_of("launch.dry_run=true", "launch.dry_run_ranks=[1,0,1]")) == (0, 1)


MOE = ("model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall")
VPP4 = ("parallelism=pp4", "parallelism.virtual_pipeline_model_parallel_size=2", "model.num_layers=8")
VPP2_EP2 = ("parallelism=pp2_vpp2", "parallelism.expert_model_parallel_size=2", "parallelism.world_size=4")
RECORDED = [  # layout, microbatches, whether events are the same one for one, bubble by the formula
    (("parallelism=dp2", "training.global_batch_size=10"), 5, True, 0),
    (("parallelism=tp2_pp2", "training.global_batch_size=6", *RECOMPUTE), 6, True, 1 / 6),
    (("parallelism=pp4", "training.global_batch_size=12"), 12, True, 3 / 12),
    (("parallelism=pp4", "training.global_batch_size=2"), 2, True, 3 / 2),  # never a full pipeline
    (("parallelism=pp2_vpp2_dp2", "training.global_batch_size=16"), 8, True, 1 / (8 * 2)),
    (
        (*VPP4, "training.global_batch_size=12", "comm_overlap/pp=interleaved"),
        12,
        True,
        3 / (12 * 2),
    ),
    (("parallelism=ep2", *MOE, "training.global_batch_size=10"), 5, True, 0),
    # Combined forwards and backwards are recorded apart; one microbatch more warms up, which costs no time by the model.
    (("parallelism=ep2", *MOE, "training.global_batch_size=10", "comm_overlap/ep=a2a"), 5, False, 0),
    (
        (*VPP2_EP2, *MOE, "training.global_batch_size=16", "comm_overlap/ep=a2a"),
        8,
        False,
        None,
    ),
]


@pytest.mark.slow
def test_repeating_microbatches_records_what_running_all_of_them_does_and_bubbles_follow_the_formula(tmp_path):
    """Formulas: Narayanan et al. 2021, arXiv:2104.04473, sections 2.2.1 and 2.2.2: (p - 1) / m and (p - 1) / (m v)."""
    requests = json.dumps([[*SMALL, *overrides] for overrides, *_ in RECORDED])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = ROOT / "tests/dry_run/recordings.py"
    done = warm.run([script], input=requests, cwd=tmp_path, env=environment, timeout=600, modules=warm.TRAINER)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for (overrides, microbatches, same_events, bubble), one in zip(RECORDED, found, strict=True):
        assert one["works"] % (2 * microbatches) == 0, overrides
        assert one["calls"] > 0, overrides
        assert one["same_calls"], overrides
        assert one["same_order"], overrides
        assert one["same_events"] is same_events, overrides
        assert bubble is None or one["bubble"] == pytest.approx(bubble), (overrides, one["sentence"])


# activations: the sums of Korthikanti et al. 2022, for the model they are made for


def paper_request(tp=1, sequence_parallel=False, **model):
    """GPT-3 as in the paper: multi-head attention, feed-forward of 4 x hidden, GELU, dropout, 16 bits."""
    layout = {"tensor_model_parallel_size": tp, "sequence_parallel": sequence_parallel}
    said = {"parallelism": layout, "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1, **model}}
    return plan_of("model=gpt3_175b").with_values(dotted.flatten(said)).request


S, B, H, A = 2048, 4, 12288, 96


@pytest.mark.parametrize(
    ("tp", "sequence_parallel", "per_sbh"),
    [(1, False, 34), (8, False, 10 + 24 / 8), (8, True, 34 / 8)],  # table 2, scores recomputed or never kept
)
def test_a_layer_keeps_what_the_paper_says(tp, sequence_parallel, per_sbh):
    request = paper_request(tp, sequence_parallel)
    request.training.micro_batch_size = B
    assert activations.layer(request).everything == S * B * H * per_sbh


def test_attention_that_keeps_its_scores_adds_what_the_paper_says(monkeypatch):
    request = paper_request(8, True)
    request.training.micro_batch_size = B
    without = activations.layer(request).everything
    monkeypatch.setattr(activations, "keeps_scores", lambda request: True)
    assert activations.layer(request).everything - without == 5 * A * S * S * B // 8


def test_full_recomputation_keeps_the_input_of_each_block():
    request = paper_request(1, False, recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    request.training.micro_batch_size = B
    one = activations.layer(request)
    assert one.entry == 2 * S * B * H
    assert activations.rank_bytes(request, [12], [3], first=False, last=False) == 3 * 12 * one.entry + one.everything


def test_context_parallelism_splits_the_sequence():
    request = paper_request()
    whole = activations.layer(request).everything
    request.parallelism.context_parallel_size = 2
    assert activations.layer(request).everything == whole // 2


@needs.IN_PROCESS
def test_the_interleaved_schedule_keeps_what_the_paper_says(monkeypatch):
    """Korthikanti et al. 2022, 4.2.3: the first stage keeps (1 + (p - 1) / (p m)) times the layers of p stages."""
    schedules = pytest.importorskip("megatron.core.pipeline_parallel.schedules")
    stages, chunks = 4, 2
    warm_up = (stages - 1) * 2 + (chunks - 1) * stages
    monkeypatch.setattr(schedules, "get_pp_rank_microbatches", lambda m, *_, **__: (m * chunks, False, warm_up, 0))
    config = SimpleNamespace(microbatch_group_size_per_vp_stage=stages, overlap_moe_expert_parallel_comm=False)
    held = holdings.in_flight(config, 16, [1, 1])
    assert sum(held) / chunks == stages * (1 + (stages - 1) / (stages * chunks))
