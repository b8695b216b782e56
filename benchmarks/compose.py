"""What types and rules cost at composition: `--cfg job` against a bare Hydra app with as many groups and option files.

    python benchmarks/compose.py [--rounds 15] [--instructions]

Four apps run by turns, so that a busy machine is busy for all; the ratios are of medians. The bare app has the same option
files, but no schema types them and no rule runs; in the typed app schemas do. Our config is composed by three lines of a host,
and by train.py. Also prints the processor time, which other programs disturb less, and the time of `resolve` alone, of requests
that are accepted and refused. Trust the ratios, not the times: they are this machine's. With --instructions each app runs once
more under valgrind, which counts instructions: half a minute each, the same to 1 % on a busy machine.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
TRAIN = CONF.parent / "train.py"
APP = """
import hydra

@hydra.main(version_base=None, config_path={path!r}, config_name="config")
def main(cfg):
    pass

main()
"""
NAMES = {"bare": "bare Hydra", "typed": "typed", "ours": "our config", "train": "train.py"}
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
from hydra_overlap.compose import typed_nodes

for name, kinds in typed_nodes.SCHEMAS.items():
    typed_nodes.store("_overlap/schema", name, kinds, "benchmark")
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


def started(script: str, override: str, folder: Path, before: tuple[str, ...] = ()) -> str:
    """Run one `--cfg job`; -> what it says on stderr. Byte code is kept, as it is for installed packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "pycache"), "PYTHONHASHSEED": "0"}
    command = [*before, sys.executable, script, override, "--cfg", "job"]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stderr


def seconds(script: str, override: str, folder: Path) -> tuple[float, float]:
    """Wall time and processor time of one `--cfg job`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    started(script, override, folder)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def instructions(script: str, override: str, folder: Path) -> int:
    """Instructions of one `--cfg job`, counted by valgrind."""
    counting = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    said = started(script, override, folder, counting)
    return int(re.findall(r"I +refs: +([\d,]+)", said)[0].replace(",", ""))


def spread(values: list[float]) -> str:
    """Median, and the middle half of the values, in ms."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{1e3 * middle:6.1f} ms   (middle half {1e3 * low:.1f} to {1e3 * high:.1f})"


def resolve_seconds(request: dict[str, Any], calls: int = 300) -> list[float]:
    """Wall times of `resolve`, accepted or refused."""
    from hydra_overlap import GatingError, resolve

    times = []
    for _ in range(calls):
        start = time.perf_counter()
        with suppress(GatingError):
            resolve(request)
        times.append(time.perf_counter() - start)
    return times[calls // 10 :]


def requests() -> dict[str, dict[str, Any]]:
    """What `resolve` is timed on: the request of comm_overlap=tp4_h100, and two that are refused."""
    from hydra import compose, initialize_config_module

    from hydra_overlap.compose.extract import read

    with initialize_config_module("hydra_overlap.conf", version_base=None):
        accepted = read(compose("config", ["comm_overlap=tp4_h100"]), foreign_nodes=False).request
    dp = ("overlap_param_gather", "overlap_param_gather_with_optimizer_step", "align_param_gather")
    asked = {
        "tp": {"tp_comm_overlap": True},
        "pp": {"overlap_p2p_comm": True, "defer_embedding_wgrad_compute": True},
        "dp": dict.fromkeys(dp, True),
        "ep": {"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True},
    }
    return {
        "accepted": accepted,
        "one cause": {"comm_overlap": {"tp": asked["tp"]}},
        "eight causes": {"comm_overlap": asked, "parallelism": {"sequence_parallel": True}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="2 or more")
    parser.add_argument("--override", default="comm_overlap=tp4_h100", help="what all compose")
    parser.add_argument("--instructions", action="store_true", help="count instructions as well; needs valgrind")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: a median with its spread needs 2 or more")
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    counted: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copy_without_schemas(folder / "bare_conf")
        (folder / "bare.py").write_text(WITHOUT_PLUGIN + APP.format(path="bare_conf"))
        copy_without_rules(folder / "typed_conf")
        here = {"package": str(CONF.parent / "hydra_overlap")}
        (folder / "typed.py").write_text(WITHOUT_PLUGIN + TYPED.format(**here) + APP.format(path="typed_conf"))
        (folder / "ours.py").write_text(APP.format(path=str(CONF)))
        scripts = {"bare": "bare.py", "typed": "typed.py", "ours": "ours.py", "train": str(TRAIN)}
        for number in range(arguments.rounds + 1):
            for app, times in seen.items():
                took = seconds(scripts[app], arguments.override, folder)
                if number:  # the first round writes byte code and fills the disk cache
                    times.append(took)
        if arguments.instructions:
            counted = {app: instructions(script, arguments.override, folder) for app, script in scripts.items()}
    print(
        f"`--cfg job` with {arguments.override}, {files} option files, {arguments.rounds} rounds by turns, 1 discarded"
    )
    for index, what in enumerate(("wall time", "processor time")):
        print(f"{what}, measured; ratios to bare Hydra of medians, and by round (aim: at most 1.2)")
        bare = [times[index] for times in seen["bare"]]
        for app, title in NAMES.items():
            mine = [times[index] for times in seen[app]]
            rounds = sorted(one / other for one, other in zip(mine, bare, strict=True))
            ratio = statistics.median(mine) / statistics.median(bare)
            print(f"  {title:<16}{spread(mine)}   {ratio:.2f}   ({rounds[0]:.2f} to {rounds[-1]:.2f})")
    for app, count in counted.items():
        print(f"  {NAMES[app]:<16}{count / 1e6:8.0f} million instructions   {count / counted['bare']:.2f}")
    print("`resolve` alone, measured")
    for title, request in requests().items():
        print(f"  {title:<16}{spread(resolve_seconds(request))}")


if __name__ == "__main__":
    main()
