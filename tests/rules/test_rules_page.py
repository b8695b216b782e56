"""docs/rules/ says what the declarations say."""

import re
from pathlib import Path

from hydra_overlap.reference.rules_page import family_of, pages, write
from hydra_overlap.rules import DERIVATIONS, RULES

FOLDER = Path(__file__).parent.parent.parent / "docs" / "rules"


def test_the_committed_pages_are_current() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.md")} == pages(), "make docs"


def test_every_rule_and_derivation_is_on_the_page_of_its_family() -> None:
    texts = pages()
    for rule in RULES:
        assert f"## {rule.__name__}: {rule.title()}\n" in texts[f"{family_of(rule.__name__).lower()}.md"]
    for derivation in DERIVATIONS:
        assert f"| {derivation.id} |" in texts[f"{family_of(derivation.id).lower()}.md"]


def test_every_rule_is_in_the_index_with_a_link_to_its_heading() -> None:
    texts = pages()
    links = dict(re.findall(r"^\| \[(\w+)\]\((\S+)\)", texts["README.md"], re.MULTILINE))
    assert list(links) == [rule.__name__ for rule in RULES]
    for rule in RULES:
        page, anchor = links[rule.__name__].split("#")
        heading = next(line for line in texts[page].splitlines() if line.startswith(f"## {rule.__name__}: "))
        assert anchor == re.sub(r"[^\w -]", "", heading.removeprefix("## ").lower()).replace(" ", "-")


def test_a_page_of_a_family_that_is_no_more_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("# A family that was given up\n")
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(pages())
