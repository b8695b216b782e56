"""A job for a search: returns a record, worth less for each tensor-parallel rank."""

from typing import Any

import hydra
from omegaconf import DictConfig

from hydra_overlap.compose import app, enforce


@hydra.main(version_base=None, config_path="pkg://hydra_overlap.conf", config_name="config")
def main(cfg: DictConfig) -> dict[str, Any]:
    """One line, and the record of a run."""
    enforce.judged(cfg)
    print("TASK RAN", cfg.parallelism.tensor_model_parallel_size)
    return {"step_ms": {"median": 10.0 - cfg.parallelism.tensor_model_parallel_size}}


if __name__ == "__main__":
    app.cli(main)
