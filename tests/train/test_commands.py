"""`train.py` as users start it: alone, under torchrun, refused, failing."""

import shutil
import sys
from pathlib import Path

import pytest

from hydra_overlap.launch import local, preflight
from hydra_overlap.launch import plan as plans
from hydra_overlap.megatron import rehearsal
from tests import ranks
from tests.plans import plan_of

TRAIN = Path(__file__).parents[2] / "train.py"


def test_the_default_job_learns_and_leaves_a_record_of_what_ran(train):
    run = train("training.train_iters=20")
    assert run.code == 0, run.output
    assert run.losses[-1] < run.losses[0] - 2
    assert [step["step"] for step in run.steps] == list(range(1, 21))
    assert "step time: median" in run.said and "says nothing about a GPU" in run.said
    assert list((run.folder / "tensorboard").iterdir())
    assert plans.load(run.folder / "plan.json").overrides[0] == "training=smoke"
    record = run.record
    assert (record["status"], record["steps"], record["world_size"], record["mode"]) == (
        "completed",
        20,
        2,
        "rehearsal",
    )
    assert record["loss"] == {"first": run.losses[0], "final": run.losses[-1]} and record["verdict"] == "in effect"
    assert record["step_ms"]["counted"] == 15 and record["tokens_per_s"] > 0 and 0.2 < record["peak_memory_gib"] < 4
    assert f"plan: {record['plan']}" in run.manifest["config"]


def test_the_terminal_shows_our_words_and_the_ranks_folder_what_libraries_print(train, tmp_path):
    run = train(
        f"data.cache_dir={tmp_path}/data", launcher=(sys.executable,)
    )  # where no tokens are yet: writing them needs megatron-core
    assert run.code == 0, run.output
    assert not any(word in run.said for word in ("Warning", "warn", "[INFO]", "site-packages")), run.output
    imports = (run.folder / "ranks/imports.log").read_text()
    assert "Transformer Engine and Apex are not installed" in imports
    assert not (run.folder / "ranks/0/stdout.log").exists()
    assert all((run.folder / f"ranks/{rank}/stderr.log").exists() for rank in (0, 1))


def test_the_manifest_tells_versions_ledger_settings_and_what_was_read_back(train):
    run = train()
    manifest = run.manifest
    assert manifest["versions"]["megatron-core"] and manifest["versions"]["torch"]
    assert "training.train_iters" not in manifest["overrides"] and "training=smoke" in manifest["overrides"]
    assert "comm_overlap:" in manifest["config"]
    rows = {row["field"]: row for row in manifest["ledger"]}
    assert rows["comm_overlap.dp.overlap_grad_reduce"]["rule"] == "DP101"
    assert manifest["settings"]["ddp_config"]["overlap_grad_reduce"] is True
    assert manifest["readback"]["buckets"][0][0] > 1
    assert manifest["readback"]["schedule"] == "no pipelining"


@pytest.mark.slow
def test_tp4_h100_is_judged_for_an_h100_and_rehearsed_on_four_ranks(train):
    run = train("comm_overlap=tp4_h100", "training.train_iters=5")
    assert run.code == 0, run.output
    assert "REHEARSAL on CPU" in run.said and "the plan is for h100" in run.said
    assert "userbuffers (TP overlap)" in run.said
    assert "starting 4 ranks" in run.said
    assert run.manifest["readback"]["env"] == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    assert run.losses[-1] < run.losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("comm_overlap=tp2_h100", "model=llama3_8b", "model.num_layers=2"),
        ("parallelism=ep2", "model=qwen3_30b_a3b", "model.num_layers=2"),
        ("parallelism=pp4", "model=llama3_70b", "model.num_layers=8"),
        ("comm_overlap=tp2_b200", "model=gpt3_175b", "model.num_layers=2"),
    ],
    ids=lambda overrides: " ".join(overrides[:2]),
)
def test_published_models_rehearse_at_shrunk_dimensions(train, overrides):
    run = train(*overrides)
    assert run.code == 0, run.output
    assert "tensor dimension" in run.said
    assert run.losses[-1] < run.losses[0]


