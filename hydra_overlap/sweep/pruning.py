"""Trials of an Optuna search that a rule refuses: pruned, so that the sampler turns away from them, and never launched.

hydra-optuna-sweeper asks for a batch of trials, writes their overrides in `_configure_trials`, and launches them. Here a
refused one is told to the study as pruned and taken out of the batch. A pruned trial counts as one of `n_trials`; in a batch
with none left another is asked for. Source: hydra-optuna-sweeper 1.3.0 _impl.py `OptunaSweeperImpl.sweep`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.utils import JobStatus
from rich.text import Text

from ..screen import make_console
from .composer import Composer
from .errors import SweepError
from .judge import Judged, judge_all
from .points import Point
from .results import METRICS

ATTRIBUTE = "refused"  # user attribute of a pruned trial: its reason
_GRID_IS_EMPTY = "`Study.stop` is supposed to be invoked inside an objective function or a callback."


def prune(sweeper: Any, metric: str) -> None:
    """Have this `OptunaSweeperImpl`, already set up, judge every trial before it launches it.

    metric: what a trial is worth, where its job returns a record instead of a number.
    """
    sweeper._configure_trials = _Judging(sweeper).configure
    launch = sweeper.launcher.launch

    def launch_and_measure(*arguments: Any, **keywords: Any) -> Any:
        returned = launch(*arguments, **keywords)
        for one in returned:
            if one.status == JobStatus.COMPLETED and isinstance(one.return_value, Mapping):
                one.return_value = _worth(one.return_value, metric)
        return returned

    sweeper.launcher.launch = launch_and_measure


def _worth(record: Mapping[str, Any], metric: str) -> Any:
    """The metric in what a job returned; None where it was not measured, which Optuna's sweeper calls a failure."""
    value: Any = record
    for part in METRICS[metric][0] if metric in METRICS else (metric,):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class _Judging:
    def __init__(self, sweeper: Any) -> None:
        self._sweeper = sweeper
        self._configure: Callable[..., Sequence[Sequence[str]]] = sweeper._configure_trials
        self._composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
        self._console = make_console()

    def configure(self, trials: list[Any], *space: Any) -> Sequence[Sequence[str]]:
        """The overrides of the trials that are legal; the others are taken out of `trials`."""
        tried = 0
        while True:
            overrides = [list(lines) for lines in self._configure(trials, *space)]
            verdicts = [self._judge(trial.number, lines) for trial, lines in zip(trials, overrides, strict=True)]
            tried += len(trials)
            for trial, verdict in zip(trials, verdicts, strict=True):
                if verdict.refusal is not None:
                    self._say(trial, verdict)
            legal = [verdict.refusal is None for verdict in verdicts]
            kept = [trial for trial, good in zip(trials, legal, strict=True) if good]
            if kept:
                trials[:] = kept
                return [lines for lines, good in zip(overrides, legal, strict=True) if good]
            if tried >= self._sweeper.n_trials:
                raise _nothing_legal(verdicts, tried)
            trials[:] = [trials[0].study.ask()]

    def _judge(self, number: int, lines: Sequence[str]) -> Judged:
        (verdict,) = judge_all([Point(number, "", tuple(lines), {})], self._composer)
        return verdict

    def _say(self, trial: Any, verdict: Judged) -> None:
        from optuna.trial import TrialState  # type: ignore[import-not-found]

        trial.set_user_attr(ATTRIBUTE, verdict.reason)
        try:
            trial.study.tell(trial, state=TrialState.PRUNED)
        except RuntimeError as error:  # the last point of a grid; optuna has no other word for it outside of optimize()
            if _GRID_IS_EMPTY not in str(error):
                raise
        line = f"trial {trial.number} pruned: {' '.join(verdict.point.overrides)}\n    {verdict.reason}"
        self._console.print(Text(line), soft_wrap=True)


def _nothing_legal(verdicts: Sequence[Judged], tried: int) -> SweepError:
    last = verdicts[-1]
    why = f"{tried} trials in a row were refused, which is hydra.sweeper.n_trials."
    fixes = [
        ("hydra.sweeper.n_trials=MORE", "tries more points"),
        ("hydra/sweeper=overlap", "lists every point with its verdict"),
    ]
    example = f"{' '.join(last.point.overrides)}\n\n{last.refusal}"
    return SweepError("The search found no legal point", where=[last.reason], why=why, fixes=fixes, example=example)
