"""Starter files for options of one's own: a bundle or a userbuffers preset in the app's own configuration directory."""

import re
from importlib import resources
from pathlib import Path

from . import facts
from .errors import HydraOverlapError
from .suggest import nearest

FOLDERS = {"bundle": "comm_overlap", "preset": "userbuffers"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

BUNDLE = """\
# {name}: one line that says what this bundle is for.
# extends {start}; measured by us: no
# Use: python your_app.py +comm_overlap={name}
defaults:
  - {start}  # brings the schema and the check
  # - override tp: none             # one dimension: tp, pp, dp or ep, with an option of that folder
  # - override /parallelism@_global_.parallelism: tp8
  # - override /userbuffers@_global_.userbuffers: my_preset
  - _self_

# Values that differ from the option files above, by their full names; null = decide for me:
# dp:
#   bucket_size: 120000000  # parameters, not bytes
"""


class ScaffoldError(HydraOverlapError):
    """A file that cannot be written: its name, its place, or one that is there already."""


def write(kind: str, name: str, conf: Path, start: str | None = None) -> Path:
    """Write the file; -> its path. kind: bundle or preset. start: the shipped option to begin with. Raises ScaffoldError."""
    group = FOLDERS[kind]
    known = facts.options(group)
    origin = start or ("default" if kind == "bundle" else "bf16_h100_h8192_tp4_mbs1_seq8192")
    if not NAME.fullmatch(name):
        raise ScaffoldError(f"{name!r} is no name for an option: letters, digits and underscores.")
    if name in known:
        raise ScaffoldError(f"{group}={name} is shipped already; a file of that name would hide one of the two.")
    if origin not in known:
        match = nearest(origin, known)
        raise ScaffoldError(f"There is no {group}={origin}." + (f" Did you mean {match}?" if match else ""))
    if not conf.is_dir():
        raise ScaffoldError(f"There is no directory {conf}; name your app's configuration directory with -C.")
    file = conf / group / f"{name}.yaml"
    if file.exists():
        raise ScaffoldError(f"{file} exists; it was not touched.")
    text = BUNDLE.format(name=name, start=origin) if kind == "bundle" else _preset(name, origin)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def _preset(name: str, origin: str) -> str:
    """The shipped preset under a new name, with the lines to change marked."""
    shipped = (resources.files("hydra_overlap.conf") / "userbuffers" / f"{origin}.yaml").read_text().splitlines()
    body = [line for line in shipped if not line.startswith(("#", "name:", "source:"))]
    return (
        "\n".join(
            [
                f"# {name}: what it is tuned for, in one line.",
                "# source: where the values are published; measured by us: no",
                f"# Begun from {origin}. `tuned_for` is compared with the plan; every entry is judged (hydra-overlap explain UB002).",
                f"name: {name}",
                "source: where the values are published",
                *body,
            ]
        )
        + "\n"
    )
