"""The ways around the check that were found by trying, each closed. docs/decisions/0002 lists them."""

import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from hydra_overlap import GatingError
from hydra_overlap.compose.enforce import judged
from tests.compose.commands import (
    APPS,
    JOB,
    TRAIN,
    Compose,
    Run,
    assert_refused,
    fixes_of,
    refusal_of,
    rules_of,
    what_the_job_saw,
)


@pytest.fixture
def host(tmp_path: Path) -> Callable[[str], Path]:
    """`host(text)`: a directory with a primary config `host.yaml`."""

    def write(text: str) -> Path:
        (tmp_path / "host.yaml").write_text(text)
        return tmp_path

    return write


# hydra.job.env_copy, the carrier of the check


def test_what_a_notebook_shows_last_of_a_refusal_is_the_finding(composed: Compose) -> None:
    """Hydra replaces what it knows as omegaconf's by an exception without a text, and that would be the last line."""
    with pytest.raises(GatingError) as refused:
        composed("comm_overlap=tp4_h100", "parallelism=tp8")
    shown = "".join(traceback.format_exception(refused.value))
    last = shown[shown.rindex("hydra_overlap.compose.enforce.Refused: refused by 1 rule") :]
    assert "UB001  The userbuffers preset was tuned for another TP size" in last
    assert last.rstrip().endswith("docs/decisions/0004-preset-off-its-shape.md"), (
        "the source, on a line of its own or not"
    )
    assert "direct cause" not in shown
    assert isinstance(refused.value, ConfigCompositionException)


def test_replacing_env_copy_on_the_command_line_stops_the_job(run: Run, tmp_path: Path) -> None:
    done = run(JOB, "comm_overlap=tp4_h100", "parallelism=tp1", "hydra.job.env_copy=[HOME]")
    assert_refused(done, "CFG006")
    assert "overlap.env_copy=[...]" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_replacing_env_copy_in_a_foreign_app_stops_the_job(run: Run, host: Callable[[str], Path]) -> None:
    folder = host(
        "defaults: [{comm_overlap: tp4_h100}, _self_]\nhydra: {job: {env_copy: [HOME]}}\noptimizer: {lr: 1}\n"
    )
    done = run(APPS / "foreign.py", f"--config-path={folder}", "--config-name=host")
    assert_refused(done, "CFG006")


def test_replacing_env_copy_in_a_sweep_stops_its_jobs(run: Run) -> None:
    done = run(JOB, "-m", "comm_overlap=tp4_h100", "parallelism=tp1,tp4", "hydra.job.env_copy=[HOME]")
    assert_refused(done, "CFG006")


def test_a_job_of_a_sweep_that_was_taken_for_the_sweep_itself_is_stopped(
    composed: Compose, host: Callable[[str], Path]
) -> None:
    """However a sweeper spells its keys: a config with a job number is a job."""
    folder = host("defaults: [config, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n")
    cfg = composed(config_name="host", config_dir=folder, hydra=True, extends=True)
    assert cfg.overlap.plan is None
    assert cfg.hydra.job.env_set.HYDRA_OVERLAP_PLAN == ""
    cfg.hydra.job.num = 0
    with pytest.raises(GatingError, match="CFG006"):
        OmegaConf.to_container(cfg.hydra.job.env_set, resolve=True)


