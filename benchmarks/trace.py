"""`hydra-overlap trace` beside HolisticTraceAnalysis on the same traces: what they say is hidden, and what saying it takes.

    python benchmarks/trace.py TRACE... [--hta PYTHON] [--rounds 3]
    python benchmarks/trace.py --events 1000000

With --hta, a Python that has HolisticTraceAnalysis (pip install HolisticTraceAnalysis, in an environment of its own), both
run by turns on each trace, each as a process of its own from its start to its figure, and the ratio is of medians. HTA is told
to keep the last profiler step, which it drops by default. With --events a trace of so many GPU events is made and
measured: seconds, and memory at the peak. Times are this machine's; trust the ratios.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HTA = """
import logging, sys, warnings
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
from pathlib import Path
from hta.trace_analysis import TraceAnalysis
path = Path(sys.argv[1])
found = TraceAnalysis(trace_files={0: str(path)}, trace_dir=str(path.parent), include_last_profiler_step=True)
print(float(found.get_comm_comp_overlap(visualize=False)["comp_comm_overlap_pctg"].iloc[0]))
"""
OURS = """
import json, sys
from pathlib import Path
from hydra_overlap.trace.command import measured
(one,) = measured([Path(sys.argv[1])])
print(100 * (one.total("all").hidden or 0))
"""


def run(python: str, script: str, trace: Path) -> tuple[float, float, float]:
    """(seconds, MiB at the peak, hidden share in %) of a process. Raises SystemExit with what it said if it fails."""
    started = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        [python, "-c", script, str(trace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    output, errors = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{trace}: {errors[-800:]}")
    return time.perf_counter() - started, used.ru_maxrss / 1024, float(output.split()[-1])


def made(events: int, path: Path) -> None:
    """A trace in which communication of a tenth of the events lies half under compute."""
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write('{"distributedInfo": {"rank": 0}, "traceEvents": [')
        for number in range(events):
            nccl = number % 10 == 0
            name = (
                "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)" if nccl else "gemm_kernel"
            )
            said = {
                "device": 0,
                "stream": 20 if nccl else 7,
                "correlation": number,
                "External id": number,
                "block": [128, 1, 1],
            }
            event = {"ph": "X", "cat": "kernel", "name": name, "ts": number, "dur": 1 if nccl else 0.5, "args": said}
            file.write(("," if number else "") + json.dumps(event))
        file.write("]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--hta", help="a Python that has HolisticTraceAnalysis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, help="measure a made trace of so many GPU events")
    arguments = parser.parse_args()
    for trace in arguments.traces:
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(run(sys.executable, OURS, trace))
            if arguments.hta:
                theirs.append(run(arguments.hta, HTA, trace))
        seconds = statistics.median(one[0] for one in ours)
        print(f"{trace.name}: {seconds:.2f} s, {ours[0][1]:.0f} MiB, {ours[0][2]:.2f} % hidden")
        if theirs:
            other = statistics.median(one[0] for one in theirs)
            print(
                f"  HTA: {other:.2f} s, {theirs[0][1]:.0f} MiB, {theirs[0][2]:.2f} % overlapped; ratio {other / seconds:.1f}"
            )
    if arguments.events:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "made.json.gz")
            made(arguments.events, path)
            seconds, memory, _ = run(sys.executable, OURS, path)
        print(f"{arguments.events:,} GPU events: {seconds:.1f} s, {memory:.0f} MiB at the peak")


if __name__ == "__main__":
    main()
