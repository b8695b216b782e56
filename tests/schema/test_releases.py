"""The table of megatron-core's releases: what is in it, that the request follows it, and that the wheels say the same."""

import ast
import json
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from hydra_overlap.export import megatron_lm_parser
from hydra_overlap.megatron import configs
from hydra_overlap.schema import releases
from hydra_overlap.schema.fields import ARRIVED, FIELDS, SINCE
from hydra_overlap.schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS, UPSTREAM
from tests.each import each
from tools import core_releases

TABLE = json.loads(releases.TABLE.read_text())
SET = {releases.TRANSFORMER: TRANSFORMER_FIELDS, releases.DDP: DDP_FIELDS, releases.OPTIMIZER: OPTIMIZER_FIELDS}
NOT_OFFERED = {
    "model.cuda_graph_scope": {"full_iteration_inference"},  # of inference
    "model.recompute_modules": {"gdn_norm_out"},  # of a layer that no model here has
    "precision.fp8_recipe": {"custom"},  # needs a factory that the request does not name
    "precision.fp4_recipe": {"custom"},
}
"""Choices of upstream that the request does not offer."""


def at(version: str) -> dict[str, dict[str, Any]]:
    """What the table says about one release: class -> field -> entry."""
    found: dict[str, dict[str, Any]] = {}
    for name, members in TABLE["fields"].items():
        newest = {
            field: [told for since, told in changes.items() if Version(since) <= Version(version)][-1:]
            for field, changes in members.items()
        }
        found[name] = {field: told[0] for field, told in newest.items() if told and told[0] is not None}
    return found


@each("key", [key for key in FIELDS if releases.place(key) is not None])
def test_a_setting_is_in_every_release_from_its_first_on(key: str) -> None:
    told = [version for version in releases.versions() if releases.entry(key, version) is not None]
    assert told, f"{key} is a field of no release; say so in releases.OURS"
    assert told == list(releases.versions())[-len(told) :], "it was removed, and nothing says so"
    assert FIELDS[key].listed or SINCE.get(key, releases.versions()[0]) == told[0]


def test_what_is_no_field_of_megatron_core_is_what_train_py_reads_itself() -> None:
    ours = {f"{node}.{name}" for node, names in configs._READ_HERE.items() for name in names}
    assert ours | {"parallelism.world_size"} == releases.OURS


def test_the_fields_that_are_set_are_those_of_the_table() -> None:
    for name, fields in SET.items():
        for field in fields:
            assert any(field in at(version)[name] for version in releases.versions()), field


@each("key", [key for key, field in FIELDS.items() if field.choices and releases.choices(key)])
def test_the_choices_are_those_of_all_releases(key: str) -> None:
    known = {name for _, names in releases.choices(key) for name in names}
    assert set(FIELDS[key].choices) == known - NOT_OFFERED.get(key, set())
    for (_, before), (version, after) in zip(releases.choices(key), releases.choices(key)[1:], strict=False):
        gone = set(before) & set(FIELDS[key].choices) - set(after)
        assert not gone, f"{key}: {gone} left in {version}, and nothing says so"


def test_a_choice_is_as_new_as_the_first_release_that_has_it() -> None:
    assert ARRIVED["model.moe_flex_dispatcher_backend"] == {"ncclep": "0.19.0"}
    assert FIELDS["model.moe_flex_dispatcher_backend"].choices_in("0.18.2") == ("deepep", "hybridep")
    assert FIELDS["model.moe_flex_dispatcher_backend"].choices_in("0.19.0") == ("deepep", "hybridep", "ncclep")
    assert FIELDS["model.moe_flex_dispatcher_backend"].choices_in(None) == ("deepep", "hybridep", "ncclep")


@each("key", list(UPSTREAM))
def test_what_upstream_does_unasked_is_the_default_of_every_release(key: str) -> None:
    for version in releases.versions():
        entry = releases.entry(key, version)
        assert entry is not None
        assert ast.literal_eval(entry["default"]) == UPSTREAM[key], version


def test_a_release_outside_the_table_is_read_as_its_neighbour() -> None:
    key = "model.moe_flex_dispatcher_backend"
    assert releases.entry(key, "0.21.0") == releases.entry(key, "0.19.2")
    assert releases.entry(key, "0.15.2") is None
    assert releases.entry("model.fp8_recipe", "0.14.0") == releases.entry("model.fp8_recipe", "0.15.0")


def test_the_table_says_what_the_installed_release_has() -> None:
    found = util.find_spec("megatron")
    if found is None or metadata.version("megatron-core") not in releases.versions():
        pytest.skip("no megatron-core of a recorded version is installed")
    root = Path(next(iter(found.submodule_search_locations or ()))).parent
    texts = {path: (root / path).read_text() for path in core_releases.PATHS if (root / path).is_file()}
    assert core_releases.fields(texts) == at(metadata.version("megatron-core"))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.16.1", "0.17.1", "0.18.2", "0.19.2"])
def test_the_table_says_what_the_wheel_has(version: str, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version",
        "3.12", "--dest", str(tmp_path), f"megatron-core=={version}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer")
    wheels = list(tmp_path.glob("*.whl"))
    if not wheels:
        pytest.skip(f"no wheel of {version} can be had here: {done.stderr.strip()[-200:]}")
    assert core_releases.read_wheel(wheels[0]) == at(version)


def test_a_choice_that_only_the_parser_names_is_as_new_as_its_first_tag() -> None:
    for name in FIELDS["optimizer.optimizer"].choices:
        since = releases.BY_PARSER["optimizer.optimizer"].get(name, "0.0.0")
        for tag in megatron_lm_parser.releases():
            newer = tag == "main" or Version(tag.removeprefix("core_v")) >= Version(since)
            assert (name in megatron_lm_parser.by_dest(tag)["optimizer"]["choices"]) == newer, (name, tag)
