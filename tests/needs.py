"""What a test needs besides our own package; found without importing it, so that collecting stays quick."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Late:
    """A module that is imported where it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def missing(module: str) -> bool:
    """Whether the module cannot be found. It is not imported, its parents are."""
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:
        return True


TORCH = pytest.mark.skipif(missing("torch"), reason="needs torch")
MEGATRON = pytest.mark.skipif(missing("megatron.core"), reason="needs megatron-core")
IN_PROCESS = pytest.mark.xdist_group("torch")
"""Tests that import torch themselves: one worker does, the others keep its seconds."""
