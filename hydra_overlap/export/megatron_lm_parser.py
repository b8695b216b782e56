"""Megatron-LM's command line, as its own parser of each release declares it: 651 options at core_v0.16.1.

`megatron_lm_flags.json` is a table of facts (flag, destination, group, action, type, choices, default, releases), recorded from
the parser that `add_megatron_arguments` of megatron/training/arguments.py builds; `megatron.training` is in no wheel.
`python -m tools.megatron_lm_flags` makes it from checkouts of the tags.
"""

import argparse
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from packaging.version import Version

VERSION = "core_v0.16.1"
TABLE = Path(__file__).with_name("megatron_lm_flags.json")
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}


class UnreadableError(ValueError):
    """A command line that Megatron-LM's parser would not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UnreadableError(message)


@lru_cache(maxsize=1)
def _table() -> Any:
    return json.loads(TABLE.read_text())


def releases() -> tuple[str, ...]:
    """Tags of Megatron-LM that the table was made from, oldest first; the last one is its main branch."""
    return tuple(_table()["releases"])


@lru_cache(maxsize=32)
def release_of(core: str | None) -> str:
    """The tag whose flags a version of megatron-core goes with: the newest one that is not newer, in major and minor number.

    Without a version that of exports, `VERSION`.
    """
    if core is None:
        return VERSION
    *tags, newest = releases()
    number = Version(core).release[:2]
    older = [tag for tag in tags if Version(tag.removeprefix("core_v")).release[:2] <= number]
    if tags and number > Version(tags[-1].removeprefix("core_v")).release[:2]:
        return newest
    return older[-1] if older else tags[0]


def rows(release: str = VERSION) -> tuple[dict[str, Any], ...]:
    """The options of one release of Megatron-LM, in Megatron's order; the same objects at each call."""
    return _rows(release)


@lru_cache(maxsize=8)
def _rows(release: str) -> tuple[dict[str, Any], ...]:
    return tuple(
        {name: value for name, value in row.items() if name != "in"}
        for row in _table()["flags"]
        if release in row.get("in", (release,))
    )


@lru_cache(maxsize=8)
def by_dest(release: str = VERSION) -> dict[str, dict[str, Any]]:
    """Destination -> its flag, the first where there are several."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows(release):
        found.setdefault(row["dest"], row)
    return found


def default(row: dict[str, Any]) -> Any:
    """What the destination holds without the flag."""
    return {"store_true": False, "store_false": True}.get(row["action"], row.get("default"))


@lru_cache(maxsize=8)
def parser(*, suppress_defaults: bool = False, release: str = VERSION) -> argparse.ArgumentParser:
    """A parser with the same flags. suppress_defaults: the namespace holds only what was given."""
    made = _Parser(prog="pretrain_gpt.py", allow_abbrev=False, add_help=False)
    for row in rows(release):
        options: dict[str, Any] = {"dest": row["dest"]}
        options["default"] = argparse.SUPPRESS if suppress_defaults else default(row)
        if row["action"] == "optional_bool":
            options["action"] = argparse.BooleanOptionalAction
        elif row["action"] == "store":
            kind = TYPES[row["type"]]
            choices = [kind(choice) for choice in row["choices"]] if "choices" in row else None
            options |= {"type": kind, "nargs": row.get("nargs"), "choices": choices}
        else:
            options["action"] = row["action"]
        flags = [flag for flag in row["flags"] if row["action"] != "optional_bool" or not flag.startswith("--no-")]
        made.add_argument(*flags, **options)
    return made