def test_a_config_composed_with_a_replaced_env_copy_says_that_nothing_was_judged(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100", "parallelism=tp1", "hydra.job.env_copy=[HOME]")
    assert cfg.overlap.plan is None
    assert cfg.overlap.effective == {}
    with pytest.raises(GatingError, match="TP001"):
        judged(cfg)


def test_variables_are_copied_through_overlap_env_copy(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FOLDER", "/data")
    cfg = composed("overlap.env_copy=[SOME_FOLDER]", hydra=True)
    assert cfg.hydra.job.env_set.SOME_FOLDER == "/data"
    assert cfg.hydra.job.env_copy == ["SOME_FOLDER"]
    assert cfg.overlap.plan is not None


def test_a_variable_to_copy_that_is_not_set_is_named(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("overlap.env_copy=[PATH,NO_SUCH_VARIABLE]")
    assert fixes_of(error) == ["overlap.env_copy=[PATH]"]


def test_a_host_that_sets_env_copy_in_its_primary_does_not_judge_half_a_config(
    composed: Compose, host: Callable[[str], Path]
) -> None:
    """In the middle of that merge omegaconf evaluates env_copy, when parallelism is not complete yet."""
    folder = host("defaults: [{comm_overlap: tp4_h100}, _self_]\nhydra: {job: {env_copy: [PATH]}}\n")
    cfg = composed(config_name="host", config_dir=folder)
    assert cfg.parallelism.tensor_model_parallel_size == 4


def test_the_check_runs_once_for_a_composition(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100", hydra=True)
    cfg.parallelism.tensor_model_parallel_size = 1  # would be refused
    assert cfg.hydra.job.env_copy == []
    OmegaConf.to_container(cfg.hydra.job, resolve=True)


# the launch environment


def test_a_variable_of_the_host_stays_beside_those_of_the_plan(composed: Compose, host: Callable[[str], Path]) -> None:
    folder = host("defaults: [{comm_overlap: tp4_h100}, _self_]\nhydra: {job: {env_set: {NCCL_DEBUG: WARN}}}\n")
    cfg = composed(config_name="host", config_dir=folder, hydra=True)
    assert cfg.hydra.job.env_set.NCCL_DEBUG == "WARN"
    assert cfg.hydra.job.env_set.CUDA_DEVICE_MAX_CONNECTIONS == "1"


def test_a_variable_set_against_the_plan_is_refused_with_a_fix_that_works(composed: Compose) -> None:
    against = ("comm_overlap=tp4_h100", "+hydra.job.env_set.CUDA_DEVICE_MAX_CONNECTIONS='8'")
    with pytest.raises(ConfigCompositionException) as error:
        composed(*against)
    assert rules_of(error) == ["ENV002"]
    cfg = composed(*against, *fixes_of(error), hydra=True)
    assert cfg.hydra.job.env_set.CUDA_DEVICE_MAX_CONNECTIONS == "1"


def test_a_variable_that_undoes_what_was_asked_for_is_refused_with_a_fix_that_works(composed: Compose) -> None:
    against = ("comm_overlap=tp4_h100", "+hydra.job.env_set.CUDA_LAUNCH_BLOCKING='1'")
    with pytest.raises(ConfigCompositionException) as error:
        composed(*against)
    assert rules_of(error) == ["ENV002"]
    assert "CUDA_LAUNCH_BLOCKING" not in composed(*against, *fixes_of(error), hydra=True).hydra.job.env_set


@pytest.mark.parametrize("override", [
    "+hydra.job.env_set.UB_SKIPMC='1'", "+hydra.job.env_set.CUDA_LAUNCH_BLOCKING='0'",
    "+hydra.job.env_set.NVTE_BACKWARD_OVERRIDE=dequantized",
])  # fmt: skip
def test_a_variable_that_undoes_nothing_here_is_fine(composed: Compose, override: str) -> None:
    assert composed("comm_overlap=tp4_h100", override).overlap.plan is not None


def test_bridge_looks_at_no_such_variable(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100", "gating=bridge", "+hydra.job.env_set.CUDA_LAUNCH_BLOCKING='1'")
    assert cfg.overlap.plan is not None


def test_a_variable_set_as_the_plan_sets_it_is_fine(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100", "+hydra.job.env_set.CUDA_DEVICE_MAX_CONNECTIONS='1'")
    assert cfg.overlap.plan is not None


# shell completion


@pytest.mark.parametrize("line", ["comm_overlap=tp4", "comm_overlap=tp4_h100 parallelism=tp1 platform=h"])
def test_completing_a_line_judges_nothing_and_offers_options(run: Run, line: str) -> None:
    script = str(JOB)
    env = {"COMP_LINE": f"python {script} {line}", "COMP_POINT": str(len(f"python {script} {line}"))}
    done = run(JOB, "-sc", "query=bash", env=env)
    assert done.returncode == 0, done.stderr
    assert {"comm_overlap=tp4_h100", "platform=h100"} & set(done.stdout.split())
    assert done.stderr == ""


def test_a_flag_of_another_program_that_looks_like_completion_switches_nothing_off(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "-sc"])
    monkeypatch.delenv("COMP_LINE", raising=False)
    with pytest.raises(ConfigCompositionException) as error:
        composed("comm_overlap=tp4_h100", "parallelism=tp1")
    assert rules_of(error) == ["TP001"]


# keys, options and nodes that Hydra lets through


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("+comm_overlap.dp.bucket_sise=4", "comm_overlap.dp.bucket_size=4"),
        ("++comm_overlap.dp.bucket_sise=4", "comm_overlap.dp.bucket_size=4"),
        ("+model.hiden_size=64", "model.hidden_size=64"),
        ("+comm_overlap.tpp={tp_comm_overlap:true}", "comm_overlap.tp={tp_comm_overlap:true}"),
        ("+paralelism=tp4", "parallelism=tp4"),
        ("+comm_overlpa=tp4_h100", "comm_overlap=tp4_h100"),
        ("+comm_overlap/tpp=userbuffers", "comm_overlap/tp=userbuffers"),
        ("+trainig.micro_batch_size=2", "training.micro_batch_size=2"),
    ],
)  # fmt: skip
def test_a_misspelt_name_behind_a_plus_is_refused_with_the_name_that_was_meant(
    composed: Compose, override: str, fix: str
) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(override)
    assert rules_of(error) == ["CFG001"]
    assert fixes_of(error)[0].split(" ", 1)[-1] == fix  # `~misspelt right=4` can be added to the same command


def test_a_key_of_ones_own_behind_a_plus_is_fine(composed: Compose) -> None:
    cfg = composed("+note='third try'", "+tags=[a,b]", "+wandb.project=overlap")
    assert cfg.note == "third try"
    assert cfg.overlap.plan is not None


@pytest.mark.parametrize("flags", [("--cfg", "job"), ("--cfg", "job", "--resolve"), ("--help",)])
def test_train_py_has_no_nodes_but_ours_when_it_only_shows_its_config_either(run: Run, flags: tuple[str, ...]) -> None:
    assert_refused(run(TRAIN, "+note=3", *flags), "CFG001")


@pytest.mark.parametrize("override", ["parallelism=[tp4,tp2]", "comm_overlap/dp=[none,overlap]", "model=[tiny]"])
def test_a_list_of_options_is_refused(composed: Compose, override: str) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(override)
    group, _, options = override.partition("=")
    assert rules_of(error) == ["CFG008"]
    assert fixes_of(error) == [f"{group}={option}" for option in options.strip("[]").split(",")]


def test_a_group_that_was_not_found_and_became_a_text_is_refused_by_the_job() -> None:
    """What `+comm_overlap=tp4_h100` gives where the option files are not on the search path."""
    with pytest.raises(GatingError, match="CFG006"):
        judged(OmegaConf.create({"comm_overlap": "tp4_h100"}))


def test_a_text_in_the_place_of_a_node_is_refused(composed: Compose, host: Callable[[str], Path]) -> None:
    folder = host(
        "defaults: [{comm_overlap: tp4_h100}, override overlap/parallelism: null, _self_]\nparallelism: tp8\n"
    )
    with pytest.raises(ConfigCompositionException, match="str is not a subclass of Parallelism"):
        composed(config_name="host", config_dir=folder)


def test_a_bundle_of_ours_reaches_the_top_level_wherever_it_is_listed(
    composed: Compose, host: Callable[[str], Path]
) -> None:
    for listed in ("comm_overlap@train.comm_overlap", "comm_overlap@_global_", "/comm_overlap@_global_.comm_overlap"):
        cfg = composed(config_name="host", config_dir=host(f"defaults: [{{{listed}: tp4_h100}}, _self_]\n"))
        assert cfg.overlap.effective.transformer_config.tp_comm_overlap is True, listed
        assert composed(f"+{listed.lstrip('/')}=none", config_name="host", config_dir=host("lr: 1\n")).overlap.plan


def test_a_bundle_of_ones_own_under_another_node_is_refused(composed: Compose, host: Callable[[str], Path]) -> None:
    folder = host("lr: 1\n")
    (folder / "comm_overlap").mkdir()
    (folder / "comm_overlap" / "mine.yaml").write_text("defaults: [tp4_h100, _self_]\npp: {wgrad_deferral_limit: 0}\n")
    assert (
        composed("+comm_overlap=mine", config_name="host", config_dir=folder).comm_overlap.pp.wgrad_deferral_limit == 0
    )
    with pytest.raises(ConfigCompositionException) as error:
        composed("+comm_overlap@train.comm_overlap=mine", config_name="host", config_dir=folder)
    assert (rules_of(error), fixes_of(error)) == (["CFG007"], ["+comm_overlap=mine"])


def test_one_dimension_under_another_node_is_refused(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("+comm_overlap/tp@train.tp=userbuffers")
    assert (rules_of(error), fixes_of(error)) == (["CFG007"], ["comm_overlap/tp=userbuffers"])


def test_a_second_bundle_is_refused(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException, match=r"appears more than once|Multiple values"):
        composed("+comm_overlap@train.comm_overlap=none")


def test_a_host_may_keep_a_parallelism_node_of_its_own_and_it_is_judged(
    composed: Compose, host: Callable[[str], Path]
) -> None:
    text = (
        "defaults: [{comm_overlap: tp4_h100}, override overlap/parallelism: null, override userbuffers: none, _self_]\n"
        "parallelism: {tensor_model_parallel_size: %d, sequence_parallel: true}\n"
    )
    cfg = composed(config_name="host", config_dir=host(text % 2))
    assert cfg.overlap.effective.world_size == 2
    with pytest.raises(ConfigCompositionException) as error:
        composed(config_name="host", config_dir=host(text % 1))
    assert "TP001" in rules_of(error)


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("+overlap.effective.transformer_config.tp_comm_overlap=true", "comm_overlap.tp.tp_comm_overlap=true"),
        ("+overlap.effective.ddp_config.bucket_size=5", "comm_overlap.dp.bucket_size=5"),
        ("+overlap.env.CUDA_DEVICE_MAX_CONNECTIONS='8'", None),
        ("overlap.plan=0123456789abcdef", None),
        ("overlap.notes=[all fine]", None),
    ],
)  # fmt: skip
def test_an_answer_written_by_hand_is_refused(composed: Compose, override: str, fix: str | None) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(override)
    assert rules_of(error) == ["CFG001"]
    assert fixes_of(error) == ([fix] if fix else [])


def test_an_answer_written_in_the_primary_config_is_refused(composed: Compose, host: Callable[[str], Path]) -> None:
    folder = host(
        "defaults: [{comm_overlap: tp4_h100}, _self_]\noverlap: {effective: {ddp_config: {overlap_grad_reduce: true}}}\n"
    )
    with pytest.raises(ConfigCompositionException) as error:
        composed(config_name="host", config_dir=folder)
    assert fixes_of(error) == ["comm_overlap.dp.overlap_grad_reduce=true"]


def test_a_node_set_to_null_is_refused(composed: Compose, host: Callable[[str], Path]) -> None:
    folder = host("defaults: [{comm_overlap: tp4_h100}, override comm_overlap/dp: null, _self_]\n")
    assert composed(config_name="host", config_dir=folder).overlap.plan is not None  # dp: schema defaults
    folder = host("defaults: [{comm_overlap: tp4_h100}, _self_]\ncomm_overlap: null\n")
    with pytest.raises(ConfigCompositionException):
        composed(config_name="host", config_dir=folder)


@pytest.mark.parametrize("value", ["???", "${no.such.key}"])
def test_a_value_that_is_missing_or_cannot_be_resolved_is_named(composed: Compose, value: str) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(f"model.hidden_size={value}")
    assert rules_of(error) == ["CFG002"]
    assert refusal_of(error).findings[0].where[0].key == "model.hidden_size"


def test_a_path_known_only_when_the_job_runs_does_not_stop_it(run: Run) -> None:
    done = run(JOB, "data.cache_dir=${hydra:runtime.output_dir}/cache")
    assert len(what_the_job_saw(done.stdout)) == 1, done.stderr


def test_a_checkpoint_folder_in_that_of_the_job_is_judged_as_one(run: Run) -> None:
    checkpoint = "checkpoint.save=${hydra:runtime.output_dir}/checkpoints"
    assert len(what_the_job_saw(run(JOB, checkpoint).stdout)) == 1
    with_step = "comm_overlap.dp.overlap_param_gather_with_optimizer_step=true"
    assert_refused(run(JOB, checkpoint, "comm_overlap=pp_interleaved", "parallelism=pp2_vpp2_dp2", with_step), "DP028")


@pytest.mark.parametrize("path", ["${hydra:job.num}", "/checkpoints/${hydra:job.num}", "${hydra:no.such.key}/x"])
def test_a_checkpoint_folder_that_the_job_has_no_value_for_is_refused(run: Run, path: str) -> None:
    done = run(JOB, f"checkpoint.save={path}")
    assert_refused(done, "CFG002")
    assert f"checkpoint.save={path}" in done.stderr


# structured and frozen hosts


@dataclass
class PlainHost:
    lr: float = 0.1


@dataclass
class ListingHost:
    defaults: list[Any] = field(default_factory=lambda: [{"comm_overlap": "tp4_h100"}, "_self_"])
    lr: float = 0.1


@dataclass(frozen=True)
class FrozenHost:
    lr: float = 0.1


@pytest.fixture
def structured_hosts() -> None:
    for name, node in (("plain_host", PlainHost), ("listing_host", ListingHost), ("frozen_host", FrozenHost)):
        ConfigStore.instance().store(name=name, node=node)


@pytest.mark.usefixtures("structured_hosts")
@pytest.mark.parametrize("name", ["plain_host", "frozen_host"])
def test_a_structured_primary_without_our_nodes_refuses_the_bundle_aloud(composed: Compose, name: str) -> None:
    with pytest.raises(ConfigCompositionException):
        composed("+comm_overlap=tp4_h100", config_name=name)


@pytest.mark.usefixtures("structured_hosts")
def test_a_structured_primary_that_lists_a_bundle_is_judged(composed: Compose) -> None:
    cfg = composed(config_name="listing_host")
    assert (cfg.lr, cfg.overlap.effective.world_size) == (0.1, 4)
    with pytest.raises(ConfigCompositionException) as error:
        composed("parallelism=tp1", config_name="listing_host")
    assert "TP001" in rules_of(error)


# configs that reach a job without a composition


def test_a_saved_config_runs_again_unchanged_and_is_refused_with_a_change_on_top(run: Run, tmp_path: Path) -> None:
    run(JOB, "comm_overlap=tp4_h100", "hydra.run.dir=first")
    saved = (f"--config-path={tmp_path}/first/.hydra", "--config-name=config")
    again = run(JOB, *saved)
    assert [job["tp"] for job in what_the_job_saw(again.stdout)] == [4], again.stderr
    changed = run(JOB, *saved, "parallelism.tensor_model_parallel_size=1")
    assert_refused(changed, "TP001")


def test_a_saved_config_changed_within_the_rules_is_refused_with_the_command_that_composes_it(
    run: Run, tmp_path: Path
) -> None:
    run(JOB, "comm_overlap=tp4_h100", "hydra.run.dir=first")
    done = run(JOB, f"--config-path={tmp_path}/first/.hydra", "--config-name=config", "training.micro_batch_size=2")
    assert_refused(done, "CFG006")
    assert "comm_overlap=tp4_h100 training.micro_batch_size=2" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]


def test_a_saved_config_with_a_misspelt_key_on_top_is_refused(run: Run, tmp_path: Path) -> None:
    run(JOB, "comm_overlap=tp4_h100", "hydra.run.dir=first")
    done = run(JOB, f"--config-path={tmp_path}/first/.hydra", "--config-name=config", "+model.hiden_size=64")
    assert_refused(done, "CFG001")


def test_a_pickled_run_runs_again_with_what_it_was_judged_for(run: Run, tmp_path: Path) -> None:
    pickles = "+hydra.callbacks.p._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
    first = run(JOB, "comm_overlap=tp4_h100", "hydra.run.dir=first", pickles)
    assert first.returncode == 0, first.stderr
    again = run(JOB, "--experimental-rerun", f"{tmp_path}/first/.hydra/config.pickle")
    (job,) = what_the_job_saw(again.stdout)
    assert (job["tp"], job["env"]) == (4, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})


