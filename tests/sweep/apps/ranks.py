"""A job on our option files that says when it had its ranks, and starts none."""

import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from hydra_overlap.compose import app


@hydra.main(version_base=None, config_path="pkg://hydra_overlap.conf", config_name="config")
def main(cfg: DictConfig) -> int:
    """Append `began`, `ended` and the number of ranks to the file that data.cache_dir names."""
    ranks = cfg.overlap.effective.world_size
    began = time.time()
    time.sleep(0.4)
    with Path(cfg.data.cache_dir).open("a") as file:
        file.write(f"{began} {time.time()} {ranks}\n")
    return ranks


if __name__ == "__main__":
    app.cli(main)
