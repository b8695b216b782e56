"""Options of every run, and the order in which tests start."""

import os

import pytest
from hypothesis import settings

from tests import warm

os.environ["COLUMNS"] = "140"  # whatever terminal the tests run in; processes that they start inherit it

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start a new interpreter for every script (tests/warm.py)")


def pytest_configure(config: pytest.Config) -> None:
    warm.cold = config.getoption("--cold")


FIRST = ("packaging", "slurm", "train", "dry_run", "sweep")  # folders whose tests take longest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests start first, so that no worker is left with one at the end. Within a file the order stays."""
    items.sort(key=_place)
    if getattr(config.option, "loadgroup", False):
        for item in items:
            _tell_the_group(item)


def _tell_the_group(item: pytest.Item) -> None:
    """pytest-xdist 3.8 reads a test's group behind the `@` of its id, and writes it where pytest 9.2 no longer looks."""
    groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
    if groups and not item.nodeid.endswith(f"@{'_'.join(groups)}"):
        from _pytest.nodeid import coerce_node_id

        item._id = coerce_node_id(f"{item.nodeid}@{'_'.join(groups)}")


def _place(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.parent.name
    return item.get_closest_marker("slow") is None, FIRST.index(folder) if folder in FIRST else len(FIRST)
