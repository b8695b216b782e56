"""Megatron-LM's command line in every release, as its own parser declares it: the table of flags.

    python -m tools.megatron_lm_flags core_v0.16.1=CHECKOUT core_v0.19.0=CHECKOUT ...

writes hydra_overlap/export/megatron_lm_flags.json anew; `--check` compares instead. A checkout is a folder with `megatron/core` and
`megatron/training` of that tag (`git archive core_v0.19.0 megatron | tar x -C CHECKOUT`). Each release is imported in a process of its
own, unmodified but for stand-ins: `megatron.training.utils` wants tokenizers, some modules triton.
"""

import argparse
import importlib
import json
import subprocess
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from hydra_overlap.export.megatron_lm_parser import VERSION

FILE = Path(__file__).parents[1] / "hydra_overlap/export/megatron_lm_flags.json"
ACTIONS = {
    "_StoreAction": "store",
    "_StoreTrueAction": "store_true",
    "_StoreFalseAction": "store_false",
    "BooleanOptionalAction": "optional_bool",
}
TYPES = {"int": "int", "float": "float"}  # any other function takes text
STAND_INS = (  # of what needs triton
    "megatron.core.transformer.moe.paged_stash", "megatron.core.transformer.moe.ops.paged_stash",
    "megatron.core.ssm.ops.common.causal_conv1d_varlen", "megatron.core.ssm.ops.mamba2.batch_invariant_decode",
)  # fmt: skip
Row = dict[str, Any]


def arguments_module(checkout: Path) -> Any:
    """`megatron.training.arguments` of the checkout, over the megatron-core that is imported first."""
    if not hasattr(typing, "override"):  # Python 3.12
        import typing_extensions

        typing.override = typing_extensions.override  # type: ignore[attr-defined]
    for name in STAND_INS:
        sys.modules.setdefault(name, MagicMock())
    package = types.ModuleType("megatron.training")
    package.__path__ = [str(checkout / "megatron" / "training")]
    sys.modules["megatron.training"] = package
    utils = MagicMock()
    utils.get_device_arch_version = lambda: 9
    utils.update_use_dist_ckpt = lambda args: setattr(args, "use_dist_ckpt", args.ckpt_format != "torch")
    utils.print_rank_0 = utils.warn_rank_0 = lambda *args, **kwargs: None
    sys.modules["megatron.training.utils"] = utils
    return importlib.import_module("megatron.training.arguments")


def rows(checkout: Path) -> list[Row]:
    """The flags of one release, in Megatron's order. To be called once in a process."""
    sys.path.insert(0, str(checkout))
    found = argparse.ArgumentParser(allow_abbrev=False)
    arguments_module(checkout).add_megatron_arguments(found)
    groups = {id(action): group.title for group in found._action_groups for action in group._group_actions}
    return [_row(action, groups[id(action)]) for action in found._actions if action.dest != "help"]


def _row(action: argparse.Action, group: str | None) -> Row:
    kind = ACTIONS[type(action).__name__]
    row: Row = {"flags": list(action.option_strings), "dest": action.dest, "group": group, "action": kind}
    if kind == "store":
        row["type"] = TYPES.get(getattr(action.type, "__name__", ""), "str")
        if action.nargs is not None:
            row["nargs"] = action.nargs
        if action.choices is not None:
            row["choices"] = [str(getattr(choice, "name", choice)) for choice in action.choices]
    if kind in ("store", "optional_bool") and action.default is not None:
        row["default"] = _plain(action.default)
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Enum):
        return value.name
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def merged(releases: dict[str, list[Row]]) -> list[Row]:
    """One list for all releases, in the order of exports' one and then of the others: a row says for which it holds, if not for all."""
    found: list[Row] = []
    holds: list[list[str]] = []
    for tag in sorted(releases, key=lambda tag: tag != VERSION):
        for row in releases[tag]:
            if row not in found:
                found.append(row)
                holds.append([])
            holds[found.index(row)].append(tag)
    order = list(releases)
    return [
        row if len(tags) == len(order) else {**row, "in": sorted(tags, key=order.index)}
        for row, tags in zip(found, holds, strict=True)
    ]


def text(releases: dict[str, list[Row]]) -> str:
    """One flag a line."""
    lines = ",\n".join(json.dumps(row) for row in merged(releases))
    return f'{{"releases": {json.dumps(list(releases))},\n"flags": [\n{lines}\n]}}\n'


def read(pairs: list[str]) -> dict[str, list[Row]]:
    """Tag -> its flags. pairs: `TAG=CHECKOUT`."""
    found = {}
    for pair in pairs:
        tag, _, checkout = pair.partition("=")
        call = [sys.executable, "-W", "ignore", "-m", "tools.megatron_lm_flags", "--one", checkout]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        found[tag] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(words: list[str]) -> int:
    """See above."""
    if words[:1] == ["--one"]:
        print(json.dumps(rows(Path(words[1]).absolute())))
        return 0
    made = text(read([word for word in words if word != "--check"]))
    if "--check" in words:
        return int(made != FILE.read_text())
    FILE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
