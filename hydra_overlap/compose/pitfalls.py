"""What Hydra lets through without a word, refused: judged on the composed config, before the request is read.

A list of options for one group, a bundle under a node that no rule reads, a misspelt name behind a `+`, and values
written where the answer belongs.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from .. import dotted
from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..option_files import options
from ..rules.cfg import CFG001, CFG002, CFG007, CFG008
from ..schema.fields import DEFAULTS, FIELDS, NODES, OUTPUT, TREE
from ..schema.nodes import Overlap
from ..schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS
from ..suggest import nearest
from . import overruled
from .option_source import PREFIX, PREFIXED, seen_by_host
from .overrides import COMMAND_LINE, overrides_of

INPUTS = ("env_copy", "reads")  # of the output node
GROUPS = (*(name for name in NODES if name != "gating"), *(f"comm_overlap/{d}" for d in TREE["comm_overlap"]))
_ANSWERS = {
    **{f"transformer_config.{name}": key for name, key in TRANSFORMER_FIELDS.items()},
    **{f"optimizer_config.{name}": key for name, key in OPTIMIZER_FIELDS.items()},
    **{f"ddp_config.{name}": key for name, key in DDP_FIELDS.items()},
}


def check(root: DictConfig, *, choices_known: bool = False) -> None:
    """Raise GatingError with everything that is wrong with the shape of a composed config.

    choices_known: no file overrules an option that the command line chose.
    """
    overrides = overrides_of(root.hydra)
    findings = [
        *lists_of_options(overrides),
        *_numbers_for_flags(overrides),
        *_groups_of_train_py(root, overrides),
        *_unfound(overrides, root.hydra.runtime.choices),
        *_misplaced_bundles(root, overrides),
        *_written_answers(root, overrides),
    ]
    if not findings and not choices_known:  # what is in the config is known now to be where it belongs
        findings = [*overruled.findings(root, overrides)]
    if findings:
        raise GatingError(findings)


def _numbers_for_flags(overrides: list[Override]) -> Iterator[Finding]:
    """`comm_overlap.dp.overlap_grad_reduce=2`: omegaconf makes true of every number but 0."""
    for override in overrides:
        key, value = override.key_or_group, override.value()
        leaf = FIELDS.get(key)
        if leaf is not None and leaf.kind is bool and type(value) is int and value not in (0, 1):
            fixes = [Fix(f"{key}={yaml_value(flag)}", "") for flag in (True, False)]
            yield CFG002.refuse(key, value, COMMAND_LINE, f"{key} takes {leaf.describe()}.", *fixes)


def _groups_of_train_py(root: DictConfig, overrides: list[Override]) -> Iterator[Finding]:
    """`parallelism=tp8` in an app where the group is `overlap/parallelism`: it would put a text in place of the node."""
    if not seen_by_host(root.hydra.runtime.choices):
        return
    for override in overrides:
        group, option = override.key_or_group, override.value()
        chosen = override.get_key_element().lstrip("+") in root.hydra.runtime.choices
        if chosen or group not in PREFIXED or override.is_delete() or not isinstance(option, str):
            continue
        if option in options(group):
            why = f"In an app of your own this group is {PREFIX}/{group}, so that it is never taken for one of yours."
            yield CFG001.refuse(group, option, COMMAND_LINE, why, Fix(f"{group}={option}", "the same option"))


def lists_of_options(overrides: list[Override]) -> Iterator[Finding]:
    """Refuse a list of options for one group, `parallelism=[tp4,tp8]`, which Hydra merges without a word."""
    for override in overrides:
        group, chosen = override.key_or_group, override.value()
        if isinstance(chosen, list) and group in GROUPS:
            why = "Hydra merges the options, and the last one wins field by field. To run one after the other, sweep with -m."
            fixes = [Fix(f"{group}={name}", "one of them") for name in chosen]
            yield CFG008.refuse(group, chosen, COMMAND_LINE, why, *fixes)


def _unfound(overrides: list[Override], choices: DictConfig) -> Iterator[Finding]:
    """`+groop=option` and `+groop.key=value`: Hydra adds a node that nobody reads."""
    for override in overrides:
        added = override.is_add() or override.is_force_add()
        if not added or override.get_key_element().lstrip("+") in choices:
            continue
        fix = _meant(override.key_or_group, override.value())
        if fix is not None:
            why = "There is no such group, so the + would add a node that nothing reads."
            yield CFG001.refuse(override.key_or_group, override.value(), COMMAND_LINE, why, fix)


def _meant(key: str, value: Any) -> Fix | None:
    """The override that `+key=value` was meant to be, if it names something of ours but for a typo."""
    first, _, rest = key.partition(".")
    if first in NODES:
        return None  # an unknown key below one of our nodes is found when the request is read
    match = nearest(first, GROUPS)
    if match is None:
        return None
    if not rest:
        known = options(match)
        option = value if value in known else nearest(str(value), known)
        return Fix(f"{match}={option}", "did you mean this?") if option else None
    path = nearest_key(f"{match.replace('/', '.')}.{rest}")
    return Fix(f"{path}={yaml_value(value)}", "did you mean this?") if path else None


def nearest_key(key: str) -> str | None:
    """The key of the schema most like `key`, part by part; None if some part is like nothing."""
    found = nearest(key, DEFAULTS)
    if found is None:
        return None
    pairs = list(zip(key.split("."), found.split("."), strict=False))
    alike = all(part == name or nearest(part, (name,)) for part, name in pairs)
    return found if alike and key.count(".") == found.count(".") else None


def _misplaced_bundles(root: DictConfig, overrides: list[Override]) -> Iterator[Finding]:
    """A bundle of the app's own, or one dimension of a bundle, under a node that no rule reads."""
    choices: Any = OmegaConf.to_container(root.hydra.runtime.choices)
    places: dict[str, tuple[str, Any, str]] = {}  # package -> choice, option, group
    for choice, option in choices.items():
        group, _, package = str(choice).partition("@")
        place = package.removeprefix("_global_.")
        if group == "comm_overlap" and option in options(group):
            continue  # a bundle of ours brings its nodes to the top level, whatever package it is given
        if option and place and group.partition("/")[0] == "comm_overlap" and place.partition(".")[0] != "comm_overlap":
            places[place] = (str(choice), option, group)
    bundles = [place.removeprefix("_global_") for place, (_, _, group) in places.items() if group == "comm_overlap"]
    dimensions = {f"{bundle}.{dimension}".lstrip(".") for bundle in bundles for dimension in TREE["comm_overlap"]}
    why = "The rules read comm_overlap at the top level of the config; elsewhere they would judge nothing."
    said = {override.get_key_element().lstrip("+"): override for override in overrides}
    for place, (choice, option, group) in places.items():
        if place in dimensions:  # came with its bundle
            continue
        fix = Fix(f"/{group}@_global_.{group.replace('/', '.')}: {option or 'OPTION'}", "in the defaults list")
        if choice in said:
            known = "" if group in choices else "+"
            fix = Fix(f"{known}{group}={option}", f"in place of {said[choice].input_line}")
        yield CFG007.refuse(choice, option, COMMAND_LINE if choice in said else "", why, fix)


def _written_answers(root: DictConfig, overrides: list[Override]) -> Iterator[Finding]:
    """Whatever stands in the output before the rules answered."""
    clean = asdict(Overlap())
    given: Any = OmegaConf.to_container(root[OUTPUT], resolve=False)
    for name, value in given.items():
        if name in INPUTS or clean.get(name) == value:
            continue
        for key, leaf in dotted.flatten({name: value}, OUTPUT).items():
            said = any(key.startswith(override.key_or_group) for override in overrides)
            asked = _ANSWERS.get(key.removeprefix(f"{OUTPUT}.effective."))
            why = "overlap.* holds the answer of the rules; a value set by hand would be wrong."
            fixes = [Fix(f"{asked}={yaml_value(leaf)}", "asks for it")] if asked else []
            yield CFG001.refuse(key, leaf, COMMAND_LINE if said else "", why, *fixes)
