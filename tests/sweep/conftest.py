"""A sweep of our own app, up to the point where Hydra hands it to a sweeper; in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydra_overlap.machine import local
from hydra_overlap.sweep.composer import Composer

Sweeps = Callable[..., Composer]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is planned for a GPU is planned for another machine, on whichever machine the tests run."""
    monkeypatch.setattr(local, "gpu_names", lambda: ())
    local.local_platform.cache_clear()
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@contextmanager
def started(config_dir: Path | None, config_name: str, overrides: tuple[str, ...]) -> Iterator[Composer]:
    """The composer of a sweep of that app; our own without config_dir."""
    if config_dir is None:
        start = initialize_config_module("hydra_overlap.conf", version_base=None)
    else:
        start = initialize_config_dir(str(config_dir), version_base=None)
    with start:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        lines = [*overrides, "hydra.mode=MULTIRUN"]
        master = hydra.compose_config(config_name=config_name, overrides=lines, run_mode=RunMode.MULTIRUN)
        yield Composer(hydra.config_loader, master)


@pytest.fixture
def sweep() -> Iterator[Sweeps]:
    """`sweep(*overrides, config_dir=, config_name=)` -> the composer of that sweep; one a test."""
    opened = []

    def start(*overrides: str, config_dir: Path | None = None, config_name: str = "config") -> Composer:
        opened.append(started(config_dir, config_name, overrides))
        return opened[-1].__enter__()

    yield start
    for context in opened:
        context.__exit__(None, None, None)
