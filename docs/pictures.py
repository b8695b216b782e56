"""The picture in README and on the site's first page: what a real command prints, as SVG. `python docs/pictures.py` writes it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 100  # columns of the terminal in the picture
PICTURES = {"check.svg": "hydra-overlap check comm_overlap=tp4_h100 model=llama3_70b data=mock"}
"""File in docs/img -> the command that it shows."""


def printed(command: str) -> Text:
    """What a terminal of WIDTH columns shows after the command, with its colours."""
    words = shlex.split(command)
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    program = [sys.executable, "-m", "hydra_overlap.cli", *words[1:]]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    return Text.from_ansi(f"$ {command}\n{done.stdout.rstrip()}")


def svg(command: str) -> str:
    """The picture. Fonts of the reader: an image may not fetch any."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(printed(command))
    drawn = console.export_svg(title="hydra-overlap", theme=MONOKAI, unique_id="check")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL) + "\n"


if __name__ == "__main__":
    for name, shown in PICTURES.items():
        (HERE / "img" / name).write_text(svg(shown))
