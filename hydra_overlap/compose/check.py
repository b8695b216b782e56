"""Judging a command line without running it: our own primary config, or that of an app, composed with overrides."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import REFUSED, HydraOverlapError
from ..findings import Finding
from ..resolver.resolution import Resolution
from ..rules.trn import OURS
from ..schema.keys import TRAINER
from .overrides import quoted
from .unreadable import unreadable_in


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `hydra-overlap check` says. exit_code: 0 accepted, 1 refused, 2 unreadable. resolution: None unless accepted.

    headline, footer: of a refusal, above and below its findings.
    """

    exit_code: int
    headline: str = ""
    footer: str = ""
    findings: tuple[Finding, ...] = ()
    resolution: Resolution | None = None


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The primary config that is composed, said as Hydra's own options say it.

    folder: `--config-dir`, an app's configuration directory; module: `--config-module`, the package that holds it; name:
    `--config-name`. A folder without a name adds its options to our own config. None at all: our own config.
    """

    folder: Path | None = None
    module: str | None = None
    name: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is our own config, whatever options a folder adds."""
        return self.name is None


def check(overrides: Sequence[str], *, trainer: str = OURS, primary: Primary = Primary()) -> Verdict:
    """Compose a primary config with `overrides` and judge it.

    trainer: whose plan it is if our own config is composed, unless an override of launch.trainer says so. For `other` what
    train.py needs and does not build is not judged.
    """
    from hydra.core.global_hydra import GlobalHydra

    from . import budgets, hydra_errors
    from .enforce import judged, refusal_in

    whose = [f"{TRAINER}={trainer}"] if primary.ours and trainer != OURS else []
    GlobalHydra.instance().clear()
    try:
        budgets.require_short(overrides)
        resolution = judged(_composed(primary, [*whose, *overrides]), foreign_nodes=not primary.ours)
    except Exception as error:
        unread = unreadable_in(error)
        if unread is not None:
            return Verdict(exit_code=unread.exit_code, headline=unread.headline, findings=unread.findings)
        refusal = refusal_in(error)
        if refusal is not None:
            return Verdict(
                exit_code=REFUSED, headline=refusal.headline, footer=refusal.footer, findings=refusal.findings
            )
        mistake = None if isinstance(error, HydraOverlapError) else hydra_errors.explain(error, overrides, sweeps=False)
        if mistake is None:
            raise
        return Verdict(exit_code=mistake.exit_code, headline=mistake.headline, findings=mistake.findings)
    return Verdict(exit_code=0, findings=resolution.findings, resolution=resolution)


def _composed(primary: Primary, overrides: Sequence[str]) -> Any:
    from .budgets import bounded

    with bounded():
        return _compose(primary, overrides)


def _compose(primary: Primary, overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_dir, initialize_config_module

    if primary.name is None:
        added = [] if primary.folder is None else [_search_path(primary.folder)]
        with initialize_config_module("hydra_overlap.conf", version_base=None):
            return compose("config", [*added, *overrides])
    if primary.folder is not None:
        with initialize_config_dir(str(primary.folder.absolute()), version_base=None):
            return compose(primary.name, list(overrides))
    assert primary.module is not None, "a name says nothing without a place"
    with _importable_from_here(), initialize_config_module(primary.module, version_base=None):
        return compose(primary.name, list(overrides))


def _search_path(folder: Path) -> str:
    """The override that adds a folder of options."""
    value = quoted("", f"file://{folder.absolute()}").removeprefix("=")
    return f"hydra.searchpath=[{value}]"


@contextmanager
def _importable_from_here() -> Iterator[None]:
    """Find modules of the directory that the command was typed in, as `python -m` does."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())
