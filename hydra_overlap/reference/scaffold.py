"""Starter files for options of one's own: a bundle or a userbuffers preset in the app's own configuration directory."""

import re
from pathlib import Path

from .. import option_files
from ..errors import HydraOverlapError
from ..suggest import nearest
from . import json_schema

FOLDERS = {"bundle": "comm_overlap", "preset": "userbuffers"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
SCHEMA = "schema.json"  # beside the option: editors look from there, Hydra takes .yaml alone for options
HEADER = f"# yaml-language-server: $schema={SCHEMA}"

BUNDLE = """\
# {name}: one line that says what this bundle is for.
# extends {start}; measured by us: no
{header}
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


def write(kind: str, name: str, conf: Path, start: str | None = None) -> tuple[Path, ...]:
    """Write the option and, where there is none yet, the schema its header names; -> the files written, the option first.

    kind: bundle or preset. start: the shipped option to begin with. Raises ScaffoldError.
    """
    group = FOLDERS[kind]
    known = option_files.options(group)
    origin = start or ("default" if kind == "bundle" else "bf16_h100_h8192_tp4_mbs1_seq8192")
    if not NAME.fullmatch(name):
        raise ScaffoldError(
            f"{name!r} is not a valid option name: use a letter, then letters, digits and underscores.{_other(name)}"
        )
    if not _is_text(name):
        raise ScaffoldError(
            f"{name!r} is not a valid option name: YAML or Hydra reads it as another value.{_other(name)}"
        )
    if name in known:
        raise ScaffoldError(
            f"{group}={name} is shipped with hydra-overlap; one file of that name would hide the other."
        )
    if origin not in known:
        match = nearest(origin, known)
        raise ScaffoldError(f"There is no {group}={origin}." + (f" Did you mean {match}?" if match else ""))
    if not conf.is_dir():
        raise ScaffoldError(f"There is no directory {conf}; name your app's configuration directory with -C.")
    file, schema = conf / group / f"{name}.yaml", conf / group / SCHEMA
    if file.exists():
        raise ScaffoldError(f"{file} already exists; it was not changed.")
    texts = {file: BUNDLE.format(name=name, start=origin, header=HEADER) if kind == "bundle" else _preset(name, origin)}
    if not schema.exists():
        texts[schema] = json_schema.text(group)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text)
    except OSError as error:
        raise ScaffoldError(f"{error.filename} cannot be written: {error.strerror or error}.") from None
    return tuple(texts)


def _is_text(name: str) -> bool:
    """Whether `- comm_overlap: NAME` and `comm_overlap=NAME` both mean the option: not on, null, nan."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed: object = OverridesParser.create().parse_override(f"group={name}").value()
    return isinstance(typed, str) and isinstance(option_files.parse(name), str)


def _other(name: str) -> str:
    """The way out, where `my_` before it makes a name."""
    return f" Say my_{name}." if NAME.fullmatch(f"my_{name}") else ""


def _preset(name: str, origin: str) -> str:
    """The shipped preset under a new name, with the lines to change marked."""
    shipped = option_files.text("userbuffers", origin).splitlines()
    body = [line for line in shipped if not line.startswith(("#", "name:", "source:"))]
    return (
        "\n".join(
            [
                f"# {name}: what it is tuned for, in one line.",
                "# source: where the values are published; measured by us: no",
                HEADER,
                f"# Begun from {origin}. `tuned_for` is compared with the plan; every entry is judged (hydra-overlap explain UB002).",
                f"name: {name}",
                "source: where the values are published",
                *body,
            ]
        )
        + "\n"
    )
