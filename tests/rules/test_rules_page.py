"""docs/rules.md says what the declarations say."""

from pathlib import Path

from hydra_overlap.reference.rules_page import page
from hydra_overlap.rules import DERIVATIONS, RULES

PAGE = Path(__file__).parent.parent.parent / "docs" / "rules.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == page(), "python -m hydra_overlap.reference.rules_page > docs/rules.md"


def test_every_rule_and_derivation_has_its_place_on_the_page() -> None:
    text = page()
    assert all(f"### {rule.__name__}: {rule.title()}" in text for rule in RULES)
    assert all(f"| {derivation.id} |" in text for derivation in DERIVATIONS)
