"""Options of every run, and the order in which tests start."""

import os

import pytest
from hypothesis import settings

from tests import warm

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start a new interpreter for every script (tests/warm.py)")


def pytest_configure(config: pytest.Config) -> None:
    warm.cold = config.getoption("--cold")


FIRST = ("packaging", "slurm", "train", "dry_run", "sweep")  # folders whose tests take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests start first, so that no worker is left with one at the end. Within a file the order stays."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.parent.name
    return item.get_closest_marker("slow") is None, FIRST.index(folder) if folder in FIRST else len(FIRST)
