"""How fast a sweep is judged, against the validation of Hydra's BasicSweeper on the same points, by turns.

    python benchmarks/sweep.py [--rounds 5] [--points 1000] [--theirs 25]

The app is train.py's own (18 groups); ten of them are chosen on the command line and two of those swept, with three values,
so that the points fall into four sets of group choices. Every round judges the whole grid with nothing kept from the
round before, then has BasicSweeper's `validate_batch_is_legal` compose some of its points, evenly spread; the ratio is of
points per second. Ours also hashes every point and looks for duplicates; theirs composes only. All points are legal: theirs
stops at the first that is not. Then: how time and memory grow with the number of points, each size in a process of its
own; and two harder grids, one of distinct group choices only, one of which most is refused. Trust the ratios, not the times.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

FIXED = (
    "model=tiny", "precision=bf16", "ddp=distributed_optimizer", "optimizer=adam", "training=short", "data=stdlib",
    "checkpoint=none", "launch=local",
)  # fmt: skip
GRID = (
    "comm_overlap=none,default", "parallelism=dp2,dp4", *FIXED,
    "optimizer.lr=range(1,6)", "model.num_layers=2,4,6,8,10", "training.seed=range(0,100)",
)  # fmt: skip
CHOICES_ONLY = (
    "comm_overlap=none,default", "parallelism=dp2,dp4,dp8", "precision=bf16,bf16_grads,fp32", "training=short,smoke",
    "data=stdlib,mock", "launch=local", "comm_overlap/dp=default,none",
)  # fmt: skip
REFUSED = (
    "comm_overlap=none,dp,tp4_h100",
    "parallelism=tp1,tp2,tp4",
    "comm_overlap.dp.bucket_size=null,51200",
    "training.seed=range(0,40)",
)
SIZES = (10, 100, 1_000, 10_000)


def started(arguments: Sequence[str], use: Callable[[Any, Any], None]) -> None:
    """Call `use` with Hydra and the sweep's own config."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_module("hydra_overlap.conf", version_base=None):
        hydra = GlobalHydra.instance().hydra
        lines = [*arguments, "hydra.mode=MULTIRUN"]
        use(hydra, hydra.compose_config(config_name="config", overrides=lines, run_mode=RunMode.MULTIRUN))


def judged(hydra: Any, master: Any, arguments: Sequence[str], sample: int | None) -> tuple[float, Any, list[Any]]:
    """(seconds, points, verdicts) of judging a sweep, from its overrides on."""
    from hydra_overlap.sweep.composer import Composer
    from hydra_overlap.sweep.judge import judge_all
    from hydra_overlap.sweep.points import points

    start = time.perf_counter()
    grid = points(arguments, sample=sample, config_loader=hydra.config_loader)
    verdicts = judge_all(grid, Composer(hydra.config_loader, master))
    return time.perf_counter() - start, grid, verdicts


def validated(hydra: Any, master: Any, batch: Sequence[Sequence[str]]) -> float:
    """Seconds that BasicSweeper takes to validate `batch`."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.types import HydraContext

    sweeper = BasicSweeper(max_batch_size=None)
    sweeper.hydra_context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    sweeper.config = master
    start = time.perf_counter()
    sweeper.validate_batch_is_legal(batch)
    return time.perf_counter() - start


def paired(rounds: int, size: int, theirs: int) -> None:
    """Both by turns on the same points."""

    def use(hydra: Any, master: Any) -> None:
        ratios, rates = [], []
        for number in range(rounds + 1):
            seconds, grid, verdicts = judged(hydra, master, GRID, size)
            assert all(verdict.refusal is None for verdict in verdicts)
            some = [list(grid[index].overrides) for index in range(0, len(grid), max(1, len(grid) // theirs))]
            other = validated(hydra, master, some)
            if number:  # the first round imports and reads files
                rates.append((len(grid) / seconds, len(some) / other))
                ratios.append(rates[-1][0] / rates[-1][1])
        ours, basic = (statistics.median(column) for column in zip(*rates, strict=True))
        print(f"{size:,} points of ten groups, {rounds} rounds by turns, 1 discarded; measured, wall time")
        print(f"  BasicSweeper.validate_batch_is_legal   {basic:8.1f} points/s   ({len(some)} of them)")
        print(f"  hydra/sweeper=overlap                  {ours:8.1f} points/s   (all of them)")
        low, high = min(ratios), max(ratios)
        print(f"  ratio {statistics.median(ratios):.1f}   (by round {low:.1f} to {high:.1f}; aim: at least 40)")

    started(GRID, use)


def one(arguments: Sequence[str], sample: int | None) -> None:
    """A sweep in this process alone, as JSON: seconds, points, memory before and at its peak (MiB)."""

    def use(hydra: Any, master: Any) -> None:
        judged(hydra, master, arguments, 1)  # imports
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds, _, verdicts = judged(hydra, master, arguments, sample)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        refused = sum(verdict.refusal is not None for verdict in verdicts)
        print(
            json.dumps(
                {"seconds": seconds, "points": len(verdicts), "refused": refused, "before": before, "peak": peak}
            )
        )

    started(arguments, use)


def alone(which: str, size: int | None) -> dict[str, Any]:
    """What `one` prints, from a process of its own."""
    command = [sys.executable, __file__, "--one", which, *(["--points", str(size)] if size else [])]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=None, help="of the paired grid; 1000")
    parser.add_argument("--theirs", type=int, default=25, help="of which BasicSweeper validates so many")
    parser.add_argument("--one", choices=("grid", "choices", "refused"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one({"grid": GRID, "choices": CHOICES_ONLY, "refused": REFUSED}[given.one], given.points)
        return
    paired(given.rounds, given.points or 1_000, given.theirs)
    print("how it grows: each size in a process of its own; measured")
    print("     points   seconds   ms a point   peak memory, of which judging")
    for size in SIZES:
        found = alone("grid", size)
        took, grown = found["seconds"], found["peak"] - found["before"]
        print(f"  {size:9,} {took:9.2f} {1e3 * took / size:12.2f} {found['peak']:9.1f} MiB {grown:11.1f} MiB")
    for which, what in (("choices", "every point another set of group choices"), ("refused", "most points refused")):
        found = alone(which, None)
        took, count = found["seconds"], found["points"]
        print(f"{what}: {count:,} points, {found['refused']:,} refused, {1e3 * took / count:.1f} ms a point; measured")


if __name__ == "__main__":
    main()
