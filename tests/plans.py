"""Plans for tests, composed by Hydra from our option files as train.py makes them."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap import Resolution
from hydra_overlap.compose import enforce
from hydra_overlap.launch import plan as plans
from hydra_overlap.machine import local


def plan_of(*overrides: str, output_dir: Path = Path("nowhere")) -> plans.Plan:
    """The plan of `train.py OVERRIDES`, before the machine had its say. Composed once; every caller gets a copy."""
    GlobalHydra.instance().clear()
    resolution = copy.deepcopy(_resolution(overrides, (local.gpu_names, local.installed_software)))
    return plans.make(resolution, overrides=list(overrides), config="", output_dir=output_dir)


@lru_cache(maxsize=256)
def _resolution(overrides: tuple[str, ...], facts: tuple[Any, ...]) -> Resolution:
    """facts: the functions that look at the machine; where a test replaced one, the answer is another."""
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        return enforce.judged(hydra_compose("config", list(overrides)))
