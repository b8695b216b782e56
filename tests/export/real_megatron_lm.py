"""Megatron-LM's own argument parser, imported from a checkout of its repository; and the table of flags made from it.

`python -m tests.export.real_megatron_lm CHECKOUT` writes hydra_overlap/export/megatron_lm_flags.json anew. The checkout
has the version of the installed megatron-core. `megatron.training` itself is not imported (it wants tokenizers); its
`arguments.py` is, unmodified, with `megatron.training.utils` replaced by a stand-in.
"""

import argparse
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from hydra_overlap.export.megatron_lm_parser import TABLE

ACTIONS = {
    "_StoreAction": "store",
    "_StoreTrueAction": "store_true",
    "_StoreFalseAction": "store_false",
    "BooleanOptionalAction": "optional_bool",
}
TYPES = {"int": "int", "float": "float"}  # any other function takes text


def arguments_module(checkout: Path) -> Any:
    """`megatron.training.arguments` of the checkout, over the installed megatron-core."""
    package = types.ModuleType("megatron.training")
    package.__path__ = [str(checkout / "megatron" / "training")]
    sys.modules["megatron.training"] = package
    utils = MagicMock()
    utils.get_device_arch_version = lambda: 9
    utils.update_use_dist_ckpt = lambda args: setattr(args, "use_dist_ckpt", args.ckpt_format != "torch")
    utils.print_rank_0 = utils.warn_rank_0 = lambda *args, **kwargs: None
    sys.modules["megatron.training.utils"] = utils
    return importlib.import_module("megatron.training.arguments")


def parser(checkout: Path) -> argparse.ArgumentParser:
    """Megatron-LM's parser."""
    found = argparse.ArgumentParser(allow_abbrev=False)
    arguments_module(checkout).add_megatron_arguments(found)
    return found


def rows(checkout: Path) -> list[dict[str, Any]]:
    """The table of flags, in Megatron's order."""
    found = parser(checkout)
    groups = {id(action): group.title for group in found._action_groups for action in group._group_actions}
    return [_row(action, groups[id(action)]) for action in found._actions if action.dest != "help"]


def _row(action: argparse.Action, group: str | None) -> dict[str, Any]:
    kind = ACTIONS[type(action).__name__]
    row: dict[str, Any] = {
        "flags": list(action.option_strings), "dest": action.dest, "group": group, "action": kind,
    }  # fmt: skip
    if kind == "store":
        row["type"] = TYPES.get(getattr(action.type, "__name__", ""), "str")
        if action.nargs is not None:
            row["nargs"] = action.nargs
        if action.choices is not None:
            row["choices"] = [str(getattr(choice, "name", choice)) for choice in action.choices]
    if kind in ("store", "optional_bool") and action.default is not None:
        row["default"] = getattr(action.default, "name", action.default)
    return row


def text(checkout: Path) -> str:
    """One flag a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows(checkout)) + "\n]\n"


if __name__ == "__main__":
    TABLE.write_text(text(Path(sys.argv[1])))
