"""What types and rules cost at composition: `--cfg job` against a bare Hydra app with as many groups and option files.

    python benchmarks/compose.py [--rounds 15]

Three apps run by turns, so that a busy machine is busy for all; the ratios are of medians. The bare app has the same
option files, but no schema types them and no rule runs; in the typed app schemas do. Also prints the processor time,
which other programs disturb less, and the time of `resolve` alone. Trust the ratios, not the times: they are this
machine's.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
PLUGIN_FILE = CONF.parent / "hydra_plugins" / "hydra_overlap_plugin" / "searchpath.py"
APP = """
import hydra

@hydra.main(version_base=None, config_path={path!r}, config_name="config")
def main(cfg):
    pass

main()
"""
PLUGIN = "override hydra/sweeper: overlap"  # a line of option files that only our package can serve
SCHEMAS = "/_overlap/"  # in lines that only it or the typed app can
# Hydra imports every installed plugin in any app: in the bare one all but ours.
WITHOUT_PLUGIN = """
import pkgutil

walk = pkgutil.walk_packages
pkgutil.walk_packages = lambda *args, **named: (it for it in walk(*args, **named) if "hydra_overlap" not in it.name)
"""
# The schemas as our plugin registers them, and nothing else of our package: its __init__ would import the rules.
TYPED = """
import importlib.machinery
import importlib.util
import sys

sys.modules["hydra_overlap"] = package = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("hydra_overlap", None))
package.__path__ = [{package!r}]
spec = importlib.util.spec_from_file_location("searchpath", {plugin!r})
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)
plugin._store_schemas()
"""


def copy_without_schemas(target: Path) -> int:
    """The option files of conf/, defaults lists kept, schemas and enforcement left out; -> how many."""
    count = 0
    for file in CONF.rglob("*.yaml"):
        name = file.relative_to(CONF)
        if name.parts[0] == "_overlap":
            continue
        lines = (line for line in file.read_text().splitlines() if PLUGIN not in line and SCHEMAS not in line)
        text = "\n".join(lines) + "\n"
        if "defaults:\n  - _self_\n" in text:
            text = text.replace("defaults:\n  - _self_\n", "")
        assert yaml.safe_load(text) is not None, name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
        count += 1
    return count


def copy_without_rules(target: Path) -> None:
    """The option files of conf/ with their schemas; what runs the rules is left out."""
    shutil.copytree(CONF, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    config, enforce = target / "config.yaml", target / "_overlap" / "enforce.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if PLUGIN not in line))
    enforce.write_text(enforce.read_text().partition("hydra:")[0])


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
    from hydra_overlap.compose.extract import read

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
    seen: dict[str, list[tuple[float, float]]] = {"bare": [], "typed": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copy_without_schemas(folder / "bare_conf")
        (folder / "bare.py").write_text(WITHOUT_PLUGIN + APP.format(path="bare_conf"))
        copy_without_rules(folder / "typed_conf")
        here = {"package": str(CONF.parent / "hydra_overlap"), "plugin": str(PLUGIN_FILE)}
        (folder / "typed.py").write_text(WITHOUT_PLUGIN + TYPED.format(**here) + APP.format(path="typed_conf"))
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
        bare, typed, ours = ([times[index] for times in seen[app]] for app in ("bare", "typed", "ours"))
        pairs = sorted(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
        share = statistics.median(typed) / statistics.median(bare)
        print(f"{what}, measured")
        print(f"  bare Hydra      {spread(bare)}")
        print(f"  typed           {spread(typed)}")
        print(f"  hydra-overlap   {spread(ours)}")
        print(
            f"  ratio of medians {statistics.median(ours) / statistics.median(bare):.2f}, of types alone {share:.2f}",
            end="   ",
        )
        print(f"(by round {pairs[0]:.2f} to {pairs[-1]:.2f}; aim for wall time: at most 1.25)")
    print(f"`resolve` alone, measured\n  tp4_h100        {spread(resolve_seconds())}")


if __name__ == "__main__":
    main()
