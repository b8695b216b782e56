"""Whether the Transformer Engine installed here works, found out in a child process.

A half-installed one (the meta package alone, or without its compiled extension) makes `import megatron.core` crash, so it
has to be known before megatron-core is imported, and importing it to find out must not spoil this process.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

DISTRIBUTIONS = ("transformer-engine", "transformer-engine-cu12", "transformer-engine-cu13", "transformer-engine-torch")
NEEDED_SYMBOLS = (
    "CommOverlap",
    "CommOverlapP2P",
    "CommOverlapHelper",
    "device_supports_multicast",
    "ubuf_built_with_mpi",
)
TIME_LIMIT_S = 120  # a first import compiles nothing, but reads 500 MB of libraries

_CHILD = """
import inspect, json
import transformer_engine.pytorch
import transformer_engine_torch as tex
from transformer_engine.pytorch.module.base import initialize_ub
print(json.dumps({
    "missing": [name for name in %r if not hasattr(tex, name)],
    "arguments": list(inspect.signature(initialize_ub).parameters),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """state: absent, broken (installed, and cannot be used) or works. detail: versions, or what went wrong."""

    state: str
    detail: str
    installed: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def transformer_engine() -> Probe:
    """Probe the Transformer Engine of this environment; without one of its distributions nothing is started."""
    found = _installed()
    if not found:
        return Probe(state="absent", detail="not installed")
    names = tuple(f"{name} {version}" for name, version in found.items())
    if len(set(found.values())) > 1:
        return Probe(state="broken", detail="its distributions have different versions", installed=names)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD % (NEEDED_SYMBOLS,)], capture_output=True, text=True, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Probe(state="broken", detail=f"importing it took more than {TIME_LIMIT_S} s", installed=names)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Probe(state="broken", detail=lines[-1] if lines else f"exit code {done.returncode}", installed=names)
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["missing"] or "quantization_modes" not in answer["arguments"]:
        lacks = answer["missing"] or ["initialize_ub(quantization_modes=...), new in 2.8"]
        return Probe(state="broken", detail=f"it lacks {', '.join(lacks)}", installed=names)
    return Probe(state="works", detail=next(iter(found.values())), installed=names)


def _installed() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
