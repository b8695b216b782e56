"""A refusal's headline states the problem, and not what would be right."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydra_overlap.rules import RULES, Rule

ROOT = Path(__file__).parent.parent.parent
MOST = 90  # characters: a headline is one line of a terminal
REQUIREMENT = re.compile(
    r"\b(needs?|requires?|must|should|excludes?|has to|have to|agrees?|is a multiple|is one of|belong together)\b"
)
TITLED = {"LaunchError": 0, "SweepError": 0, "_finding": 1, "_usage": 1, "_refusal": 1, "expect": 2, "note": 1}
"""Calls that make a refusal -> the position of its headline."""


def titles() -> Iterator[tuple[str, str]]:
    """(place, headline) of every refusal that is not a rule's; what a headline fills in is `VALUE`."""
    for path in (*sorted(ROOT.glob("hydra_overlap/**/*.py")), ROOT / "train.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                position = TITLED.get(ast.unparse(node.func).rpartition(".")[2])
                if position is not None and len(node.args) > position:
                    text = written(node.args[position])
                    if text:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def written(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values)  # type: ignore[misc]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


HEADLINES = dict(titles())


def states_the_problem(title: str) -> bool:
    return REQUIREMENT.search(title) is None and not title.endswith((".", ";", ","))


def test_the_headlines_of_refusals_are_found() -> None:
    assert len(HEADLINES) > 70
    assert "No complete checkpoint in checkpoint.load" in HEADLINES.values()


@pytest.mark.parametrize("place", HEADLINES)
def test_a_headline_says_what_is_wrong_and_not_what_would_be_right(place: str) -> None:
    assert states_the_problem(HEADLINES[place])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_title_says_what_is_wrong_in_one_line(rule: type[Rule]) -> None:
    title = rule.title()
    assert states_the_problem(title)
    assert 10 < len(title) <= MOST
    assert title not in (other.title() for other in RULES if other is not rule)


@pytest.mark.parametrize(
    "requirement", ["TP overlap needs sequence parallelism", "world_size is a multiple of TP x PP x CP", "Ends so."]
)
def test_a_requirement_is_no_headline(requirement: str) -> None:
    assert not states_the_problem(requirement)
