"""CFG: the request itself: its keys, types and values.

These rules look at the request before it is complete; `resolver.normalise` judges them while it reads, and nothing else
is judged when one of them refuses.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..findings import Finding, Fix, Place, in_place, typable, yaml_value
from ..quoting import breaks_lines
from ..schema.fields import BELOW, CHOICES, DEFAULTS, FIELDS, LISTS, MINIMUM, MOST, VERSIONS
from ..schema.keys import BUCKET, CORE, GPU
from ..schema.nicknames import derived, settings
from ..schema.nodes import AUTO
from ..schema.versions import is_version
from ..suggest import nearest
from ._base import Rule

COMMAND_LINE = "command line"  # an origin


class CfgRule(Rule):
    """Base: findings are made by `resolver.normalise`."""

    @classmethod
    def refuse(cls, key: str, value: Any, origin: str, why: str, *fixes: Fix) -> Finding:
        """The finding for one key."""
        place = Place(key, yaml_value(value), origin)
        return Finding(
            rule=cls.__name__, severity="error", title=cls.title(), why=why, where=(place,), fixes=fixes,
            source=cls.source,
        )  # fmt: skip


class CFG001(CfgRule):
    """Unknown or unusable key."""

    source = "hydra_overlap/schema/nodes.py"
    refused = ("comm_overlap.dp.bucket_sise=4",)

    @classmethod
    def unknown(cls, key: str, value: Any, origin: str, known: tuple[str, ...]) -> Finding:
        """Refuse `key`, naming what it was meant to be and its siblings."""
        parent, _, name = key.rpartition(".")
        where = f" in {parent}" if parent else ""
        why = f"There is no {name}{where}. Known keys: {', '.join(known)}. Nothing would read an unknown key."
        match = nearest(name, known)
        near = f"{parent}.{match}" if parent else match
        in_file = origin not in (
            "",
            COMMAND_LINE,
        )  # an app's own key, or a slip of the pen; nobody typed a short name there
        if match and near not in DEFAULTS:  # a node, whatever is put into it
            meant: str | None = f"{near}={yaml_value(value)}" if typable(value) else None
        else:
            meant = settings(str(near) if match else key, value) if match or not in_file else None
        if match and meant is None and near in FIELDS:
            why += f" Did you mean {near}? It takes {FIELDS[near].describe()}."
        return cls.refuse(key, value, origin, f"{why}{derived(name)}", *([in_place(meant, key)] if meant else []))


class CFG002(CfgRule):
    """Value is missing or of the wrong type."""

    source = "hydra_overlap/schema/nodes.py"
    refused = ("comm_overlap.dp.bucket_size=true",)


class CFG003(CfgRule):
    """A choice that does not exist."""

    records = ("cp-comm-type-bogus", "dp-fsdp-sharding-strategy")
    source = "hydra_overlap/schema/nodes.py"
    refused = ("gating=lenient",)


class CFG004(CfgRule):
    """Value is not a version."""

    source = "PEP 440"
    refused = ("software.transformer_engine=newest",)


class CFG005(CfgRule):
    """Value is out of range."""

    records = ("dp-bucket-size-nonpositive",)
    source = "hydra_overlap/schema/nodes.py"
    refused = ("comm_overlap.dp.bucket_size=-1",)


class CFG006(CfgRule):
    """The rules did not judge this configuration.

    hydra.job.env_copy, which carries the check, was replaced; or overlap.plan is empty; or overlap.* was derived from another
    request or for another kind of machine.
    """

    source = "hydra_overlap/compose/enforce.py"


class CFG007(CfgRule):
    """comm_overlap is not at the top level of the config.

    The rules read comm_overlap there; under another node they would judge nothing.
    """

    source = "hydra_overlap/compose/enforce.py"


class CFG008(CfgRule):
    """Several options chosen for one config group.

    Hydra merges a list of options, and the last one wins field by field. A group can also be chosen twice: by a bundle and
    by the defaults list of your app.
    """

    source = "hydra_overlap/compose/enforce.py"


class CFG009(CfgRule):
    """An option or field of hydra-overlap without a bundle.

    A bundle (`comm_overlap=NAME`) brings the schema, the layout and the check. Without one nothing applies what was chosen:
    a userbuffers preset, a layout or `comm_overlap.tp.tp_comm_overlap=true` would be read by nobody.
    """

    source = "hydra_overlap/compose/enforce.py"


class CFG010(CfgRule):
    """A chosen option is overruled by another file.

    Hydra merges option files in the order of the defaults list. What an experiment or the primary config writes after a group
    wins over the option that the command line chose for that group.
    """

    source = "hydra_overlap/compose/overruled.py"


class CFG011(CfgRule):
    """A text with a line break or another control character.

    Names, paths and options become words of commands, lines of batch scripts and names of files. A line break would end the
    line they stand in. Only the commands of launch.slurm.setup may have several lines.
    """

    source = "hydra_overlap/quoting.py"
    refused = ("model.name='tiny\x7f'",)


class CFG012(CfgRule):
    """A secret of the environment in the configuration.

    A run writes its plan, its configuration and what was typed into files that other people read. No variable of the environment
    is written but those that the plan itself sets. A text that holds the value of a variable such as WANDB_API_KEY or HF_TOKEN,
    by `${oc.env:...}` or as typed, is refused before anything is written, and so is such a name in overlap.env_copy.
    """

    source = "hydra_overlap/rules/secret_names.py"


RULES: tuple[type[Rule], ...] = (
    CFG001, CFG002, CFG003, CFG004, CFG005, CFG006, CFG007, CFG008, CFG009, CFG010, CFG011, CFG012,
)  # fmt: skip
COMMANDS = "launch.slurm.setup"  # lines of a shell, written as they are


def judge_values(flat: dict[str, Any], origin: Any) -> Iterator[Finding]:
    """CFG003 to CFG005 on a request whose keys and types are right."""
    for key, choices in CHOICES.items():
        value = flat[key]
        if value is not None and value not in choices:
            choices = FIELDS[key].choices_in(flat[CORE])
            match = nearest(value, choices)
            fixes = [Fix(f"{key}={choice}", "did you mean this?" if choice == match else "") for choice in choices]
            yield CFG003.refuse(key, value, origin(key), f"The choices are {', '.join(choices)}.", *fixes)
    for key, choices in LISTS.items():
        for item in flat[key] or ():
            if item not in choices:
                choices = FIELDS[key].choices_in(flat[CORE])
                known = [name for name in flat[key] if name in choices]
                fix = Fix(f"{key}={yaml_value(known)}", "keeps those that exist")
                yield CFG003.refuse(key, flat[key], origin(key), f"{item} is not one of {', '.join(choices)}.", fix)
                break
    for key in VERSIONS:
        value = flat[key]
        if value is not None and not is_version(value):
            why = "Write a version, for example 2.11.0, or null if it is not installed."
            if value == AUTO:
                why += " auto is filled in when Hydra composes the config; a plain call has to name the version."
            versions = (Fix(f"{key}=2.11.0", "for example"), Fix(f"{key}=null", "not installed"))
            yield CFG004.refuse(key, value, origin(key), why, *versions)
    if flat[GPU] == AUTO:
        why = "auto is filled in when Hydra composes the config; a plain call has to name the platform."
        stand_ins = (Fix("platform.name=cpu", "no GPU"), Fix("platform.name=h100 platform.sm=90", "for example"))
        yield CFG003.refuse(GPU, AUTO, origin(GPU), why, *stand_ins)
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield CFG005.refuse(key, value, origin(key), f"{key} has to be a finite number.", _default_fix(key))
    for key, limit in BELOW.items():
        if flat[key] >= limit:
            yield CFG005.refuse(key, flat[key], origin(key), f"{key} has to be below {limit:,}.", _default_fix(key))
    for key, least in MINIMUM.items():
        value = flat[key]
        if value is not None and any(number < least for number in _numbers(value)):
            why = f"{key} has to be at least {least:g}."
            if key == BUCKET:
                why += " It counts parameters, not bytes."
            yield CFG005.refuse(key, value, origin(key), why, _default_fix(key))
    for key, ceiling in MOST.items():
        if flat[key] is None:
            continue
        if any(value > ceiling.most for value in _numbers(flat[key])) and (key not in BELOW or flat[key] < BELOW[key]):
            why = f"{key} may be at most {_readable(ceiling.most)}. {ceiling.why}"
            yield CFG005.refuse(key, flat[key], origin(key), why, _default_fix(key))
    yield from _judge_texts(flat, origin)


def _numbers(value: Any) -> Sequence[float]:
    """The numbers of a field that can be compared: itself, its items, or none; what is not finite has been refused."""
    items = value if isinstance(value, (list, tuple)) else (value,)
    return [item for item in items if item is not None and (isinstance(item, int) or math.isfinite(item))]


def _readable(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"


_LINES = {ord("\n"): None, ord("\t"): None}  # what commands of several lines may hold


def _judge_texts(flat: dict[str, Any], origin: Any) -> Iterator[Finding]:
    """CFG011: a text of one line, wherever it stands in a value."""
    for key, value in flat.items():
        if value is None or isinstance(value, (bool, int, float)):
            continue
        text = value if isinstance(value, str) else _text(value)
        if breaks_lines(text.translate(_LINES) if key == COMMANDS else text):
            why = f"{key} holds a line break, a control character or bytes that are not UTF-8. Write it without them."
            yield CFG011.refuse(key, value, origin(key), why, _default_fix(key))


def _text(value: Any) -> str:
    """All texts that stand in a value, one behind the other."""
    found, left = [], [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, (list, tuple)):
            left += one
    return "".join(found)


def _default_fix(key: str) -> Fix:
    return Fix(f"{key}={yaml_value(DEFAULTS[key])}", "the default")
