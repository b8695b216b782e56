"""Commands that hints name: those that exist for whoever reads them."""

import shlex
import sys
from pathlib import Path

SCRIPT = "train.py"  # at the top of the repository


def train() -> str:
    """`python train.py` for those who called it so, else the command that is installed with the package."""
    return f"python {SCRIPT}" if Path(sys.argv[0]).name == SCRIPT else "hydra-overlap train"


def typed() -> list[str]:
    """The words of the command line that this process runs; its first ones name the program, not where it lies."""
    name = Path(sys.argv[0]).name
    program = {"hydra-overlap": ["hydra-overlap", "train"], "__main__.py": ["python", "-m", "hydra_overlap.train"]}
    return [*program.get(name, [name]), *sys.argv[1:]]


def install(extra: str) -> str:
    """The pip command that brings what an extra of ours needs, by the names of those packages.

    `hydra-overlap[train]` itself only helps where pip finds this package: not on an index, but where it was installed from.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in metadata.requires("hydra-overlap") or ()]
    except metadata.PackageNotFoundError:  # imported from a folder that was never installed
        declared = []
    wanted = [one for one in declared if one.marker and one.marker.evaluate({"extra": extra})]
    names = (
        f"{one.name}{f'[{chr(44).join(sorted(one.extras))}]' if one.extras else ''}{one.specifier}" for one in wanted
    )
    return shlex.join(["pip", "install", *(names if wanted else [f"hydra-overlap[{extra}]"])])
