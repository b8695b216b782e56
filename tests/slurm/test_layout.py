"""What `launch=slurm` decides before anything is queued: nodes, tasks, GPUs, and the batch script; no Slurm needed."""

import dataclasses

import pytest

from hydra_overlap import LaunchError, check
from hydra_overlap.launch import preflight, requeue, slurm
from hydra_overlap.launch.slurm_layout import laid_out as layout_of
from tests import hostile
from tests.plans import plan_of

H100 = ("launch=slurm", "platform=h100", "training.global_batch_size=64")


@pytest.fixture
def installed(monkeypatch):
    """The versions a plan for a GPU was judged for are those of this environment."""
    monkeypatch.setattr(preflight, "other_versions", lambda plan: [])


def laid_out(*overrides):
    return layout_of(plan_of(*overrides)).request.launch.slurm


def counts(*overrides):
    found = laid_out(*overrides)
    return found.nodes, found.tasks_per_node, found.gpus_per_node


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("parallelism.world_size=16",), (2, 8, 8)),
        (("parallelism.world_size=4",), (1, 4, 4)),
        (("parallelism.world_size=16", "launch.slurm.nodes=4"), (4, 4, 4)),
        (("parallelism.world_size=16", "launch.slurm.tasks_per_node=2"), (8, 2, 2)),
        (("parallelism.world_size=16", "launch.slurm.gpus_per_node=0"), (2, 8, 0)),
        (("parallelism.world_size=4", "platform=cpu"), (1, 4, 0)),
        (("parallelism.world_size=4", "platform=cpu", "launch.slurm.nodes=2"), (2, 2, 0)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_nodes_tasks_and_gpus_follow_from_ranks_and_platform(installed, overrides, expected):
    assert counts(*H100, *overrides) == expected


@pytest.mark.parametrize(
    ("overrides", "rule", "fix"),
    [
        (("parallelism.world_size=12",), "TRN013", "launch.slurm.nodes=2 launch.slurm.tasks_per_node=6"),
        (("parallelism.world_size=16", "launch.slurm.tasks_per_node=16"), "TRN015", "launch.slurm.tasks_per_node=8"),
        (("parallelism.world_size=8", "launch.slurm.gpus_per_node=4"), "TRN015", "launch.slurm.tasks_per_node=4"),
        (("platform=cpu", "launch.slurm.gpus_per_node=2"), "TRN014", "launch.slurm.gpus_per_node=0"),
    ],
)
def test_refuses_what_does_not_fit_with_overrides_that_do(overrides, rule, fix):
    found = check([*H100, "training.global_batch_size=192", *overrides])
    assert [finding.rule for finding in found.findings] == [rule]
    assert fix in [one.override for one in found.findings[0].fixes]
    assert check([*H100, "training.global_batch_size=192", *overrides, *fix.split()]).exit_code == 0


def test_its_fix_for_ranks_that_fill_no_whole_node_is_taken(installed):
    fix = ("launch.slurm.nodes=2", "launch.slurm.tasks_per_node=6")
    assert counts(*H100, "parallelism.world_size=12", "training.global_batch_size=192", *fix) == (2, 6, 6)


def test_refuses_a_plan_judged_for_versions_that_its_job_will_not_have(monkeypatch):
    monkeypatch.setattr(preflight, "other_versions", lambda plan: ["software.torch=2.11.0, here 2.13.0"])
    monkeypatch.setattr(preflight, "installed_software", lambda: {"torch": "2.13.0", "transformer_engine": None})
    with pytest.raises(LaunchError, match="judged for versions other") as refusal:
        preflight.require_versions_of_job(layout_of(plan_of(*H100)))
    assert "software.torch=2.13.0 software.transformer_engine=null" in str(refusal.value)


@pytest.mark.parametrize("gpus_here", [(), ("NVIDIA H100 80GB HBM3",)], ids=["login node", "workstation"])
def test_the_machine_it_is_submitted_from_does_not_decide_between_gpus_and_a_rehearsal(
    installed, monkeypatch, gpus_here
):
    monkeypatch.setattr(preflight, "gpu_names", lambda: gpus_here)
    assert not preflight.rehearses(layout_of(plan_of(*H100)))
    assert preflight.rehearses(layout_of(plan_of(*H100, "launch.slurm.gpus_per_node=0")))


def test_a_node_without_the_gpus_asked_for_is_refused(installed, monkeypatch):
    monkeypatch.setattr(preflight, "gpu_names", lambda: ())
    with pytest.raises(LaunchError, match="Slurm gave a node without a GPU"):
        preflight.require_ready(layout_of(plan_of(*H100)), 1)


def test_the_batch_script_says_what_was_asked_and_nothing_else(installed, tmp_path):
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    asked = ("account=team", "time_min=30", "cpus_per_task=4", "options=['--constraint=ib','--exclusive']", "stop_s=60")
    plan = layout_of(plan_of(*H100, *(f"launch.slurm.{one}" for one in asked), "launch.slurm.setup=['module load x']"))
    script = _make_sbatch_string("COMMAND", tmp_path, **slurm.parameters(plan))
    options = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    ours = {option for option in options if not option.startswith(("output", "error", "open-mode", "wckey"))}
    assert ours == {
        "account=team", "constraint=ib", "cpus-per-task=4", "exclusive", "gpus-per-node=2", "job-name=hydra-overlap",
        "nodes=1", "ntasks-per-node=2", "requeue", "signal=USR1@60", "time=30",
    }  # fmt: skip
    assert "module load x\n" in script
    assert "--kill-on-bad-exit=1 --cpus-per-task=4 COMMAND" in script


def test_no_value_of_a_job_becomes_a_line_of_its_batch_script(installed, tmp_path):
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    plan = layout_of(plan_of(*H100))
    asked = {f"launch.slurm.{name}": " ".join(hostile.ONE_LINE) for name in ("partition", "account", "qos")}
    asked["launch.slurm.options"] = [f"--comment{number}={text}" for number, text in enumerate(hostile.ONE_LINE)]
    values = slurm.parameters(plan.with_values(asked))
    script = _make_sbatch_string("true", tmp_path / "$(touch PWNED) 'x'", use_srun=False, **values)
    assert all(line.startswith(("#", "export SUBMITIT_EXECUTOR", "true")) for line in script.splitlines() if line)
    assert hostile.bash(tmp_path, script) == b""


def test_a_folder_that_would_end_a_line_of_the_batch_script_is_refused(installed, tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(LaunchError, match="line break"):
        slurm.submit(dataclasses.replace(layout_of(plan_of(*H100)), output_dir=str(tmp_path / "a\ntouch PWNED")), print)


def test_the_time_limit_is_the_partitions_unless_it_is_asked_for(installed, tmp_path):
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    assert "--time" not in _make_sbatch_string("COMMAND", tmp_path, **slurm.parameters(layout_of(plan_of(*H100))))


def test_without_slurms_commands_nothing_is_submitted(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="Slurm's commands are not on PATH") as refusal:
        preflight.require_submittable(plan_of("launch=slurm"), None, sweeping=False)
    assert "launch=local" in str(refusal.value)


def test_without_submitit_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="not installed") as refusal:
        preflight.require_submittable(plan_of("launch=slurm"), None, sweeping=False)
    assert "pip install 'submitit>=1.5'" in str(refusal.value)


def test_a_sweep_of_jobs_nobody_waits_for_is_refused():
    with pytest.raises(LaunchError, match="would not wait for its runs") as refusal:
        preflight.require_submittable(plan_of("launch=slurm"), None, sweeping=True)
    assert "launch=local hydra/launcher=submitit_slurm" in str(refusal.value)


def test_a_job_is_not_submitted_from_inside_a_job(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(LaunchError, match="already runs inside a job"):
        preflight.require_submittable(plan_of("launch=slurm"), None, sweeping=False)


def test_only_a_job_started_again_goes_on_from_where_it_saved(monkeypatch, tmp_path):
    plan = plan_of(f"checkpoint.save={tmp_path}")
    assert requeue.resumed(plan).request.checkpoint.load is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeue.resumed(plan).request.checkpoint.load is None, "nothing was saved yet"
    (tmp_path / "iter_0000004").mkdir()
    (tmp_path / "iter_0000004" / "state.json").write_text("{}")
    assert requeue.resumed(plan).request.checkpoint.load == str(tmp_path)
    assert plan.request.checkpoint.load is None


def test_the_first_cause_is_the_last_exception_of_a_traceback_with_all_its_lines():
    trace = (
        "Job (task=1) failed during processing with trace:\n----------------------\nTraceback (most recent call last):\n"
        '  File "a.py", line 1, in run\n    train()\n    ~~~~~^^\nValueError: first line\nsecond line\n\n'
        "----------------------\nYou can check full logs"
    )
    assert slurm._cause(trace) == "ValueError: first line\nsecond line"
