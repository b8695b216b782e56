"""Our own option files, read without Hydra: the names of a group, the values and the text of one option."""

from importlib import resources
from typing import Any

import yaml

REFERENCE_STACK = "reference"
"""conf/software/reference.yaml: the versions assumed of a machine that is not this one."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # seven times as fast as omegaconf's


def options(group: str) -> tuple[str, ...]:
    """Names of our own options of a group, sorted; empty if there is no such group."""
    folder = resources.files("hydra_overlap.conf") / group
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def text(group: str, name: str) -> str:
    """One of our own option files as it is written, comments and all. Raises FileNotFoundError."""
    return (resources.files("hydra_overlap.conf") / group / f"{name}.yaml").read_text()


def description(group: str, name: str) -> str:
    """What one of our own options is: its first comment line, without the command that runs it. Raises FileNotFoundError."""
    comments = [line.removeprefix("# ") for line in text(group, name).splitlines() if line.startswith("# ")]
    said = next((line for line in comments if not line.startswith("@package")), "")
    return said.partition(": ")[2] if said.startswith(("python train.py ", "hydra-overlap ")) else said


def option(group: str, name: str) -> dict[str, Any]:
    """The values of one of our own option files, defaults list left out. Raises FileNotFoundError."""
    values = parse(text(group, name))
    values.pop("defaults", None)
    return values


def package(group: str, name: str) -> str:
    """The node that one of our own options fills; empty for the top level. Raises FileNotFoundError."""
    return "" if "@package _global_" in text(group, name) else group.replace("/", ".")


def chosen(group: str, name: str) -> list[tuple[str, str]]:
    """(group, option) of what one of our own options chooses in its defaults list. Raises FileNotFoundError."""
    found = []
    for entry in parse(text(group, name)).get("defaults") or ():
        for place, option in entry.items() if isinstance(entry, dict) else ():
            below = str(place).removeprefix("override ").partition("@")[0]
            if option is not None:
                found.append((below.removeprefix("/") if below.startswith("/") else f"{group}/{below}", option))
    return found


def parse(text: str) -> dict[str, Any]:
    """The content of an option file."""
    values: dict[str, Any] = yaml.load(text, _Loader) or {}
    return values
