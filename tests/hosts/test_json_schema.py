"""The JSON Schema an editor gets: it takes every shipped option file and refuses what the rules would refuse first."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hydra_overlap.cli import main
from hydra_overlap.reference.json_schema import UnknownNodeError, schema
from hydra_overlap.rules.cfg import judge_values
from hydra_overlap.rules.ub import DGRAD, GEMMS, METHODS, UB002, UB003, UB004, UB009, UB_ARGUMENTS
from hydra_overlap.schema.descriptions import descriptions
from hydra_overlap.schema.fields import BELOW, DEFAULTS, FIELDS, MINIMUM, MOST, NODES
from hydra_overlap.schema.keys import UB_LAYERS
from tests.each import each

jsonschema = pytest.importorskip("jsonschema")

CONF = Path(__file__).parents[2] / "conf"
GROUPS = (
    "comm_overlap",
    *(f"comm_overlap.{d}" for d in ("tp", "pp", "dp", "ep")),
    *(n for n in NODES if (CONF / n).is_dir() and n != "comm_overlap"),
)


def leaf(key: str):
    node = schema()
    for part in key.split("."):
        node = node["properties"][part]
    return node


def valid(node: str, text: str) -> bool:
    validator = jsonschema.Draft7Validator(schema(node))
    return not list(validator.iter_errors(yaml.safe_load(text)))


@each("node", ["", *GROUPS])
def test_it_is_a_schema(node: str) -> None:
    jsonschema.Draft7Validator.check_schema(schema(node))


@each("key", FIELDS)
def test_every_field_is_there_with_what_it_means(key: str) -> None:
    found = leaf(key)
    assert found["description"] == descriptions()[key]
    assert found["default"] == FIELDS[key].default


@pytest.mark.parametrize("group", GROUPS)
def test_every_shipped_option_file_is_valid(group: str) -> None:
    validator = jsonschema.Draft7Validator(schema(group))
    files = sorted((CONF / group.replace(".", "/")).glob("*.yaml"))
    assert files
    for file in files:
        errors = [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()) or {})]
        assert errors == [], file.name


def test_every_shipped_experiment_is_a_valid_primary_config() -> None:
    validator = jsonschema.Draft7Validator(schema())
    for file in (CONF / "config.yaml", *(CONF / "experiment").glob("*.yaml")):
        errors = [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))]
        assert errors == [], file.name


@pytest.mark.parametrize(
    ("node", "text", "good"),
    [
        ("model", "hidden_size: 64", True),
        ("model", "hidden_size: null", True),
        ("model", "hidden_size: ${net.width}", True),
        ("model", "hidden_size: wide", False),
        ("model", "hidden_size: 0", False),
        ("model", "hiden_size: 64", False),
        ("model", "recompute_modules: [moe]", True),
        ("model", "recompute_modules: [mo]", False),
        ("comm_overlap.tp", "tp_comm_bootstrap_backend: smoke", False),
        ("comm_overlap.dp", "bucket_size: true", False),
        ("model", "hidden_dropout: 1.0", False),
        ("training", "seed: 4294967295", True),
        ("training", "seed: 4294967296", False),
        ("platform", "name: h100", True),
        ("platform", "name: h900", False),
        ("software", "transformer_engine: 2.11.0", True),
        ("software", "transformer_engine: auto", True),
        ("software", "transformer_engine: newest", False),
        ("userbuffers", "layers: {qkv_dgrad: {method: bulk, num_sm: 4}, qkv_wgrad: null}", True),
        ("userbuffers", "layers: {qkv_fwd: {method: bulk}}", False),
        ("", "my_own_node: 1\ncomm_overlap: {dp: {bucket_size: 1000000}}", True),
        ("", "comm_overlap: {dp: {bucket_sise: 1000000}}", False),
    ],
)
def test_it_tells_right_from_wrong(node: str, text: str, good: bool) -> None:
    assert valid(node, text) is good


ENTRIES = [
    *({"method": method} for method in METHODS),
    *({name: value} for name in UB_ARGUMENTS for value in (-1, 0, 1, 32, 33, 64, True, "bulk")),
]


@pytest.mark.parametrize("gemm", GEMMS)
def test_an_entry_is_valid_where_the_rules_take_it(gemm: str) -> None:
    validator = jsonschema.Draft7Validator(schema("userbuffers"))
    rules = [UB002, UB003, UB004, *([] if gemm in DGRAD else [UB009])]  # at a dgrad two arguments decide together
    for entry in ENTRIES:
        layers = {gemm: entry}
        taken = all(rule.holds({UB_LAYERS: layers}) for rule in rules)
        assert validator.is_valid({"layers": layers}) is taken, entry


@each("key", [*MINIMUM, *BELOW, *(key for key in MOST if FIELDS[key].ceiling)])
def test_a_number_is_valid_where_the_rules_take_it(key: str) -> None:
    node, _, name = key.rpartition(".")
    validator = jsonschema.Draft7Validator(schema(node))
    limits = [MINIMUM.get(key), BELOW.get(key), MOST[key].most if FIELDS[key].ceiling else None]
    for number in (limit + step for limit in limits if limit is not None for step in (-1, 0, 1)):
        value = [number] if FIELDS[key].listed else number
        flat = {**DEFAULTS, "software.torch": None, key: value}
        ranged = not [finding for finding in judge_values(flat, lambda _: "") if finding.rule == "CFG005"]
        assert validator.is_valid({name: value}) is ranged, value


def test_the_command_prints_it_and_knows_no_other_nodes() -> None:
    assert json.loads(CliRunner().invoke(main, ["schema", "model"]).output) == schema("model")
    assert CliRunner().invoke(main, ["schema", "modle"]).exit_code == 2
    with pytest.raises(UnknownNodeError):
        schema("model.hidden_size")
