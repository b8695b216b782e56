"""The output directory of a run is its own before Hydra writes a file there: two runs of one second get one each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal import hydra as internals
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ..launch import external

KEY = "hydra.run.dir"
MOST = 1000  # runs of one second


@contextmanager
def claimed_first() -> Iterator[None]:
    """Within, Hydra's single runs have claimed their directory before Hydra creates anything in it.

    Hydra has no hook there that may refuse: callbacks' exceptions become warnings. Jobs of a sweep claim theirs when they run.
    """
    name = "run_job" if hasattr(internals, "run_job") else "_run_job"  # hydra-core 1.4
    original = getattr(internals, name)

    def run_job(**options: Any) -> Any:
        if options.get("job_dir_key") != KEY or external.quiet_overrides():  # rank 0 has the directory of a joined run
            return original(**options)
        with _own(options["config"]):
            return original(**options)

    setattr(internals, name, run_job)
    try:
        yield
    finally:
        setattr(internals, name, original)


@contextmanager
def _own(config: DictConfig) -> Iterator[None]:
    from ..launch import claims

    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)
        folder = Path(str(config.hydra.run.dir))
    finally:
        HydraConfig.instance().cfg = before
    raw: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
    if "${now:" not in str(raw["dir"]):  # named by whoever asked, to go on in it perhaps
        with claims.held(folder, KEY):
            yield
        return
    folder = _new(folder)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = str(folder)
    with claims.held(folder, KEY):
        yield


def _new(folder: Path) -> Path:
    """The directory, made now; if a run has it already, `NAME_2` and so on. What cannot be made is left to whoever claims it."""
    for number in range(1, MOST):
        place = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            return place
        return place
    return folder
