"""Every key of the request has one name, and rules use it."""

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from hydra_overlap import rules
from hydra_overlap.schema import keys
from hydra_overlap.schema.fields import FIELDS
from hydra_overlap.schema.targets import LEDGER_KEYS, UPSTREAM

NAMES = {name: value for name, value in vars(keys).items() if name.isupper()}
MODULES = sorted(path for path in Path(rules.__file__).parent.glob("*.py"))


def test_every_name_is_a_field_of_the_request():
    assert not set(NAMES.values()) - set(FIELDS)


def test_no_field_has_two_names():
    assert [key for key, count in Counter(NAMES.values()).items() if count > 1] == []


def test_every_key_that_a_rule_reads_has_a_name():
    assert {key for rule in rules.RULES for key in rule.reads} <= set(NAMES.values())


def test_every_name_is_used_outside_its_module():
    package = Path(importlib.util.find_spec("hydra_overlap").submodule_search_locations[0])
    used = {
        node.id
        for path in package.rglob("*.py")
        if path != Path(keys.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name)
    }
    assert set(NAMES) - used == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_of_rules_writes_no_key_out(path):
    written = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FIELDS
    ]
    assert written == [] or path.stem == "cfg", "name it as schema/keys.py does"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_of_rules_gives_a_name_of_a_key_another_meaning(path):
    stored = {
        node.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert stored & set(NAMES) == set()


def test_defaults_of_the_ledger_are_those_of_the_installed_megatron_core():
    """Read from its source: importing it takes seconds."""
    folder = Path(str(importlib.util.find_spec("megatron.core").submodule_search_locations[0]))
    sources = ("model_parallel_config", "transformer/transformer_config", "distributed/distributed_data_parallel_config", "optimizer/optimizer_config")  # fmt: skip
    found = {}
    for name in sources:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                value = node.value
                if isinstance(value, ast.Call):  # field(default=...)
                    value = next((word.value for word in value.keywords if word.arg == "default"), None)
                if isinstance(value, ast.Constant):
                    found.setdefault(node.target.id, value.value)
    assert set(UPSTREAM) == set(LEDGER_KEYS)
    assert {key: found[key.rpartition(".")[2]] for key in UPSTREAM} == UPSTREAM
