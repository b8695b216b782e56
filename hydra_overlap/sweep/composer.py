"""The config of one point, identical to what Hydra composes for it, many times as fast.

Hydra reads, merges and types all option files anew for every job; `bases` does that once for what points have in common.
With a Hydra other than 1.3, and for a point that is not provably the same (a value written through an interpolation,
`hydra` as a whole, a search path of its own), Hydra itself composes.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from ..compose import enforce as composition
from ..compose import option_source
from ..compose.enforce import PLAN_VARIABLE
from ..schema.fields import OUTPUT

if TYPE_CHECKING:
    from .base_configs import Bases, Prepared

KNOWN_HYDRA = "1.3."


class Composer:
    """Composes the points of one sweep. master: the config Hydra composed for the sweep itself."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._bases = _bases(loader, master)
        self._choices_known: set[Any] = set()  # of which it is known that no file overrules them

    def base_key(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Group choices of a point, and more: points of one key, judged in a row, are fastest."""
        return self._bases.key(overrides) if self._bases else ()

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a point, judged: what `load_sweep_config` gives, or raises. Good until the next call."""
        with composition.as_point():
            point = self._bases.point(overrides, OUTPUT) if self._bases else None
            if point is None:
                return self._slow(overrides)
            _copy_environment(point)
            return self._finished(point)

    def judge(self, overrides: Sequence[str]) -> tuple[DictConfig, composition.Answer | None]:
        """The config of a point, its answer not written into it, and the answer: None where none of our nodes is in it.

        Raises what `compose` raises, and CFG006 where our check was replaced. Good until the next call.
        """
        with composition.as_point() as answers:
            point = self._bases.point(overrides) if self._bases else None
            if point is None:
                config = self._slow(overrides)
            else:
                if _carries_our_check(point.config):
                    answers.append(self._answer(point, overrides))
                else:
                    _copy_environment(point)
                config = self._finished(point)
            if not answers:
                config.hydra.job.env_set.get(PLAN_VARIABLE)  # our guard, where our check was replaced: it refuses
            return config, answers[-1] if answers else None

    def _answer(self, point: "Prepared", overrides: Sequence[str]) -> composition.Answer:
        """The answer to a point. Whether a file overrules a choice depends on no value: once is enough for a set of keys."""
        alike = (self.base_key(overrides), frozenset(line.partition("=")[0] for line in overrides))
        answer = _answer(point, choices_known=alike in self._choices_known)
        self._choices_known.add(alike)
        return answer

    def _slow(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._master, list(overrides))

    def _finished(self, point: "Prepared") -> DictConfig:
        point.finish()
        OmegaConf.copy_cache(from_config=self._master, to_config=point.config)
        return point.config


def _bases(loader: ConfigLoader, master: DictConfig) -> "Bases | None":
    if not hydra.__version__.startswith(KNOWN_HYDRA):
        return None
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from .base_configs import Bases

    return Bases(loader, master) if type(loader) is ConfigLoaderImpl else None


def _answer(point: "Prepared", *, choices_known: bool) -> composition.Answer:
    try:
        return composition.judge(point.config, with_origins=False, plain=point.plain, choices_known=choices_known)
    except composition.Refused:
        with point.errors():
            try:
                composition.judge(point.config)  # again, for the words: where each refused value came from
            except composition.ComposeRefusal as refusal:  # as it leaves omegaconf, through which it did not come here
                raise composition.Refused(refusal.findings, refusal.job) from None
        raise


def _carries_our_check(config: DictConfig) -> bool:
    if not option_source.guarded(config):
        return False  # nothing of ours, or no bundle: the check itself says which
    node = config.hydra.job._get_node("env_copy")
    return node is not None and node._is_interpolation() and "overlap.check" in str(node._value())


def _copy_environment(point: "Prepared") -> None:
    """Hydra's last loop, which runs our check."""
    job = point.config.hydra.job
    with point.errors(), open_dict(point.config.hydra):
        for key in job.env_copy:
            job.env_set[key] = os.environ[key]
