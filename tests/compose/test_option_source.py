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
from hydra_overlap.compose.option_source import HostFileSource, OptionFileSource
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
        assert ours.read(name)[1] == OmegaConf.to_container(theirs.load_config(name).config), name


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
            assert ours.list(group, None) == [name for name in theirs.list(group, None) if name != "_overlap"]
    assert ours.available()
    assert not OptionFileSource("main", f"overlap://{tmp_path}/absent").available()
    with pytest.raises(ConfigLoadError, match="Config not found"):
        ours.load_config("model/no_such_model")


def test_another_app_sees_what_it_can_want_under_names_that_are_not_its_own() -> None:
    host, whole = HostFileSource("main", f"overlap_host://{CONF}"), sources(CONF)[0]
    assert host.list("", None) == ["comm_overlap", "overlap", "userbuffers"]
    assert host.list("overlap", None) == ["ddp", "model", "parallelism", "platform", "precision", "software"]
    for group in ("overlap/parallelism", "userbuffers", "comm_overlap", "comm_overlap/tp"):
        own = group.removeprefix("overlap/")
        assert host.is_group(group)
        assert host.list(group, None) == whole.list(own, None)
    layout, bundle = host.load_config("overlap/parallelism/tp4"), host.load_config("comm_overlap/tp4_h100")
    assert layout.config == whole.load_config("parallelism/tp4").config
    assert layout.header["package"] == "_global_.parallelism"
    brought = [next(iter(entry)) for entry in bundle.config["defaults"] if not isinstance(entry, str)]
    assert brought[4:] == [
        "/overlap/parallelism",
        "/userbuffers@_global_.userbuffers",
        "/overlap/platform",
        "/overlap/software",
    ]
    assert host.read("comm_overlap/tp4_h100")[1]["defaults"] == bundle.config["defaults"]
    for path in (
        "parallelism/tp4",
        "experiment/llama3_70b_64gpu_h100_bf16",
        "overlap/training/short",
        "config",
        "overlap/none",
    ):
        assert not host.is_config(path)
        assert not host.is_group(path.rpartition("/")[0]) or path.startswith("overlap/") or "/" not in path
        with pytest.raises(ConfigLoadError):
            host.load_config(path)


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
    both = {"hydra": "pkg", "schema": "structured"}
    assert found == [
        {**both, "main": "overlap", "hydra-overlap": "overlap"},
        {**both, "main": "file", "hydra-overlap": "overlap_host"},
    ]


def test_a_default_composition_reads_only_the_files_it_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(
        "from hydra import compose, initialize_config_module\n"
        "from hydra_overlap.compose import option_source\n"
        "with initialize_config_module('hydra_overlap.conf', version_base=None):\n"
        "    compose('config')\n"
        "print(option_source._read.cache_info().misses)\n"
    )
    assert int(run(tmp_path / "light.py").stdout) == 20
