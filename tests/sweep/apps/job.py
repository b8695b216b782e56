"""A job that does as it is told: adds a line to a file, then returns, fails, exits, dies or waits."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hydra_overlap.compose import app
from hydra_overlap.errors import LaunchError


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Any:
    with Path(cfg.runs).open("a") as file:
        file.write(f"{cfg.layers},{HydraConfig.get().job.num}\n")
    print(f"job says layers={cfg.layers}")
    time.sleep(cfg.seconds)
    deed = cfg.deeds[f"n{cfg.layers}"]
    if deed == "raises":
        raise RuntimeError(f"no room for {cfg.layers} layers")
    if deed == "refuses":
        raise LaunchError("This machine is too small", where=[f"layers={cfg.layers}"], fixes=[("layers=1", "fits")])
    if deed == "exits":
        sys.exit(3)
    if deed == "is asked to stop":
        sys.exit(75)
    if deed == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "returns nothing":
        return None
    if deed == "returns a number":
        return float(cfg.layers)
    step_ms = 10.0 * cfg.layers + cfg.width
    return {
        "format": 1,
        "status": "completed",
        "mode": "rehearsal",
        "world_size": 2,
        "steps": 20,
        "step_ms": {"median": step_ms, "low": step_ms * 0.96, "high": step_ms * 1.05, "counted": 15, "discarded": 5},
        "tokens_per_s": 1e6 / step_ms,
        "loss": {"first": 6.2, "final": 2.0 + 1 / cfg.layers},
        "validation_loss": None,
        "exposed_ms": None,
        "peak_memory_gib": 0.5 + cfg.layers / 10,
        "verdict": "in effect",
        "error": None,
    }


if __name__ == "__main__":
    app.cli(main)
