"""What the rules cost at composition: `--cfg job` against a bare Hydra app with as many groups and option files.

    python benchmarks/compose.py [--rounds 15]

Both apps run by turns, so that a busy machine is busy for both; the ratios are of medians. The bare app has the same
option files, but no schema types them and no rule runs. Also prints the processor time, which other programs disturb
less, and the time of `resolve` alone. Trust the ratios, not the times: they are this machine's.
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

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
APP = """
import hydra

@hydra.main(version_base=None, config_path={path!r}, config_name="config")
def main(cfg):
    pass

main()
"""
OURS = ("/_overlap/", "override hydra/sweeper: overlap")  # lines of option files that only our package can serve
# Hydra imports every installed plugin in any app: in the bare one all but ours.
WITHOUT_PLUGIN = """
import pkgutil

walk = pkgutil.walk_packages
pkgutil.walk_packages = lambda *args, **named: (it for it in walk(*args, **named) if "hydra_overlap" not in it.name)
"""


def copy_without_schemas(target: Path) -> int:
    """The option files of conf/, defaults lists kept, schemas and enforcement left out; -> how many."""
    count = 0
    for file in CONF.rglob("*.yaml"):
        name = file.relative_to(CONF)
        if name.parts[0] == "_overlap":
            continue
        lines = (line for line in file.read_text().splitlines() if not any(ours in line for ours in OURS))
        text = "\n".join(lines) + "\n"
        if "defaults:\n  - _self_\n" in text:
            text = text.replace("defaults:\n  - _self_\n", "")
        assert yaml.safe_load(text) is not None, name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
        count += 1
    return count


def seconds(script: str, override: str, folder: Path) -> tuple[float, float]:
    """Wall time and processor time of one `--cfg job`. Byte code is kept, as it is for installed packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, script, override, "--cfg", "job"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float]) -> str:
    """Median, and the middle half of the values, in ms."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{1e3 * middle:6.1f} ms   (middle half {1e3 * low:.1f} to {1e3 * high:.1f})"


def resolve_seconds(calls: int = 300) -> list[float]:
    """Wall times of `resolve` on the request of comm_overlap=tp4_h100."""
    from hydra import compose, initialize_config_module

    from hydra_overlap import resolve
    from hydra_overlap.reading import read

    with initialize_config_module("hydra_overlap.conf", version_base=None):
        request = read(compose("config", ["comm_overlap=tp4_h100"]), foreign_nodes=False).request
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        resolve(request)
        times.append(time.perf_counter() - start)
    return times[calls // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--override", default="comm_overlap=tp4_h100", help="what both compose")
    arguments = parser.parse_args()
    seen: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copy_without_schemas(folder / "bare_conf")
        (folder / "bare.py").write_text(WITHOUT_PLUGIN + APP.format(path="bare_conf"))
        (folder / "ours.py").write_text(APP.format(path=str(CONF)))
        for number in range(arguments.rounds + 1):
            for app, times in seen.items():
                took = seconds(f"{app}.py", arguments.override, folder)
                if number:  # the first round writes byte code and fills the disk cache
                    times.append(took)
    print(
        f"`--cfg job` with {arguments.override}, {files} option files, {arguments.rounds} rounds by turns, 1 discarded"
    )
    for index, what in enumerate(("wall time", "processor time")):
        bare, ours = ([times[index] for times in seen[app]] for app in ("bare", "ours"))
        pairs = sorted(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
        print(f"{what}, measured")
        print(f"  bare Hydra      {spread(bare)}")
        print(f"  hydra-overlap   {spread(ours)}")
        print(f"  ratio of medians {statistics.median(ours) / statistics.median(bare):.2f}", end="   ")
        print(f"(by round {pairs[0]:.2f} to {pairs[-1]:.2f}; aim for wall time: at most 1.25)")
    print(f"`resolve` alone, measured\n  tp4_h100        {spread(resolve_seconds())}")


if __name__ == "__main__":
    main()