def test_a_saved_config_planned_for_another_kind_of_machine_is_refused(composed: Compose) -> None:
    """platform=auto is read where the job runs; if that changes the answer, the saved one is stale."""
    cfg = composed("comm_overlap=tp4_h100")
    cfg.platform.sm, cfg.platform.name = 100, "b200"
    cfg.parallelism.world_size = 8
    with pytest.raises(GatingError, match="CFG006"):
        judged(cfg)


def test_a_config_whose_answer_was_edited_is_not_believed(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100")
    cfg.overlap.effective.transformer_config.tp_comm_overlap = False
    assert judged(cfg).transformer_config["tp_comm_overlap"] is True


# worker processes


def test_the_resolvers_are_there_as_soon_as_the_plugin_is_imported(run: Run, tmp_path: Path) -> None:
    """A launcher's worker unpickles the plugin and composes; nobody asks the plugin for search paths there."""
    (tmp_path / "worker.py").write_text(
        "from omegaconf import OmegaConf\n"
        "import hydra_plugins.hydra_overlap_plugin.searchpath\n"
        "print([OmegaConf.has_resolver(name) for name in ('overlap.check', 'overlap.guard')])\n"
    )
    assert run(tmp_path / "worker.py").stdout.strip() == "[True, True]"


def test_a_refusal_survives_the_way_between_processes(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("comm_overlap=tp4_h100", "parallelism=tp1")
    refusal = refusal_of(error)
    assert str(pickle.loads(pickle.dumps(refusal))) == str(refusal)


def test_composing_loads_neither_torch_nor_megatron(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(
        "import sys\n"
        "from hydra import compose, initialize_config_module\n"
        "import hydra_overlap, hydra_overlap.compose.app\n"
        "with initialize_config_module('hydra_overlap.conf', version_base=None):\n"
        "    compose('config', ['comm_overlap=tp4_h100'])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'megatron', 'rich', 'numpy'}))\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "light.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
