"""The blocks of README.md that are made from the code; `make docs` writes them, a test compares them."""

import subprocess
import sys
from pathlib import Path

from hydra_overlap.reference.hydra_help import description

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
HIDDEN = ("_overlap", "experiment", "hydra")


def options(group: str) -> str:
    """A table of the options of one group."""
    rows = [f"| `{file.stem}` | {description(group, file.stem)} |" for file in sorted((CONF / group).glob("*.yaml"))]
    return "\n".join([f"| `{group}=` | |", "| --- | --- |", *rows])


def groups() -> str:
    """A table of all groups and the names of their options."""
    rows = []
    for folder in sorted(path for path in CONF.rglob("*") if path.is_dir()):
        group = str(folder.relative_to(CONF))
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        if not names or group.startswith(HIDDEN) or group in ("comm_overlap", "__pycache__"):
            continue
        shown = (
            ", ".join(f"`{name}`" for name in names) if len(names) < 16 else f"{len(names)} presets, `conf/{group}/`"
        )
        rows.append(f"| `{group}` | {shown} |")
    return "\n".join(["| group | options |", "| --- | --- |", *rows])


def refusal(*overrides: str) -> str:
    """A refused command and what it prints."""
    command = [sys.executable, "train.py", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    return "\n".join(["```console", f"$ python train.py {' '.join(overrides)}", done.stderr.strip(), "```"])


def rules_by_family() -> str:
    """Rules and derivations counted by family and severity."""
    from collections import Counter

    from hydra_overlap.rules import DERIVATIONS, RULES

    counts = Counter((family(rule.__name__), rule.severity) for rule in RULES)
    derived = Counter(family(derivation.id) for derivation in DERIVATIONS)
    names = list(dict.fromkeys(family(rule.__name__) for rule in RULES))
    rows = [[n, *(counts[n, severity] for severity in ("error", "warning", "note")), derived[n]] for n in names]
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, 5))]
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [*rows, total]]
    return "\n".join(["| family | errors | warnings | notes | derivations |", "| --- | --- | --- | --- | --- |", *body])


def catalogue_by_area() -> str:
    """What became of the records of the catalogue, area by area."""
    from collections import Counter

    from tests.rules.test_catalogue import CATALOGUE, answer

    kinds = ("rule", "derivation", "environment", "left out")
    counts = Counter((record["area"], answer(record["id"])) for record in CATALOGUE)
    areas = list(dict.fromkeys(record["area"] for record in CATALOGUE))
    rows = [
        [area, *(counts[area, kind] for kind in kinds), sum(counts[area, kind] for kind in kinds)] for area in areas
    ]
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, 6))]
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [*rows, total]]
    head = "| area | rule | derivation | launch environment | left out, with a reason | records |"
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *body])


def family(name: str) -> str:
    """`TP002` -> `TP`."""
    return name.rstrip("0123456789")
