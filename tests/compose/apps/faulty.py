"""A job that ends in the way its `+end=` says, on our option files."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hydra_overlap.compose import app
from hydra_overlap.errors import LaunchError


@hydra.main(version_base=None, config_path="pkg://hydra_overlap.conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """End."""
    output = Path(HydraConfig.get().runtime.output_dir)
    if cfg.end.endswith("_started"):
        (output / "plan.json").write_text("{}")
    if cfg.end.endswith("_notes"):
        (output / "notes.txt").write_text("mine")
    if cfg.end.startswith("refused"):
        raise LaunchError("Four ranks fit this machine", where=["world_size=8"], fixes=[("parallelism=tp4", "fits")])
    if cfg.end == "interrupted":
        raise KeyboardInterrupt
    if cfg.end == "bug":
        raise KeyError("a bug of the job")
    sys.exit(7)


if __name__ == "__main__":
    app.cli(main)
