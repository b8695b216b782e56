"""No secret of the environment reaches a file of a run, nor what it prints."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from hydra_overlap import GatingError
from hydra_overlap.launch import plan as plans
from hydra_overlap.rules.secret_names import is_secret
from hydra_overlap.run import manifest
from tests.compose.commands import JOB, Run
from tests.each import each
from tests.plans import plan_of

VALUE = "hunter2-0123456789abcdef"
SECRETS = (
    "WANDB_API_KEY",
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "DB_PASSWORD",
    "GITHUB_PAT",
    "SSH_KEY",
    "my_secret",
)
OTHERS = (
    "PATH",
    "HOME",
    "TOKENIZERS_PARALLELISM",
    "KEYBOARD",
    "SSH_AUTH_SOCK",
    "MONKEY",
    "NCCL_DEBUG",
    "HYDRA_OVERLAP_PLAN",
    "COMPASS_X",
)
Compose = Callable[..., DictConfig]


def test_secrets_are_told_by_their_names() -> None:
    assert [name for name in (*SECRETS, *OTHERS) if is_secret(name)] == list(SECRETS)


@each(
    "key, override",
    [
        ("model.name", "model.name='${oc.env:WANDB_API_KEY}'"),
        ("model.name", f"model.name=x{VALUE}y"),
        ("checkpoint.save", "checkpoint.save=/data/${model.name} model.name='${oc.env:WANDB_API_KEY}'"),
        ("data.files", "data.files=['s3://${oc.env:WANDB_API_KEY}@host/x.txt']"),
        ("launch.slurm.setup", "launch.slurm.setup=['export WANDB_API_KEY=${oc.env:WANDB_API_KEY}']"),
        ("model.num_layers", "model.num_layers='${oc.env:WANDB_API_KEY}'"),
        ("overlap.env_copy", "overlap.env_copy=[PATH,WANDB_API_KEY]"),
    ],
)  # fmt: skip
def test_a_config_that_holds_a_secret_is_refused_without_showing_it(
    key: str, override: str, composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", VALUE)
    with pytest.raises(Exception) as error:  # noqa: PT011  (by omegaconf too, where the value has no place)
        composed(*override.split())
    assert VALUE not in str(error.value)
    if isinstance(error.value, GatingError):
        assert key in {place.key for finding in error.value.findings for place in finding.where}


def test_a_name_that_other_texts_hold_by_chance_is_no_reason(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "tiny")
    composed("model.name=tiny-gpt", "overlap.env_copy=[PATH]")


def test_a_run_writes_and_prints_no_variable_but_those_of_the_plan(run: Run, tmp_path: Path) -> None:
    done = run(JOB, "comm_overlap=dp", env={name: f"{VALUE}{name}" for name in (*SECRETS, "FOO")})
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} <= {path.name for path in written}
    assert not [path for path in written if VALUE.encode() in path.read_bytes()]
    assert VALUE not in done.stdout + done.stderr


def test_the_manifest_and_the_plan_name_the_variables_of_the_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SECRETS, "FOO"):
        monkeypatch.setenv(name, VALUE)
    plan = plan_of("comm_overlap=tp4_h100", output_dir=tmp_path)
    said: dict[str, Any] = {"env": {name: os.environ.get(name) for name in plan.resolution.env}}
    manifest.write(plan, said)
    plans.save(plan)
    for path in tmp_path.iterdir():
        assert VALUE not in path.read_text()
