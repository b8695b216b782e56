"""A node of an app's own with the name of one of ours: read as far as its fields mean what ours do."""

import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from hydra_overlap import GatingError, judged, refusal_in, resolve
from hydra_overlap.resolver.from_config import SCHEMAS
from hydra_overlap.schema.fields import BELOW, CHOICES, DEFAULTS, FIELDS, LISTS, MINIMUM
from tests.strategies import nest

# Of a field: a value of its type that it cannot hold.
BEYOND = [
    *((key, "another") for key in CHOICES),
    *((key, ["mine"]) for key in LISTS),
    *((key, least - 1) for key, least in MINIMUM.items()),
    *((key, limit) for key, limit in BELOW.items()),
    *((key, math.nan) for key, leaf in FIELDS.items() if leaf.kind is float),
]
OTHER_TYPES = [(key, {"mine": 1}) for key, leaf in FIELDS.items() if leaf.kind is not dict]
MAY_BE_THEIRS = [
    (key, value) for key, value in (*BEYOND, *OTHER_TYPES) if key.partition(".")[0] in SCHEMAS and key.count(".") == 1
]


def composed(tmp_path: Path, host: str, *overrides: str) -> DictConfig:
    """The config of an app whose primary is `host`, with data-parallel overlap added."""
    GlobalHydra.instance().clear()
    (tmp_path / "host.yaml").write_text(host)
    with initialize_config_dir(str(tmp_path), version_base=None):
        return compose("host", ["+comm_overlap=dp", *overrides])


@pytest.mark.parametrize(("key", "value"), MAY_BE_THEIRS, ids=lambda one: str(one))
def test_what_our_field_cannot_hold_is_not_read_and_would_be_refused_in_a_node_of_ours(key: str, value: Any) -> None:
    assert not FIELDS[key].allows(value)
    with pytest.raises(GatingError) as refusal:
        resolve(nest({key: value}))
    assert {finding.rule for finding in refusal.value.findings} <= {"CFG001", "CFG002", "CFG003", "CFG005"}


@pytest.mark.parametrize("key", [key for key in FIELDS if key.partition(".")[0] in SCHEMAS])
def test_what_our_field_holds_by_default_is_read(key: str) -> None:
    assert FIELDS[key].allows(DEFAULTS[key])


def test_values_of_an_apps_own_node_that_mean_something_else_go_unread_and_are_named(tmp_path: Path) -> None:
    host = {
        "model": {"recompute_modules": ["my_block"], "cp_comm_type": "ring", "hidden_size": 512, "hidden_dropout": 1.0},
        "ddp": {"use_distributed_optimizer": True},
        "optimizer": {"use_distributed_optimizer": True, "lr": 1e-5, "optimizer": "lamb", "weight_decay": -1.0},
        "training": {"seed": 2**40, "micro_batch_size": "auto", "on_nonfinite": "ignore"},
        "launch": {"loggers": ["neptune"], "slurm": {"nodes": 4}, "where": "kubernetes"},
    }
    cfg = composed(tmp_path, OmegaConf.to_yaml(OmegaConf.create(host)))
    resolution = judged(cfg, foreign_nodes=True)
    unread = {note.partition(" ")[0] for note in cfg.overlap.notes}
    read = {"model.hidden_size", "optimizer.lr", "optimizer.use_distributed_optimizer", "ddp.use_distributed_optimizer"}
    assert unread == {f"{node}.{name}" for node, values in host.items() for name in values} - read
    assert resolution.request["model"]["hidden_size"] == 512
    assert resolution.request["model"]["recompute_modules"] == DEFAULTS["model.recompute_modules"]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("model.recompute_modules", "[my_block]", "CFG003"),
        ("model.cp_comm_type", "ring", "CFG003"),
        ("training.seed", "1099511627776", "CFG005"),
        ("model.hidden_size", "wide", "CFG002"),
    ],
)
def test_a_field_that_the_app_maps_is_refused_where_ours_cannot_hold_it(
    tmp_path: Path, key: str, value: str, rule: str
) -> None:
    node, _, name = key.partition(".")
    host = f"{node}: {{{name}: {value}}}\noverlap: {{reads: {{{node}: {{{name}: {key}}}}}}}\n"
    with pytest.raises(Exception) as error:  # noqa: PT011  (Hydra wraps it)
        composed(tmp_path, host)
    found = refusal_in(error.value)
    assert found is not None, error.value
    assert [finding.rule for finding in found.findings] == [rule]
