"""The blocks of README.md that are made from the code; `make docs` writes them, a test compares them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
HIDDEN = ("_overlap", "experiment")


def description(option: Path) -> str:
    """The first comment of an option file, `# @package` aside."""
    lines = [line for line in option.read_text().splitlines() if not line.startswith("# @package")]
    return lines[0].removeprefix("# ")


def options(group: str) -> str:
    """A table of the options of one group."""
    rows = [f"| `{file.stem}` | {description(file)} |" for file in sorted((CONF / group).glob("*.yaml"))]
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
