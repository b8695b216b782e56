"""An app of someone else's, written file by file and composed as `hydra.compose` does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

Host = Callable[..., DictConfig]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """`host(*overrides, primary=, **files)`: its config; files are written first, `__` in a name is a slash."""
    GlobalHydra.instance().clear()

    def build(*overrides: str, primary: str = "host", hydra: bool = False, **files: str) -> DictConfig:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with initialize_config_dir(str(tmp_path), version_base=None):
            return compose(primary, list(overrides), return_hydra_config=hydra)

    yield build
    GlobalHydra.instance().clear()
