"""The old name of `hydra_overlap.run_app`, kept until 1.0."""

import warnings
from collections.abc import Callable
from typing import Any


def cli(main: Callable[[], Any], *, own_nodes_only: bool = False) -> None:
    """Use `hydra_overlap.run_app` instead, which this is."""
    from .compose.app import cli as run_app

    text = "hydra_overlap.app.cli has moved: use `from hydra_overlap import run_app`."
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    run_app(main, own_nodes_only=own_nodes_only)
