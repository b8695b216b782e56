"""The schemas in Hydra's ConfigStore are what omegaconf would make of the classes, made only when they are asked for."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from hydra_overlap.compose import typed_nodes
from hydra_overlap.schema import nodes
from hydra_plugins.hydra_overlap_plugin import sweeper


def facts(node: Any) -> Any:
    """All that omegaconf keeps of a node and of those below it."""
    content = node.__dict__.get("_content")
    children = dict(enumerate(content)) if isinstance(content, list) else content if isinstance(content, dict) else {}
    for child in children.values():
        assert child._get_parent() is node
    below = {key: facts(child) for key, child in children.items()} if isinstance(content, (list, dict)) else content
    own = {key: value for key, value in node.__dict__.items() if key not in ("_metadata", "_parent", "_content", "_flags_cache")}  # fmt: skip
    return type(node), vars(node._metadata), own, below


def loaded(path: str) -> DictConfig:
    """A schema as Hydra loads it and puts it in its place: stored, copied, copied."""
    folder, _, name = path.removesuffix(".yaml").rpartition("/")
    if folder == "_overlap/schema":
        return copy.deepcopy(typed_nodes.schema(name))
    return copy.deepcopy(ConfigStore.instance().load(path).node)


def class_of(kinds: Any) -> Any:
    if isinstance(kinds, dict):
        return {key: class_of(kind) for key, kind in kinds.items()}
    return getattr(nodes, kinds.rpartition(".")[2])


@pytest.mark.parametrize("name", typed_nodes.SCHEMAS)
def test_a_schema_is_what_omegaconf_makes_of_its_class(name: str) -> None:
    expected = OmegaConf.structured(class_of(typed_nodes.SCHEMAS[name]))
    assert facts(loaded(f"_overlap/schema/{name}.yaml")) == facts(expected)


def test_the_settings_of_our_sweeper_are_what_omegaconf_makes_of_them() -> None:
    typed_nodes._made_of.cache_clear()  # Hydra's plugin scan runs a module again that a test imported before
    assert facts(loaded("hydra/sweeper/overlap.yaml")) == facts(OmegaConf.structured(sweeper.OverlapSweeperConf))


def test_two_configs_share_no_node() -> None:
    first, second = loaded("_overlap/schema/launch.yaml"), loaded("_overlap/schema/launch.yaml")
    first.loggers.append("wandb")
    first.slurm.nodes = 4
    OmegaConf.set_readonly(first.slurm, True)
    assert facts(second) == facts(OmegaConf.structured(nodes.Launch))


def test_a_copy_keeps_what_was_changed() -> None:
    node: Any = OmegaConf.structured(nodes.Launch)
    node.loggers, node.max_ranks = ["wandb"], "${launch.slurm.nodes}"
    node._set_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS", True)
    assert facts(typed_nodes.copied(node)) == facts(copy.deepcopy(node)) == facts(copy.deepcopy(typed_nodes.copied(node, typed_nodes.Fresh)))  # fmt: skip


def test_what_stays_in_the_store_goes_to_other_processes() -> None:
    """Launchers of Hydra hand the store to their workers, pickled."""
    copied = pickle.loads(pickle.dumps(ConfigStore.instance().repo["hydra"]["sweeper"]["overlap.yaml"]))
    settings = copy.deepcopy(copy.deepcopy(copied.node))
    assert facts(settings) == facts(OmegaConf.structured(sweeper.OverlapSweeperConf))


def test_an_app_without_our_option_files_loads_none_of_our_classes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "import hydra\n"
        "@hydra.main(version_base=None, config_path=None)\n"
        "def main(cfg):\n"
        "    print(sorted(name for name in sys.modules if name.startswith('hydra_overlap')))\n"
        "main()\n"
    )
    command = [sys.executable, str(tmp_path / "app.py"), "hydra.run.dir=.", "hydra.output_subdir=null"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    light = ["hydra_overlap", "hydra_overlap._version", "hydra_overlap.compose", "hydra_overlap.compose.option_source",
             "hydra_overlap.compose.typed_nodes", "hydra_overlap.schema", "hydra_overlap.schema.annotations"]  # fmt: skip
    assert out.strip() == str(light)


def test_nodes_are_made_compared_and_shown_as_dataclasses_are() -> None:
    assert nodes.Launch(max_ranks=4).max_ranks == 4
    assert nodes.Launch().loggers is not nodes.Launch().loggers
    assert nodes.Launch() == nodes.Launch() != nodes.Launch(where="slurm")
    assert repr(nodes.TunedFor(tp=4)).startswith("TunedFor(gpu=None, hidden_size=None, tp=4,")
    assert OmegaConf.to_object(OmegaConf.structured(nodes.Launch)) == nodes.Launch()
    with pytest.raises(TypeError, match="Launch has no field max_rank"):
        nodes.Launch(max_rank=4)
