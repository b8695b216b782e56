"""Every record of the catalogue of upstream behaviour has an answer: a rule (advisories are), a derivation, or a reason."""

import json
import re
from collections import Counter
from pathlib import Path

from hydra_overlap.rules import DERIVATIONS, RULES
from hydra_overlap.rules.env import RECORDS as ENVIRONMENT
from tests.each import each

ROOT = Path(__file__).parents[2]
CATALOGUE = json.loads((ROOT / "tests/reference/rules_catalogue.json").read_text())["records"]
IDS = [record["id"] for record in CATALOGUE]
OMITTED = re.findall(r"^- `([^`]+)`: .{20,}", (ROOT / "docs/rules-not-implemented.md").read_text(), re.MULTILINE)
ANSWERS = {
    "rule": [record for rule in RULES for record in rule.records],
    "derivation": [record for derivation in DERIVATIONS for record in derivation.records],
    "environment": [record for records in ENVIRONMENT.values() for record in records],
}
DECLARED = [record for records in ANSWERS.values() for record in records]


def answer(record: str) -> str:
    """What a record became: the first kind of declaration that names it, or "left out"."""
    return next((kind for kind, records in ANSWERS.items() if record in records), "left out")


@each("record", IDS)
def test_every_record_is_declared_or_left_out_for_a_reason(record: str) -> None:
    assert (record in DECLARED) != (record in OMITTED)


def test_nothing_is_declared_or_left_out_that_is_no_record() -> None:
    assert {*DECLARED, *OMITTED} == set(IDS)


def test_no_record_is_left_out_twice() -> None:
    assert [record for record, count in Counter(OMITTED).items() if count > 1] == []
