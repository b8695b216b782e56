"""The table of rooms in CONTRIBUTING.md is the contract that `make lint` checks, and each room says what it answers."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hydra_overlap"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def _floors() -> list[set[str]]:
    """The layers of the import contract, the lowest first."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is new in Python 3.11")
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [{name.strip(" ()") for name in layer.split("|")} for layer in reversed(layers)]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_a_sentence_what_it_answers(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    assert re.match(r".{20,}?[.:]", text, re.DOTALL), room


def test_the_table_in_contributing_has_every_room_on_its_floor() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    written: dict[str, str] = {}
    for floor, names in rows:
        written |= {name.strip("`/").removesuffix(".py"): floor for name in names.split(", ")}
    floors = _floors()
    for number, layer in enumerate(floors):
        for name in layer - {"_version", "app"}:
            assert written.pop(name) == ("top" if name == "cli" else str(number)), name
    assert set(written) == {"hydra_plugins"}


def test_every_room_stands_on_a_floor() -> None:
    assert set(ROOMS) <= set().union(*_floors())
