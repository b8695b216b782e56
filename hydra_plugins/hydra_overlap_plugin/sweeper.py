"""`hydra/sweeper=overlap`: every point of a sweep is judged before anything starts, then what is left runs.

Hydra imports this module at every start of every app on the machine: what it needs is imported when a sweep starts.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_overlap.compose import typed_nodes


@dataclass(init=False, repr=False, eq=False)  # nobody makes one: only its fields count
class OverlapSweeperConf:
    """What `hydra.sweeper` takes."""

    _target_: str = "hydra_plugins.hydra_overlap_plugin.sweeper.OverlapSweeper"
    on_invalid: str = "skip"
    """A point that a rule refuses: skip runs the others, refuse runs none."""
    on_duplicate: str = "merge"
    """Points whose effective configuration is the same: merge runs the first for all of them, run runs each."""
    plan_only: bool = False
    """Judge, print the plan of the sweep, start nothing."""
    resume: bool = False
    """Go on with the newest sweep of this command where hydra.sweep.dir puts them: what is finished is not run again."""
    metric: Optional[str] = None
    """What results are compared by: tokens_per_s, step_ms, loss, peak_memory_gib, or a name in what jobs return; null =
    tokens_per_s where it was measured."""
    direction: Optional[str] = None
    """minimize or maximize, for a metric of the app's own; null = less is better."""
    sort: Optional[str] = None
    """Column of results.csv by which tables are ordered, smallest first: needed_gib, bubble_percent; null = by number."""
    fitting: bool = False
    """Of dry runs, list only those that fit their GPU or are tight."""
    params: Dict[str, Any] = field(default_factory=dict)
    """Key -> values as on the command line, which wins: the same as of Hydra's own sweeper."""
    points: Dict[str, List[str]] = field(default_factory=dict)
    """Name -> overrides of one job; multiplied with what is swept otherwise."""
    zip: Optional[List[List[str]]] = None
    """Lists of swept keys that advance together, the first value of each with the first of the others."""
    sample: Optional[int] = None
    """Run a random subset of that many points; null = all."""
    seed: int = 0
    """Of the random subset."""
    max_batch_size: Optional[int] = None
    """Most points handed to the launcher at once; null = all."""


typed_nodes.store("hydra/sweeper", "overlap", f"{__name__}.OverlapSweeperConf", "hydra-overlap")


class OverlapSweeper(Sweeper):
    """See `OverlapSweeperConf` for the settings, and hydra_overlap.sweep for all that happens."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: Optional[HydraContext] = None
        self.task_function: Optional[TaskFunction] = None
        self.config: Optional[DictConfig] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a sweep needs. A launcher is made once it is known that something runs."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: List[str]) -> Any:
        """Judge every point, print the plan, run what is left. arguments: task overrides of the command line."""
        from hydra_overlap.sweep.driver import sweep

        return sweep(arguments, sweeper=self)
