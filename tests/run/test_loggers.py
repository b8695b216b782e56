"""Loggers beside metrics.jsonl: asked for, installed or refused, and written through their own libraries."""

import importlib.util

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import preflight
from hydra_overlap.run import loggers
from tests.plans import plan_of

VALUES = ((1, {"loss": 6.0}), (2, {"loss": 5.0, "validation_loss": 5.5}))


def logged(plan):
    for logger in loggers.make(plan, 0):
        for step, values in VALUES:
            logger.log(step, values)
        logger.close()


def test_tensorboard_has_every_number_at_its_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged(plan_of(output_dir=tmp_path))
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 6.0), (2, 5.0)]
    assert [(event.step, event.value) for event in read.Scalars("validation_loss")] == [(2, 5.5)]


def test_weights_and_biases_keeps_an_offline_run_in_the_output_directory(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged(plan_of("launch.loggers=[wandb]", output_dir=tmp_path))
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"validation_loss" in kept.read_bytes()


def test_mlflow_keeps_a_finished_run_in_the_output_directory(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    logged(plan_of("launch.loggers=[mlflow]", "training=smoke", output_dir=tmp_path))
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("hydra-overlap")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["training"] == "smoke"
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")] == [(1, 6.0), (2, 5.0)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_with_the_extra_that_installs_it(monkeypatch, name):
    monkeypatch.setattr(
        preflight, "find_spec", lambda module: None if module == name else importlib.util.find_spec(module)
    )
    with pytest.raises(LaunchError) as refusal:
        preflight.require_loggers(plan_of(f"launch.loggers=[tensorboard,{name}]"))
    fixes = [fix.override for fix in refusal.value.finding.fixes]
    package = {"wandb": "wandb>=0.17", "mlflow": "mlflow-skinny>=2.14"}[name]  # by its own name: see commands.install
    assert fixes == [f"pip install '{package}'", "launch.loggers=[tensorboard]"]
    preflight.require_loggers(plan_of("launch.loggers=[tensorboard]"))
