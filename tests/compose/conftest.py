"""Running apps as people do, and composing in this process where the way does not matter."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra._internal.config_search_path_impl import SearchPathElement
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
    """`composed(*overrides, config_name=, config_dir=, hydra=, extends=)`: a config as `hydra.compose` gives it.

    config_dir: of an app of one's own. extends: of one that builds on our configuration, as `--config-dir` does.
    """

    def build(
        *overrides: str,
        config_name: str = "config",
        config_dir: Path | None = None,
        hydra: bool = False,
        extends: bool = False,
    ) -> DictConfig:
        if config_dir is None or extends:
            start = initialize_config_module("hydra_overlap.conf", version_base=None)
        else:
            start = initialize_config_dir(str(config_dir), version_base=None)
        with start:
            if extends:
                loader: Any = GlobalHydra.instance().config_loader()
                loader.get_search_path().get_path().insert(
                    -1, SearchPathElement("command-line", f"file://{config_dir}")
                )
                loader.repository.initialize_sources(loader.get_search_path())
            return compose(config_name, list(overrides), return_hydra_config=hydra)

    return build
