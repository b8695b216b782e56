"""What a launch finds around it: the GPU of this machine, and the versions that its interpreter would import."""

import re
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..machine import local
from .launchers import Launch

ELSEWHERE = frozenset(
    {"srun", "sbatch", "salloc", "mpirun", "mpiexec", "mpiexec.hydra", "prun", "ray"}
)  # other machines
PACKAGE_INFO = Path("megatron", "core", "package_info.py")
NUMBERS = re.compile(r"^(?:MAJOR|MINOR|PATCH)\s*=\s*(\d+)", re.MULTILINE)


def facts(started: Launch, environment: Mapping[str, str], folder: Path) -> dict[str, tuple[Any, str]]:
    """Field -> (value, where it was found). Nothing of a container, whose contents are not those of this machine."""
    if started.contained:
        return {}
    found: dict[str, tuple[Any, str]] = {}
    if not ELSEWHERE & set(started.launchers) and local.gpu_names():
        said = f"GPU of this machine: {local.gpu_names()[0]}"
        found |= {f"platform.{name}": (value, said) for name, value in local.local_platform().items()}
    found |= {
        f"software.{name}": (version, f"installed in {place}")
        for name, (version, place) in _installed(environment).items()
    }
    checkout = _checkout(folder / started.program)
    if checkout is not None:
        found["software.megatron_core"] = (_version(checkout), str(checkout))
    return found


def _checkout(program: Path) -> Path | None:
    """The file with the version of the megatron-core that lies beside a program, which Python imports first."""
    info = program.parent / PACKAGE_INFO
    return info if program.is_file() and info.is_file() else None


def _version(info: Path) -> str:
    return ".".join(NUMBERS.findall(info.read_text())[:3])


def _installed(environment: Mapping[str, str]) -> dict[str, tuple[str, Path]]:
    """Package -> (its version, the folder it lies in), of the Python that PATH has first."""
    python = shutil.which("python3", path=environment.get("PATH")) or shutil.which(
        "python", path=environment.get("PATH")
    )
    if python is None:
        return {}
    prefix = Path(python).parent.parent
    roots = (prefix, prefix / "local") if prefix == Path("/usr") else (prefix,)
    folders = [
        folder
        for root in roots
        for name in ("site-packages", "dist-packages")
        for folder in root.glob(f"lib/python3*/{name}")
    ]
    found = {}
    for name, distributions in local.DISTRIBUTIONS.items():
        for one in metadata.distributions(name=distributions[-1], path=[str(folder) for folder in folders]):
            found[name] = (one.version.split("+")[0], Path(str(one.locate_file(""))))
            break
    return found
