"""Option files are read as Hydra reads them, only faster."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_overlap.compose import option_source
from hydra_overlap.compose.option_source import OptionFileSource
from tests.compose.commands import Compose, Run
from tests.compose.test_typed_nodes import facts

CONF = Path(option_source.folder() or "")
FILES = sorted(str(file.relative_to(CONF).with_suffix("")) for file in CONF.rglob("*.yaml"))


def sources(folder: Path) -> tuple[OptionFileSource, FileConfigSource]:
    return OptionFileSource("main", f"overlap://{folder}"), FileConfigSource("main", f"file://{folder}")


def told(found: ConfigResult) -> Any:
    return facts(copy.deepcopy(found.config)), found.header, found.provider


def test_every_option_file_is_read_as_hydra_reads_it() -> None:
    ours, theirs = sources(CONF)
    assert len(FILES) > 200
    for name in FILES:
        assert told(ours.load_config(name)) == told(theirs.load_config(name)), name
        assert ours.content(name) == OmegaConf.to_container(theirs.load_config(name).config), name


@pytest.mark.parametrize(
    "text",
    [
        "", "# only a comment\n", "# @package _global_\na: 1\n", "a: 1e3\nb: 1_000\nc: .5\nd: 0o17\ne: 12:30\nf: 2026-11-30\n",
        "a: {b: [1, {c: x}, []], d: {}}\n", "1: one\ntrue: yes\n", "a: ${b}\nb: '???'\n", "a: ${\n", "a: 1\na: 2\n", "a: [1\n",
        "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", "- 1\n- 2\n", "just text\n", "a: !!binary aGVsbG8=\n", "a: é\u2028b\n",
        "\ta: 1\n", "a: 1\n---\nb: 2\n", "a: null\nb: ~\nc:\nd: 'null'\n", "a: |\n  two\n  lines\nb: >-\n  one\n  line\n",
    ],
)  # fmt: skip
def test_any_file_is_read_as_hydra_reads_it_or_refused_as_hydra_does(tmp_path: Path, text: str) -> None:
    (tmp_path / "any.yaml").write_text(text, encoding="utf-8")

    def outcome(source: Any) -> Any:
        try:
            return told(source.load_config("any"))
        except (yaml.YAMLError, OmegaConfBaseException, OSError) as error:
            return type(error), str(error).replace("overlap://", "file://")

    ours, theirs = sources(tmp_path)
    assert outcome(ours) == outcome(theirs)


def test_what_is_listed_is_what_hydra_lists(tmp_path: Path) -> None:
    ours, theirs = sources(CONF)
    for group in ("", "model", "comm_overlap", "hydra", "no_such_group"):
        assert ours.is_group(group) == theirs.is_group(group)
        assert ours.is_config(f"{group}/none") == theirs.is_config(f"{group}/none")
        if theirs.is_group(group):
            assert ours.list(group, None) == theirs.list(group, None)
    assert ours.available()
    assert not OptionFileSource("main", f"overlap://{tmp_path}/absent").available()
    with pytest.raises(ConfigLoadError, match="Config not found"):
        ours.load_config("model/no_such_model")


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text("a: 1\n")
    ours, _ = sources(tmp_path)
    first: Any = ours.load_config("any").config
    first.a = 5  # what was handed out is nobody else's
    assert ours.load_config("any").config == {"a": 1}
    file.write_text("a: 2\n")
    os.utime(file, ns=(1, 1))
    assert ours.load_config("any").config == {"a": 2}


def test_our_folder_is_served_by_it_wherever_it_stands_on_the_search_path(tmp_path: Path, composed: Compose) -> None:
    (tmp_path / "host.yaml").write_text("defaults: [_self_]\n")
    with initialize_config_dir(str(CONF), version_base=None):
        at_home: Any = compose("config", return_hydra_config=True)
    in_host: Any = composed(config_name="host", config_dir=tmp_path, hydra=True)
    found = [{each.provider: each.schema for each in cfg.hydra.runtime.config_sources} for cfg in (at_home, in_host)]
    ours = {"hydra": "pkg", "hydra-overlap": "overlap", "schema": "structured"}
    assert found == [{**ours, "main": "overlap"}, {**ours, "main": "file"}]


def test_a_default_composition_reads_only_the_files_it_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(
        "from hydra import compose, initialize_config_module\n"
        "from hydra_overlap.compose import option_source\n"
        "with initialize_config_module('hydra_overlap.conf', version_base=None):\n"
        "    compose('config')\n"
        "print(option_source._read.cache_info().misses)\n"
    )
    assert int(run(tmp_path / "light.py").stdout) == 20
