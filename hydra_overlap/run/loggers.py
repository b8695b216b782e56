"""Where rank 0 logs beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow, each through its own library.

Accounts, projects and servers are those libraries' own environment variables (WANDB_PROJECT, WANDB_MODE,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME ...), which ranks inherit. What they write on this machine goes into the run's
output directory.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from ..launch.plan import Plan


class Logger(Protocol):
    """Takes the numbers of each step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step`."""

    def close(self) -> None:
        """Everything is written on return."""


def make(plan: Plan, done: int) -> list[Logger]:
    """The loggers a plan asks for, open. done: steps of an earlier run that this one goes on from."""
    makers: dict[str, Callable[[Plan, int], Logger]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
    }
    return [makers[name](plan, done) for name in plan.request.launch.loggers]


class TensorBoard:
    """Event files under `tensorboard`."""

    def __init__(self, plan: Plan, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(Path(plan.output_dir, "tensorboard"))
        self._writer = SummaryWriter(folder, purge_step=done + 1 if done else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See Logger."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; with WANDB_MODE=offline a folder under `wandb`, for `wandb sync`."""

    def __init__(self, plan: Plan, done: int) -> None:
        import wandb

        self._run: Any = wandb.init(
            dir=plan.output_dir,
            config=_config(plan),
            settings=wandb.Settings(console="off", silent=True),  # the terminal is the progress bar's
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See Logger."""
        self._run.finish()


class MLflow:
    """A run of MLflow; without MLFLOW_TRACKING_URI in a file store under `mlruns`, which needs no database."""

    def __init__(self, plan: Plan, done: int) -> None:
        from mlflow.tracking import MlflowClient

        store = os.environ.get("MLFLOW_TRACKING_URI")
        if not store:
            store = Path(plan.output_dir, "mlruns").resolve().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for it by name
        self._client: Any = MlflowClient(store)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "hydra-overlap"
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=Path(plan.output_dir).name).info.run_id
        for override in plan.overrides:
            key, _, value = override.lstrip("+~").partition("=")
            self._client.log_param(self._run, key.replace("@", "."), value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """See Logger."""
        self._client.set_terminated(self._run)


def _config(plan: Plan) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(plan.config) or {}
    return {name: node for name, node in config.items() if name not in ("hydra", "overlap")}
