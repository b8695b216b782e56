"""The table of docs/rehearsal.md is what `python benchmarks/parity.py` measured, and what it measured agrees."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(parity: ModuleType) -> dict:
    return json.loads(parity.RESULTS.read_text())


def test_the_page_shows_the_measured_table(parity: ModuleType, results: dict) -> None:
    assert parity.table(results) in parity.PAGE.read_text()


def test_every_row_was_measured_and_agrees(parity: ModuleType, results: dict) -> None:
    assert parity.mistakes(results) == []
    assert set(results) == {parity.key(model, row) for model, rows in parity.TABLE.items() for row in rows}


def test_every_row_names_the_versions_it_ran_with(results: dict) -> None:
    for row in results.values():
        assert set(row["versions"]) == {"megatron-core", "torch", "Python"}


def test_the_recorded_overrides_are_those_of_the_table(parity: ModuleType, results: dict) -> None:
    for model, rows in parity.TABLE.items():
        for row in rows:
            expected = [f"precision={model.numbers}", *model.overrides, *row.overrides]
            assert results[parity.key(model, row)]["overrides"] == expected


def test_a_loss_that_moves_is_a_mistake(parity: ModuleType, results: dict) -> None:
    name = "tiny GPT, gradients not clipped, fp32: DP 4, grad reduce, param gather"
    moved = json.loads(json.dumps(results))
    moved[name]["losses"][-1] *= 1.00001
    assert [line.startswith(name) for line in parity.mistakes(moved)] == [True, True]
