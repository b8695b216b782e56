"""Plans for tests, composed by Hydra from our option files as train.py makes them."""

from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap.compose import enforce
from hydra_overlap.launch import plan as plans


def plan_of(*overrides: str, output_dir: Path = Path("nowhere")) -> plans.Plan:
    """The plan of `train.py OVERRIDES`, before the machine had its say."""
    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = hydra_compose("config", list(overrides))
        resolution = enforce.judged(cfg)
    return plans.make(resolution, overrides=list(overrides), config="", output_dir=output_dir)