@pytest.mark.slow
def test_joins_the_ranks_torchrun_started(train):
    torchrun = (shutil.which("torchrun", path=str(Path(sys.executable).parent)), "--standalone", "--nproc-per-node=2")
    run = train(launcher=torchrun)
    assert run.code == 0, run.output
    assert len(run.losses) == 5 and run.record["status"] == "completed"
    assert run.output.count("read back on every rank") == 1
    assert [path.name for path in run.folder.parent.iterdir()] == ["run"], "one output directory for all ranks"


def test_refuses_a_torchrun_of_another_size(train):
    torchrun = (shutil.which("torchrun", path=str(Path(sys.executable).parent)), "--standalone", "--nproc-per-node=1")
    run = train(launcher=torchrun)
    assert run.code == 1
    assert "torchrun started 1 ranks, but the plan is for 2" in run.said


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        (("parallelism.world_size=1024", "training.global_batch_size=1024"), "The plan starts 1024 ranks here"),
        (("data=text", "data.files=['missing/*.txt']"), "A data file does not exist"),
        (("optimizer.lr_warmup_iters=10",), "TRN003"),
        (("optimizer.lr=1e-5",), "TRN002"),
        (("model.num_layers=null",), "TRN001"),
        (("parallelism.context_parallel_size=2", "platform=h100"), "Context parallelism cannot be rehearsed"),
    ],
    ids=["too many ranks", "no data", "warm-up", "rates", "no model", "context parallelism"],
)
def test_what_this_machine_cannot_run_is_refused_and_leaves_nothing(train, overrides, title):
    run = train(*overrides)
    assert run.code == 1
    assert title in run.said and "Traceback" not in run.said
    assert not run.folder.exists()


def test_a_rank_that_dies_ends_the_run_with_its_name(train, tmp_path):
    text = ("data=text", f"data.files=[{TRAIN}]", f"data.cache_dir={tmp_path}/cache")
    assert train(*text).code == 0
    for file in (tmp_path / "cache").glob("*/text.bin"):
        file.unlink()
    run = train(*text)
    assert run.code == 1
    assert "failed first" in run.said and "Traceback" not in run.said
    assert run.record["status"] == "failed" and "failed first" in run.record["error"] and run.record["steps"] == 0


SABOTAGE = """
import sys
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
from hydra_overlap.megatron import build

original = build.build
def sabotaged(plan):
    built = original(plan)
    {change}
    return built
build.build = sabotaged
local.as_rank(train.train, local.plan_of_this_rank())
"""


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("built.model[0].ddp_config.overlap_grad_reduce = False", "DistributedDataParallelConfig.overlap_grad_reduce"),
        ("built.config.batch_p2p_comm = True", "TransformerConfig.batch_p2p_comm of chunk 0 is true, promised false"),
        ("built.config.no_sync_func = None", "TransformerConfig.no_sync_func is not set, promised set"),
    ],
    ids=["ddp", "transformer", "wiring"],
)
def test_a_promise_that_the_objects_break_stops_the_run_before_the_first_step(tmp_path, change, difference):
    plan = plan_of("training=smoke", "data=mock", output_dir=tmp_path)
    environment = preflight.rank_environment(plan, 2)
    script = tmp_path / "sabotaged.py"
    script.write_text(SABOTAGE.format(root=str(TRAIN.parent), change=change))
    with pytest.raises(local.RankError) as failure:
        ranks.start(rehearsal.rehearse(plan), str(script), environment)
    assert difference in str(failure.value)
    assert "rank 0" in str(failure.value) and "rank 1" in str(failure.value)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_promised_variable_that_a_rank_lacks_stops_the_run(tmp_path):
    plan = rehearsal.rehearse(plan_of("training=smoke", "data=mock", "platform=h100", output_dir=tmp_path))
    environment = {**preflight.rank_environment(plan, 2), "CUDA_DEVICE_MAX_CONNECTIONS": "2"}
    with pytest.raises(local.RankError, match="environment CUDA_DEVICE_MAX_CONNECTIONS is 2, promised 8"):
        ranks.start(plan, str(TRAIN), environment)
