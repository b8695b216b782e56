"""`hydra/sweeper=overlap_optuna`: a search by hydra-optuna-sweeper in which a trial that a rule refuses is pruned.

Hydra imports this module at every start: without hydra-optuna-sweeper there is nothing here, with it only its settings.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, List

from hydra.core.config_store import ConfigStore

if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper"):
    from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf  # type: ignore[import-untyped,import-not-found]
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper  # type: ignore[import-untyped,import-not-found]

    @dataclass
    class OverlapOptunaSweeperConf(OptunaSweeperConf):  # type: ignore[misc]
        """The settings of hydra/sweeper=optuna, and what of a job's record is searched by."""

        _target_: str = "hydra_plugins.hydra_overlap_plugin.optuna_sweeper.OverlapOptunaSweeper"
        metric: str = "step_ms"
        """Of a job that returns a record: tokens_per_s, step_ms, loss, validation_loss, peak_memory_gib, or a name in it."""

    ConfigStore.instance().store(
        group="hydra/sweeper", name="overlap_optuna", node=OverlapOptunaSweeperConf, provider="hydra-overlap"
    )

    class OverlapOptunaSweeper(OptunaSweeper):  # type: ignore[misc]
        """Optuna's sweeper, each trial judged before it is launched."""

        def __init__(self, metric: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.metric = metric

        def sweep(self, arguments: List[str]) -> Any:
            """Search. arguments: task overrides of the command line."""
            from hydra_overlap.sweep.pruning import prune

            prune(self.sweeper, self.metric)
            return self.sweeper.sweep(arguments)
