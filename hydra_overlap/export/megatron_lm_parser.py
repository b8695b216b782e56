"""Megatron-LM's command line, as its own parser of core_v0.16.1 declares it: 651 options.

`megatron_lm_flags.json` is a table of facts (flag, destination, group, action, type, choices, default), recorded from
the parser that `add_megatron_arguments` of megatron/training/arguments.py builds; `megatron.training` is in no wheel.
"""

import argparse
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

VERSION = "core_v0.16.1"
TABLE = Path(__file__).with_name("megatron_lm_flags.json")
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}


class UnreadableError(ValueError):
    """A command line that Megatron-LM's parser would not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UnreadableError(message)


@lru_cache(maxsize=1)
def rows() -> tuple[dict[str, Any], ...]:
    """The table of Megatron-LM's options, in Megatron's order."""
    return tuple(json.loads(TABLE.read_text()))


@lru_cache(maxsize=1)
def by_dest() -> dict[str, dict[str, Any]]:
    """Destination -> its flag, the first where there are several."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows():
        found.setdefault(row["dest"], row)
    return found


def default(row: dict[str, Any]) -> Any:
    """What the destination holds without the flag."""
    return {"store_true": False, "store_false": True}.get(row["action"], row.get("default"))


@lru_cache(maxsize=2)
def parser(*, suppress_defaults: bool = False) -> argparse.ArgumentParser:
    """A parser with the same flags. suppress_defaults: the namespace holds only what was given."""
    made = _Parser(prog="pretrain_gpt.py", allow_abbrev=False, add_help=False)
    for row in rows():
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
