"""Facts of the machine that composes: which GPU, which versions. Read with NVML and package metadata, never with torch.

A plan may be for another machine. `platform=auto` means this one. `software=auto` means what is installed here if the
plan is for a machine like this one, and a named reference stack, marked `assumed`, if it is for another.
"""

import os
from functools import lru_cache
from typing import Any

from ..option_files import REFERENCE_STACK, option
from ..schema.nodes import AUTO

DISTRIBUTIONS = {
    "torch": ("torch",),
    "megatron_core": ("megatron-core",),
    # The meta package alone makes `import megatron.core` crash: it counts only with its torch extension.
    "transformer_engine": ("transformer-engine", "transformer-engine-torch"),
}
DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # one is there wherever NVML can work: Linux, WSL


@lru_cache(maxsize=1)
def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs NVML sees on this machine; empty without a driver."""
    if not any(os.path.exists(device) for device in DRIVERS):
        return ()  # importing pynvml would cost more than judging
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, no permission: all mean that no GPU can be used here
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
    finally:
        pynvml.nvmlShutdown()


@lru_cache(maxsize=1)
def local_platform() -> dict[str, Any]:
    """The platform option of this machine: one of conf/platform, or the GPU's own name with what NVML says."""
    names = gpu_names()
    if not names:
        return option("platform", "cpu")
    words = names[0].lower().replace("-", " ").split()
    known = [
        name
        for name in ("gb300", "gb200", "b300", "b200", "h200", "h100", "h800", "h20", "a100", "a800")
        if name in words
    ]
    if known:
        return {**option("platform", known[0]), "gpus_per_node": len(names)}
    return {
        **option("platform", "cpu"),
        "name": "_".join(words),
        "sm": _compute_capability(),
        "gpus_per_node": len(names),
    }


def _local_name() -> Any:
    return local_platform()["name"] if gpu_names() else "cpu"


def _compute_capability() -> int:
    """Compute capability x 10 of the first GPU."""
    import pynvml

    pynvml.nvmlInit()
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(0))
        return int(major) * 10 + int(minor)
    finally:
        pynvml.nvmlShutdown()


@lru_cache(maxsize=1)
def installed_software() -> dict[str, str | None]:
    """Versions installed in this environment; None where something is missing or incomplete."""
    return {name: _installed(distributions) for name, distributions in DISTRIBUTIONS.items()}


def _installed(distributions: tuple[str, ...]) -> str | None:
    from importlib import metadata  # 5 ms, and most plans are for another machine

    try:
        versions = {metadata.version(distribution).split("+")[0] for distribution in distributions}
    except metadata.PackageNotFoundError:
        return None
    return versions.pop() if len(versions) == 1 else None


def fill(request: dict[str, Any]) -> dict[str, Any]:
    """Replace every `auto` in request["platform"] and request["software"] by facts, in place; -> the facts it filled.

    request: nested plain dict. Where platform or software are not said at all, nothing is filled.
    """
    filled: dict[str, Any] = {}
    platform = request.get("platform")
    if isinstance(platform, dict) and platform.get("name") == AUTO:
        here = local_platform()
        said = {key: value for key, value in platform.items() if value is not None and key != "name"}
        request["platform"] = {**here, **said}
        filled["platform"] = request["platform"]
    software = request.get("software")
    if isinstance(software, dict) and AUTO in software.values():
        planned = (request.get("platform") or {}).get("name")
        same = planned in (None, _local_name())
        facts = {**installed_software(), "origin": "installed"} if same else option("software", REFERENCE_STACK)
        if not same:
            facts["origin"] = "assumed"
        request["software"] = {key: facts.get(key) if value == AUTO else value for key, value in software.items()}
        filled["software"] = request["software"]
    return filled
