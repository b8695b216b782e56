"""The fields of Megatron-Bridge's configs, read from its source without running it.

`python -m tests.export.bridge_source BRIDGE MEGATRON_LM` writes tests/reference/bridge_fields.json anew: checkouts of
Megatron-Bridge v0.6.0 and of the Megatron-LM commit it carries in 3rdparty/Megatron-LM.
"""

import ast
import json
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "reference" / "bridge_fields.json"
BRIDGE, CORE, TRAINING = "src/megatron/bridge/", "megatron/core/", "megatron/training/config/"

# Node of ConfigContainer -> (checkout, file, class), derived class first.
CLASSES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "model": (
        (0, BRIDGE + "models/gpt_provider.py", "GPTModelProvider"),
        (1, CORE + "transformer/transformer_config.py", "TransformerConfig"),
        (1, CORE + "model_parallel_config.py", "ModelParallelConfig"),
    ),
    "comm_overlap": ((0, BRIDGE + "training/comm_overlap.py", "CommOverlapConfig"),),
    "mixed_precision": ((0, BRIDGE + "training/mixed_precision.py", "MixedPrecisionConfig"),),
    "ddp": (
        (0, BRIDGE + "training/config.py", "DistributedDataParallelConfig"),
        (1, CORE + "distributed/distributed_data_parallel_config.py", "DistributedDataParallelConfig"),
    ),
    "optimizer": (
        (0, BRIDGE + "training/config.py", "OptimizerConfig"),
        (1, CORE + "optimizer/optimizer_config.py", "OptimizerConfig"),
    ),
    "scheduler": (
        (0, BRIDGE + "training/config.py", "SchedulerConfig"),
        (1, TRAINING + "training_config.py", "SchedulerConfig"),
    ),
    "train": (
        (0, BRIDGE + "training/config.py", "TrainingConfig"),
        (1, TRAINING + "training_config.py", "TrainingConfig"),
    ),
    "logger": (
        (0, BRIDGE + "training/config.py", "LoggerConfig"),
        (1, TRAINING + "training_config.py", "LoggerConfig"),
    ),
    "rng": ((1, TRAINING + "common_config.py", "RNGConfig"),),
    "": ((0, BRIDGE + "training/config.py", "ConfigContainer"),),
    "BulkOverlapCfg": ((0, BRIDGE + "training/comm_overlap.py", "BulkOverlapCfg"),),
    "PipelineOverlapCfg": ((0, BRIDGE + "training/comm_overlap.py", "PipelineOverlapCfg"),),
    "RingExchangeOverlapCfg": ((0, BRIDGE + "training/comm_overlap.py", "RingExchangeOverlapCfg"),),
    "TransformerLayerTPOverlapCfg": ((0, BRIDGE + "training/comm_overlap.py", "TransformerLayerTPOverlapCfg"),),
}


def fields(file: Path, name: str) -> list[str]:
    """Annotated names in the body of a class."""
    tree = ast.parse(file.read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return [
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def read(*checkouts: Path) -> dict[str, list[str]]:
    """Node -> fields."""
    return {
        node: sorted({name for which, file, owner in classes for name in fields(checkouts[which] / file, owner)})
        for node, classes in CLASSES.items()
    }


if __name__ == "__main__":
    about = (
        "Fields of Megatron-Bridge v0.6.0's ConfigContainer and the dataclasses in it, base classes of the "
        "Megatron-LM commit in its 3rdparty folder (cd4afff, megatron-core 0.19.0) included; names only, read by AST."
    )
    FILE.write_text(json.dumps({"_about": about, "fields": read(*map(Path, sys.argv[1:3]))}, indent=1) + "\n")
