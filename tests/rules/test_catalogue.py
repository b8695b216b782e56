"""Every record of the catalogue of upstream behaviour has an answer: a rule, a derivation, an advisory, or a reason."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from hydra_overlap.rules import ADVISORIES, DERIVATIONS, RULES
from hydra_overlap.rules.env import RECORDS as ENVIRONMENT

ROOT = Path(__file__).parents[2]
CATALOGUE = json.loads((ROOT / "tests/reference/rules_catalogue.json").read_text())["records"]
IDS = [record["id"] for record in CATALOGUE]
OMITTED = re.findall(r"^- `([^`]+)`: .{20,}", (ROOT / "docs/rules-not-implemented.md").read_text(), re.MULTILINE)
DECLARED = [
    *(record for rule in RULES for record in rule.records),
    *(record for derivation in DERIVATIONS for record in derivation.records),
    *(record for advisory in ADVISORIES for record in advisory.records),
    *(record for records in ENVIRONMENT.values() for record in records),
]


@pytest.mark.parametrize("record", IDS)
def test_every_record_is_declared_or_left_out_for_a_reason(record: str) -> None:
    assert (record in DECLARED) != (record in OMITTED)


def test_nothing_is_declared_or_left_out_that_is_no_record() -> None:
    assert {*DECLARED, *OMITTED} == set(IDS)


def test_no_record_is_left_out_twice() -> None:
    assert [record for record, count in Counter(OMITTED).items() if count > 1] == []
