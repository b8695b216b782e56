"""Someone else's Hydra app, which never heard of hydra-overlap."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="foreign_conf", config_name="plain")
def main(cfg: DictConfig) -> None:
    """Train, so to say."""
    print("TASK RAN", cfg.optimizer.lr, cfg.get("parallelism"))


if __name__ == "__main__":
    main()
