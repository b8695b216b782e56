"""The audit of Bridge's recipes finds what Bridge switches off, and agrees with the recorded answers of Bridge."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap.audit import recipes
from hydra_overlap.cli import main

FILE = Path(__file__).parents[1] / "reference" / "bridge_recipes.json"
PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture(scope="module")
def audited():
    recorded = recipes.load(FILE)
    return list(zip(recorded, recipes.audit(recorded), strict=True))


def test_bridge_switches_tp_overlap_off_in_105_of_the_147_recipes_that_ask(audited) -> None:
    asking = [row for _, row in audited if row.asks]
    lost = [row for row in asking if not row.in_bridge]
    assert (len(audited), len(asking), len(lost)) == (357, 147, 105)


def test_our_rules_refuse_each_of_those_105_and_name_tp001(audited) -> None:
    assert [row.recipe for _, row in audited if row.asks and not row.in_bridge and "TP001" not in row.refused_by] == []


def test_none_of_the_42_that_hold_in_bridge_is_refused_for_having_too_few_ranks(audited) -> None:
    assert [row.recipe for _, row in audited if row.asks and row.in_bridge and "TP001" in row.refused_by] == []


def test_bridges_answer_is_the_recorded_one(audited) -> None:
    """Not compared: what the recording has of data parallelism without a distributed optimizer, where Bridge sets nothing."""
    wrong = []
    for recorded, row in audited:
        effective = dict(recorded["comm_overlap_effective"] or {})
        if not recorded["ddp"]["use_distributed_optimizer"]:
            for name in (
                "overlap_grad_reduce",
                "overlap_param_gather",
                "overlap_param_gather_with_optimizer_step",
                "align_param_gather",
                "bucket_size",
            ):
                effective.pop(name, None)
        assert row.bridge is not None or not effective
        wrong += [(row.recipe, name, value) for name, value in effective.items() if row.bridge[name] != value]
    assert wrong == []
    assert sum(recorded["comm_overlap_effective"] is not None for recorded, _ in audited) == 304


def test_the_page_shows_the_report_of_the_command(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    done = CliRunner().invoke(main, ["audit", "--bridge-recipes", str(FILE)])
    assert done.exit_code == 0
    assert done.output.strip() in PAGE.read_text(), "write the output of the command into docs/audit.md"


def test_programs_get_one_row_for_each_recipe(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    rows = json.loads(CliRunner().invoke(main, ["audit", "--bridge-recipes", str(FILE), "--json"]).output)["result"]
    assert len(rows) == 357 and sum(row["asks_tp_overlap"] and not row["tp_overlap_in_bridge"] for row in rows) == 105
