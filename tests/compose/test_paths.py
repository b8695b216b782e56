"""Every way a config is composed judges it: run, --cfg, -m, hydra.compose(), and other people's apps."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from hydra_overlap import GatingError
from hydra_overlap.compose.enforce import PLAN_VARIABLE, judged, refusal_in
from tests.compose.commands import APPS, JOB, Compose, Run, assert_refused, rules_of, what_the_job_saw

FOREIGN = APPS / "foreign.py"
SEQUENCE_PARALLEL_OFF = ("comm_overlap=tp4_h100", "parallelism.sequence_parallel=false")


# run


def test_a_legal_request_runs_with_its_environment_exported(run: Run) -> None:
    done = run(JOB, "comm_overlap=tp4_h100")
    (job,) = what_the_job_saw(done.stdout)
    assert done.returncode == 0
    assert job["tp"] == 4
    assert job["tp_comm_overlap"] is True
    assert job["env"] == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    assert job["exported"]["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert len(job["exported"][PLAN_VARIABLE]) == 16


def test_an_illegal_request_is_refused_by_the_command_and_leaves_nothing_behind(
    script: Path, run: Run, tmp_path: Path
) -> None:
    done = run(script, *SEQUENCE_PARALLEL_OFF)
    assert_refused(done, "TP002")
    assert "parallelism.sequence_parallel=true" in done.stderr.partition("fix")[2]
    assert list(tmp_path.iterdir()) == []


def test_choices_on_the_command_line_win_over_the_bundle(run: Run) -> None:
    done = run(JOB, "comm_overlap=tp4_h100", "model=llama3_8b", "parallelism=tp8", "userbuffers=none")
    (job,) = what_the_job_saw(done.stdout)
    assert job["tp"] == 8


def test_a_dimension_switched_off_on_the_command_line_is_off_in_the_answer(composed: Compose) -> None:
    asked = composed("comm_overlap=dp").overlap.effective.ddp_config
    switched_off = composed("comm_overlap=dp", "comm_overlap/dp=none").overlap.effective.ddp_config
    assert (asked.overlap_grad_reduce, switched_off.overlap_grad_reduce) == (True, False)


def test_another_tp_size_reaches_the_rules_that_refuse_its_preset(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("comm_overlap=tp4_h100", "model=llama3_8b", "parallelism=tp8")
    assert rules_of(error) == ["UB001"]


def test_an_experiment_file_picks_a_bundle_and_changes_its_layout(composed: Compose, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /comm_overlap: tp4_h100, override /parallelism@_global_.parallelism: tp2,"
        " override /userbuffers@_global_.userbuffers: none]\n"
    )
    (tmp_path / "host.yaml").write_text("defaults: [config, _self_]\n")
    chosen: Any = {"config_name": "host", "config_dir": tmp_path, "extends": True}
    assert composed("experiment=mine", **chosen).parallelism.tensor_model_parallel_size == 2
    assert composed("experiment=mine", "parallelism=tp4", **chosen).parallelism.tensor_model_parallel_size == 4


def test_bridge_mode_composes_what_bridge_would_run_and_says_what_it_switched_off(composed: Compose) -> None:
    cfg = composed("gating=bridge", "comm_overlap=tp4_h100", "parallelism=tp1")
    assert cfg.overlap.effective.transformer_config.tp_comm_overlap is False
    assert any("TP overlap is switched off" in note for note in cfg.overlap.notes)
    assert judged(cfg).gating == "bridge"


# --cfg


@pytest.mark.parametrize("flags", [("--cfg", "job"), ("--cfg", "hydra"), ("--cfg", "all", "--resolve")])
def test_showing_an_illegal_config_is_refused(run: Run, flags: tuple[str, ...]) -> None:
    assert_refused(run(JOB, *SEQUENCE_PARALLEL_OFF, *flags), "TP002")


def test_showing_a_config_shows_effective_values_and_launch_environment(script: Path, run: Run) -> None:
    done = run(script, "comm_overlap=tp4_h100", "--cfg", "job", "--resolve")
    overlap = OmegaConf.create(done.stdout).overlap
    assert overlap.effective.transformer_config.tp_comm_overlap_ag is True
    assert overlap.effective.userbuffers.qkv_fprop.method == "ring_exchange"
    assert overlap.effective.world_size == 4
    assert overlap.env == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


def test_the_environment_of_the_plan_is_what_hydra_exports(run: Run) -> None:
    done = run(JOB, "comm_overlap=tp4_h100", "--cfg", "hydra", "-p", "hydra.job.env_set")
    shown = OmegaConf.create(done.stdout)
    assert shown.CUDA_DEVICE_MAX_CONNECTIONS == "1"
    assert len(shown[PLAN_VARIABLE]) == 16


@pytest.mark.parametrize("flag", ["--help", "--info=config", "--info=searchpath"])
def test_help_and_info_on_an_illegal_config_end_in_the_message(run: Run, flag: str) -> None:
    done = run(JOB, *SEQUENCE_PARALLEL_OFF, flag)
    assert_refused(done, "TP002")


def test_help_lists_groups_and_options(script: Path, run: Run) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "Every overlap decided by the layout" in done.stdout


# -m


ONE_BAD_POINT = ("-m", "comm_overlap=tp4_h100", "parallelism=tp4,tp1", "userbuffers=none")


def test_a_sweep_with_one_bad_point_says_so_before_any_job_and_runs_the_others(run: Run) -> None:
    done = run(JOB, *ONE_BAD_POINT)
    assert done.returncode == 0, done.stderr
    assert [job["tp"] for job in what_the_job_saw(done.stdout)] == [4]
    assert "2 points: 1 run, 1 refused." in done.stdout.partition("TASK RAN")[0]
    assert "refused  TP001" in done.stdout.partition("TASK RAN")[0]


def test_a_sweep_may_ask_to_be_refused_as_a_whole_for_one_bad_point(script: Path, run: Run, tmp_path: Path) -> None:
    done = run(script, *ONE_BAD_POINT, "hydra.sweeper.on_invalid=refuse")
    assert_refused(done, "TP001")
    assert "refused in the job: comm_overlap=tp4_h100 parallelism=tp1 userbuffers=none" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_sweeper_still_refuses_a_bad_point_before_any_job(run: Run, tmp_path: Path) -> None:
    done = run(JOB, *ONE_BAD_POINT, "hydra/sweeper=basic")
    assert_refused(done, "TP001")
    assert "refused in the job: comm_overlap=tp4_h100 parallelism=tp1 userbuffers=none" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_whose_config_is_illegal_without_its_values_runs(run: Run) -> None:
    fixed = ("comm_overlap/tp=userbuffers", "platform=h100", "model=llama3_8b")
    done = run(JOB, "-m", *fixed, "parallelism=tp4,tp8")
    assert [job["tp"] for job in what_the_job_saw(done.stdout)] == [4, 8], done.stderr
    assert_refused(run(JOB, *fixed), "TP001")


@pytest.fixture
def sweep_in_yaml(tmp_path: Path) -> Path:
    (tmp_path / "swept.yaml").write_text(
        "defaults: [config, override platform: h100, override comm_overlap/tp: userbuffers, _self_]\n"
        "hydra: {sweeper: {params: {parallelism: 'tp2,tp4'}}}\n"
    )
    return tmp_path


def test_a_sweep_written_in_yaml_runs_though_its_config_is_illegal_without_its_values(
    run: Run, sweep_in_yaml: Path
) -> None:
    done = run(JOB, "-m", f"--config-dir={sweep_in_yaml}", "--config-name=swept")
    assert [job["tp"] for job in what_the_job_saw(done.stdout)] == [2, 4], done.stderr


def test_a_sweep_written_in_yaml_with_a_bad_point_is_refused_before_any_job(run: Run, sweep_in_yaml: Path) -> None:
    command = (f"--config-dir={sweep_in_yaml}", "--config-name=swept", "parallelism.sequence_parallel=false")
    assert_refused(run(JOB, "-m", *command), "TP002")


def test_the_values_of_a_sweep_do_not_excuse_a_single_run_from_being_judged(run: Run, sweep_in_yaml: Path) -> None:
    assert_refused(run(JOB, f"--config-dir={sweep_in_yaml}", "--config-name=swept"), "TP001")


def test_the_saved_config_of_a_sweep_says_that_it_was_not_judged(run: Run, tmp_path: Path) -> None:
    run(JOB, "-m", "parallelism=dp2,dp4", "hydra.sweep.dir=sweep")
    saved = OmegaConf.load(tmp_path / "sweep" / "multirun.yaml")
    assert "before its values are applied" in saved.overlap.notes[0]
    assert saved.overlap.plan is None


# hydra.compose()


@pytest.mark.parametrize("with_hydra", [True, False])
def test_compose_writes_the_answer_into_the_config(composed: Compose, with_hydra: bool) -> None:
    cfg = composed("comm_overlap=tp4_h100", hydra=with_hydra)
    assert cfg.overlap.effective.transformer_config.tp_comm_overlap is True
    assert cfg.overlap.env == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    assert ("hydra" in cfg) is with_hydra


@pytest.mark.parametrize("with_hydra", [True, False])
def test_compose_raises_with_the_findings_within_reach(composed: Compose, with_hydra: bool) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(*SEQUENCE_PARALLEL_OFF, hydra=with_hydra)
    refusal = refusal_in(error.value)
    assert isinstance(refusal, GatingError)
    assert [finding.rule for finding in refusal.findings] == ["TP002"]


def test_all_refusals_come_at_once(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(*SEQUENCE_PARALLEL_OFF, "comm_overlap/pp=interleaved", "comm_overlap/dp=overlap")
    assert {"TP002", "PP001", "DP001"} <= set(rules_of(error))


# other people's apps


def test_a_foreign_app_takes_a_bundle_from_the_command_line(run: Run) -> None:
    done = run(FOREIGN, "+comm_overlap=tp4_h100")
    assert "TASK RAN 0.1" in done.stdout, done.stderr
    assert "'tensor_model_parallel_size': 4" in done.stdout


def test_a_foreign_app_with_an_illegal_bundle_is_refused(run: Run) -> None:
    assert_refused(run(FOREIGN, "+comm_overlap=tp4_h100", "overlap/parallelism=tp1"), "TP001")


def test_a_foreign_app_may_list_a_bundle_in_its_defaults(run: Run) -> None:
    assert "TASK RAN 0.1" in run(FOREIGN, "--config-name=listing").stdout
    assert_refused(run(FOREIGN, "--config-name=listing", "overlap/parallelism=tp1"), "TP001")


def test_a_foreign_app_without_a_bundle_is_left_alone(run: Run) -> None:
    done = run(FOREIGN)
    assert done.stdout == "TASK RAN 0.1 None\n"
    assert done.stderr == ""


def test_nodes_of_a_foreign_app_are_read_as_far_as_they_are_ours(composed: Compose) -> None:
    """hidden_size means what ours means: the preset is tuned for 8192. model.depth means nothing here."""
    cfg = composed("+comm_overlap=tp4_h100", config_name="plain", config_dir=APPS / "foreign_conf")
    assert "model.depth is a key of your app; no rule reads it." in cfg.overlap.notes
    assert not any("hidden_size" in note for note in cfg.overlap.notes)
    other = composed(
        "+comm_overlap=tp4_h100", "model.hidden_size=4096", config_name="plain", config_dir=APPS / "foreign_conf"
    )
    assert any(note.startswith("UB201") and "hidden_size 8192, here 4096" in note for note in other.overlap.notes)
