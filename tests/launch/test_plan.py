"""A plan survives its file unchanged, and a file of another version is refused in words."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_overlap.errors import LaunchError
from hydra_overlap.launch import plan as plans
from hydra_overlap.megatron import rehearsal
from tests.plans import plan_of

BIG = (
    "comm_overlap=tp4_h100",
    "model=llama3_8b",
    "training.micro_batch_size=1",
)  # with findings, userbuffers, derived values


@pytest.fixture
def file(tmp_path):
    """`file(change)`: plan.json after `change` was made to what it holds."""

    def write(change):
        path = plans.save(plan_of(*BIG, output_dir=tmp_path))
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        return path

    return write


NUMBERED = ("comm_overlap.dp.bucket_size=25",)  # with a finding about a number


@pytest.mark.parametrize("overrides", [(), BIG, NUMBERED])
def test_a_plan_is_what_was_saved_whether_rehearsed_or_not(overrides, tmp_path):
    plan = plan_of(*overrides, output_dir=tmp_path)
    for one in (plan, rehearsal.rehearse(plan)):
        assert plans.load(plans.save(one)) == one
        assert plans.as_data(plans.load(plans.save(one))) == plans.as_data(one)


def test_the_typed_request_says_what_the_nested_one_does():
    plan = plan_of(*BIG)
    assert dataclasses.asdict(plan.request) == plan.resolution.request


def test_a_whole_number_stays_one_where_any_number_may_stand():
    """It is shown as it was written: `nodes=2`, not 2.0."""
    shown = plan_of().with_values({"launch.distributed_timeout_minutes": 10}).request.launch.distributed_timeout_minutes
    assert type(shown) is int


def test_another_plan_is_made_and_the_first_stays_as_it_is():
    plan = plan_of(*BIG)
    other = plan.with_values({"model.hidden_size": 64, "launch.slurm.nodes": 2})
    assert (other.request.model.hidden_size, other.request.launch.slurm.nodes) == (64, 2)
    assert (plan.request.model.hidden_size, plan.request.launch.slurm.nodes) == (4096, None)
    changed = plan.with_settings({"ddp_config": {"bucket_size": 7}})
    assert changed.resolution.ddp_config == {**plan.resolution.ddp_config, "bucket_size": 7}
    assert changed.resolution.transformer_config == plan.resolution.transformer_config


def test_what_the_request_of_a_file_does_not_say_is_the_default(file):
    plan = plans.load(file(lambda data: data["request"]["training"].pop("log_interval")))
    assert plan.request.training.log_interval == plan.resolution.request["training"]["log_interval"] == 1


def test_infinity_survives_the_file(tmp_path):
    plan = plan_of(output_dir=tmp_path).with_values({"training.spike_grad_norm": float("inf")})
    assert plans.load(plans.save(plan)).request.training.spike_grad_norm == float("inf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["request"]["model"].update(depth=3, width=4), "unknown depth, width: plan.request.model"),
        (lambda data: data["request"]["launch"]["slurm"].update(gres="gpu"), "unknown gres: plan.request.launch.slurm"),
        (lambda data: data.update(seed=1), "unknown seed: plan"),
        (lambda data: data.pop("began"), "missing: plan.began"),
        (lambda data: data.pop("request"), "missing: plan.resolution.request"),
        (lambda data: data.pop("resolution"), "missing: plan.resolution.ledger"),
        (lambda data: data["resolution"].pop("ledger"), "missing: plan.resolution.ledger"),
        (lambda data: data["request"]["training"].update(seed="one"), "'one' is no int: plan.request.training.seed"),
    ],
)
def test_a_plan_of_another_version_is_refused_and_says_what_differs(file, change, said):
    path = file(change)
    with pytest.raises(LaunchError, match="was not written by this version") as refusal:
        plans.load(path)
    assert said in " ".join(str(refusal.value).split())
    assert str(path) in str(refusal.value)


def test_cattrs_is_imported_where_a_plan_is_read_and_not_where_a_configuration_is_only_judged():
    code = "import sys, train; from hydra_overlap.launch import preflight, slurm; sys.exit('cattrs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_plan_that_is_not_what_was_composed_or_cannot_be_read_is_refused(tmp_path):
    path = plans.save(plan_of(output_dir=tmp_path))
    expected = plans.checksum(path)
    assert plans.load(path, expected).output_dir == str(tmp_path)
    plans.save(plan_of("training.seed=2", output_dir=tmp_path))
    with pytest.raises(LaunchError, match="not the plan that was composed for this run"):
        plans.load(path, expected)
    for content in (b"", b"[1]", b"\xff\xfe", b"{"):
        path.write_bytes(content)
        with pytest.raises(LaunchError, match="The plan cannot be read"):
            plans.load(path)
    with pytest.raises(LaunchError, match="The plan cannot be read"):
        plans.load(tmp_path / "absent.json")
