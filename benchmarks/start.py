"""Where the seconds of `python train.py` go, in units of what importing torch and megatron-core alone takes.

    python benchmarks/start.py [--rounds 5] [--iters 100] [OVERRIDE ...]

A process that only imports what a rank trains with, and a run, by turns, so that a busy machine is busy for both. A stage of
the run ends when the line appears that says so. Trust the ratios, not the times: they are this machine's. With OVERRIDE
another run than the default one: tiny GPT, two ranks.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "import torch, megatron.core.models.gpt, megatron.core.optimizer, megatron.core.pipeline_parallel"
# (name of the stage, how the line begins that ends it); the last stage ends with the process
STAGES = (
    ("composed, judged, planned", "starting "),
    ("imported, ranks started, model built", "built: "),
    ("first step", "step 1/"),
    ("other steps", "step {iters}/"),
    ("ended", None),
)
FIRST_LOSS = 3  # stages until a loss is on the screen


def alone(folder: Path) -> tuple[float, float]:
    """Wall and processor time of the imports, in s."""
    before, start = _processor_s(), time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start, _processor_s() - before


def run(folder: Path, iters: int, overrides: list[str]) -> tuple[list[float], float]:
    """Wall times of the stages and processor time of all processes of a run, in s. Raises RuntimeError if it fails."""
    command = [sys.executable, str(ROOT / "train.py"), *overrides, f"training.train_iters={iters}"]
    command += [f"hydra.run.dir={folder}/run", f"data.cache_dir={folder}/data"]
    ends = [end.format(iters=iters) for _, end in STAGES if end is not None]
    before, start = _processor_s(), time.perf_counter()
    times, lines = [], []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            while len(times) < len(ends) and line.startswith(ends[len(times)]):
                times.append(time.perf_counter() - start)
    times.append(time.perf_counter() - start)
    if process.returncode or len(times) != len(STAGES):
        raise RuntimeError(f"{' '.join(command)}\n{''.join(lines)}")
    return [end - begin for begin, end in zip([0.0, *times], times, strict=False)], _processor_s() - before


def _processor_s() -> float:
    """User and system time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iters", type=int, default=100, help="steps of a run")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    arguments = parser.parse_args()
    imports: list[tuple[float, float]] = []
    runs: list[tuple[list[float], float]] = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(arguments.rounds + 1):
            times = alone(Path(name)), run(Path(name), arguments.iters, arguments.overrides)
            if number:  # the first round writes byte code and tokens, and fills the disk cache
                imports.append(times[0])
                runs.append(times[1])
    unit, unit_processor = (statistics.median(values) for values in zip(*imports, strict=True))
    stages = [statistics.median(values) for values in zip(*(stages for stages, _ in runs), strict=True)]
    processor = statistics.median(seconds for _, seconds in runs)
    print(
        f"{' '.join(['train.py', *arguments.overrides])}, {arguments.iters} steps, {len(os.sched_getaffinity(0))} cores, ",
        end="",
    )
    print(f"medians of {arguments.rounds} rounds, 1 discarded, measured")
    print(f"{'':38}{'s':>7}   of importing torch and megatron-core alone")
    for stage, seconds in zip((stage for stage, _ in STAGES), stages, strict=True):
        _print(stage, seconds, unit)
    _print("until the first loss is on the screen", sum(stages[:FIRST_LOSS]), unit)
    _print("in all", sum(stages), unit)
    _print("processor time in all", processor, unit_processor)


def _print(name: str, seconds: float, unit: float) -> None:
    print(f"{name:38}{seconds:7.1f}   {seconds / unit:.2f}")


if __name__ == "__main__":
    main()
