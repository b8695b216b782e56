"""megatron-core's configuration classes in every release, read from wheels with `ast`; nothing is installed.

    python -m tools.core_releases WHEEL...     writes hydra_overlap/schema/core_releases.json anew

Wheels: pip download --no-deps --only-binary=:all: --python-version 3.12 megatron-core==0.19.2
`hydra_overlap/schema/releases.py` reads what this writes; a new release needs its wheel beside the others, and nothing else.
"""

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

FILE = Path(__file__).parents[1] / "hydra_overlap/schema/core_releases.json"
ENUMS = ("megatron/core/transformer/enums.py", "megatron/core/enums.py")
SOURCES = {
    "TransformerConfig": (
        "megatron/core/model_parallel_config.py", "megatron/core/transformer/transformer_config.py",
    ),
    "DistributedDataParallelConfig": ("megatron/core/distributed/distributed_data_parallel_config.py",),
    "OptimizerConfig": ("megatron/core/optimizer/optimizer_config.py",),
}  # fmt: skip
PATHS = (*sum(SOURCES.values(), ()), *ENUMS)
MERGED = {
    "ModelParallelConfig": "TransformerConfig", "AdamOptimizerConfig": "OptimizerConfig", "SGDOptimizerConfig": "OptimizerConfig",
}  # fmt: skip
"""A base or a subclass -> the class among whose fields its own are counted."""

VALIDATED = ("recompute_granularity", "recompute_method")
"""Fields typed as any text, whose values __post_init__ compares with all that it takes."""
ALLOWED = {"recompute_modules": "allowed_modules"}
"""A list of names -> the variable of __post_init__ with all that it takes, where it is first assigned."""

Entry = dict[str, Any]  # type, default and, where the release names them all, choices of one field
Fields = dict[str, dict[str, Entry]]  # class -> field -> entry
History = dict[str, dict[str, dict[str, Entry | None]]]  # class -> field -> version -> entry from then on, null = gone


def fields(texts: Mapping[str, str]) -> Fields:
    """The annotated fields of the classes in `texts`: path -> source. A path that a release lacks is left out."""
    enums = _enums(texts)
    found: Fields = {name: {} for name in SOURCES}
    for path in sum(SOURCES.values(), ()):
        for node in ast.parse(texts[path]).body:
            name = MERGED.get(node.name, node.name) if isinstance(node, ast.ClassDef) else ""
            if isinstance(node, ast.ClassDef) and name in found:
                for field, entry in _members(node, enums):
                    found[name].setdefault(field, entry)
    return found


def _enums(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Enumeration -> its names."""
    classes = [node for path in ENUMS if path in texts for node in ast.parse(texts[path]).body]
    return {
        node.name: [line.targets[0].id for line in node.body if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)]
        for node in classes if isinstance(node, ast.ClassDef)
    }  # fmt: skip


def _members(node: ast.ClassDef, enums: Mapping[str, list[str]]) -> Iterator[tuple[str, Entry]]:
    checked = _checked(node)
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            entry: Entry = {"type": ast.unparse(line.annotation)}
            if line.value is not None:
                entry["default"] = _default(line.value)
            choices = _choices(line.annotation, enums) or checked.get(line.target.id)
            if choices:
                entry["choices"] = choices
            yield line.target.id, entry


def _default(value: ast.expr) -> str:
    """As Python writes it; what `field(default=...)` holds, or the call of a default_factory."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        for keyword in value.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
            if keyword.arg == "default_factory":
                return f"{ast.unparse(keyword.value)}()"
    return ast.unparse(value)


def _choices(annotation: ast.expr, enums: Mapping[str, list[str]]) -> list[str]:
    """The texts of a Literal, or the names of an enumeration, anywhere in an annotation."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
            values = [each.value for each in ast.walk(node.slice) if isinstance(each, ast.Constant)]
            return [value for value in values if isinstance(value, str)]
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(value for name in names for value in enums.get(name, ())))


def _checked(node: ast.ClassDef) -> dict[str, list[str]]:
    """Field -> values, for what __post_init__ compares with all that it takes."""
    found: dict[str, list[str]] = {}
    for each in sorted(ast.walk(node), key=lambda each: getattr(each, "lineno", 0)):
        if isinstance(each, ast.Compare) and isinstance(each.ops[0], ast.NotIn):
            field, values = ast.unparse(each.left).removeprefix("self."), _texts(each.comparators[0])
            if field in VALIDATED and values:
                found.setdefault(field, values)
        if isinstance(each, ast.Assign):
            for field, variable in ALLOWED.items():
                if ast.unparse(each.targets[0]) == variable:
                    found.setdefault(field, _texts(each.value))
    return found


def _texts(node: ast.expr) -> list[str]:
    elements = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else []
    return [each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


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


def read_wheel(wheel: Path) -> Fields:
    """The fields in one wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        return fields({path: archive.read(path).decode() for path in PATHS if path in names})


def main(wheels: list[str]) -> None:
    """Read the wheels and write FILE."""
    releases = {}
    for wheel in wheels:
        version = re.search(r"megatron_core-([\d.]+)-", wheel)
        if not version:
            raise SystemExit(f"{wheel} is not the name of a wheel of megatron-core.")
        releases[version[1]] = read_wheel(Path(wheel))
    versions = sorted(releases, key=Version)
    source = f"megatron-core {versions[0]} to {versions[-1]}, wheels of PyPI: {', '.join(PATHS)}"
    head = json.dumps({"source": source, "versions": versions})[:-1]
    lines = []
    for name, members in history(releases).items():
        inside = ",\n".join(f'  "{field}": {json.dumps(changes)}' for field, changes in members.items())
        lines.append(f' "{name}": {{\n{inside}\n }}')
    FILE.write_text(f'{head},\n"fields": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
