"""Running apps as people do, and composing in this process where the way does not matter."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from hydra_overlap.machine import local
from tests import warm
from tests.compose.commands import JOB, TRAIN, Run


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned for a GPU is planned for another machine, on whichever machine the tests run."""
    monkeypatch.setattr(local, "gpu_names", lambda: ())
    local.local_platform.cache_clear()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(script, *arguments)`: the real command, in an empty directory, warm."""

    def start(script: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | (env or {})
        return warm.run([script, *arguments], cwd=tmp_path, env=environment)

    return start


@pytest.fixture(params=[JOB, TRAIN], ids=["job.py", "train.py"])
def script(request: pytest.FixtureRequest) -> Path:
    """The smallest app on our option files, and the real one."""
    return Path(request.param)


@pytest.fixture
def composed() -> Callable[..., DictConfig]:
    """`composed(*overrides, config_name=, config_dir=, hydra=)`: a config as `hydra.compose` gives it."""

    def build(
        *overrides: str, config_name: str = "config", config_dir: Path | None = None, hydra: bool = False
    ) -> DictConfig:
        if config_dir is None:
            start = initialize_config_module("hydra_overlap.conf", version_base=None)
        else:
            start = initialize_config_dir(str(config_dir), version_base=None)
        with start:
            return compose(config_name, list(overrides), return_hydra_config=hydra)

    return build
