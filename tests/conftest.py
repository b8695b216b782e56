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
