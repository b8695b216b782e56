"""The smallest app on our option files: it says what it was handed."""

import json
import os

import hydra
from omegaconf import DictConfig

from hydra_overlap.compose import app, enforce


@hydra.main(version_base=None, config_path="pkg://hydra_overlap.conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Print one line of JSON: what a launcher would use."""
    resolution = enforce.judged(cfg)
    seen = {
        "tp": cfg.parallelism.tensor_model_parallel_size,
        "tp_comm_overlap": resolution.transformer_config["tp_comm_overlap"],
        "overlap_grad_reduce": resolution.ddp_config["overlap_grad_reduce"],
        "env": resolution.env,
        "exported": {name: os.environ.get(name) for name in (*resolution.env, enforce.PLAN_VARIABLE)},
        "full_error": os.environ.get("HYDRA_FULL_ERROR"),
    }
    print("TASK RAN", json.dumps(seen))


if __name__ == "__main__":
    app.cli(main)
