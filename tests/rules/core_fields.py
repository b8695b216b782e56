"""Fields of megatron-core's configuration classes in every release, read from wheels with `ast`; nothing is installed.

    python -m tests.rules.core_fields WHEEL...     writes tests/reference/core_fields.json anew

Wheels: pip download --no-deps --only-binary=:all: --python-version 3.12 megatron-core==0.19.0
"""

import ast
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

FILE = Path(__file__).parents[1] / "reference/core_fields.json"
SOURCES = {
    "TransformerConfig": (
        "megatron/core/model_parallel_config.py", "megatron/core/transformer/transformer_config.py",
    ),
    "DistributedDataParallelConfig": ("megatron/core/distributed/distributed_data_parallel_config.py",),
    "OptimizerConfig": ("megatron/core/optimizer/optimizer_config.py",),
}  # fmt: skip
MERGED = {
    "ModelParallelConfig": "TransformerConfig", "AdamOptimizerConfig": "OptimizerConfig", "SGDOptimizerConfig": "OptimizerConfig",
}  # fmt: skip
"""A base or a subclass -> the class among whose fields its own are counted."""

Fields = dict[str, dict[str, str]]  # class -> field -> annotation
History = dict[
    str, dict[str, dict[str, str | None]]
]  # class -> field -> version -> annotation from then on, null = gone


def fields(texts: Mapping[str, str]) -> Fields:
    """The annotated fields of the classes in `texts`: path -> source."""
    found: Fields = {name: {} for name in SOURCES}
    for paths in SOURCES.values():
        for path in paths:
            for node in ast.parse(texts[path]).body:
                name = MERGED.get(node.name, node.name) if isinstance(node, ast.ClassDef) else ""
                if isinstance(node, ast.ClassDef) and name in found:
                    for line in node.body:
                        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                            found[name].setdefault(line.target.id, ast.unparse(line.annotation))
    return found


def at(history: History, version: str) -> Fields:
    """What `history` says about one version."""
    found: Fields = {name: {} for name in history}
    for name, members in history.items():
        for field, changes in members.items():
            so_far = [annotation for since, annotation in changes.items() if Version(since) <= Version(version)]
            if so_far and so_far[-1] is not None:
                found[name][field] = so_far[-1]
    return found


def history(releases: Mapping[str, Fields]) -> History:
    """Every change of every field over the releases, oldest first."""
    told: History = {name: {} for name in SOURCES}
    for version in sorted(releases, key=Version):
        for name, members in told.items():
            before, now = {f: list(changes.values())[-1] for f, changes in members.items()}, releases[version][name]
            for field in sorted({*before, *now}):
                if before.get(field) != now.get(field):
                    members.setdefault(field, {})[version] = now.get(field)
    return {name: dict(sorted(members.items())) for name, members in told.items()}


def main(wheels: list[str]) -> None:
    """Read the wheels and write FILE."""
    releases = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            texts = {path: archive.read(path).decode() for paths in SOURCES.values() for path in paths}
        version = re.search(r"megatron_core-([\d.]+)-", wheel)
        assert version, wheel
        releases[version[1]] = fields(texts)
    versions = sorted(releases, key=Version)
    source = f"megatron-core {versions[0]} to {versions[-1]}, wheels of PyPI: {', '.join(sum(SOURCES.values(), ()))}"
    text = json.dumps({"source": source, "versions": versions, "fields": history(releases)}, indent=1)
    FILE.write_text(re.sub(r"\{\n {4}([^{}]*)\n {3}\}", _line, text) + "\n")


def _line(member: re.Match[str]) -> str:
    """The history of one field on one line."""
    return "{" + re.sub(r"\n\s+", " ", member[1]) + "}"


if __name__ == "__main__":
    main(sys.argv[1:])
