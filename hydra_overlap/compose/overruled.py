"""Options chosen on the command line whose values another file overrules: refused by name, never silent.

Hydra merges in the order of the defaults list. What is written after a group, in an experiment or in the primary config
itself, wins over the option that the command line chose for that group, and Hydra says nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from .. import dotted
from ..findings import Finding, Fix, Place, yaml_value
from ..rules.cfg import CFG010
from ..schema.fields import DEFAULTS
from . import origins
from .overrides import COMMAND_LINE

_FALLBACKS = ("default", "auto")
"""Options that a bundle brings so that there is one; whoever chooses another for the group is right."""
_ALL_FIELDS = ("parallelism", "comm_overlap")  # of other nodes an option repeats defaults that say nothing


@dataclass
class _Said:
    """What an option says, its defaults list followed. values: flat key -> value; options: choice -> option it brings."""

    values: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def findings(root: DictConfig, overrides: list[Override]) -> Iterator[Finding]:
    """CFG010 for every option of ours that the command line chooses and that does not come into effect whole."""
    choices: Any = OmegaConf.to_container(root.hydra.runtime.choices, resolve=False)
    said = {o.key_or_group: o for o in overrides if not o.is_delete()}
    removed = {o.key_or_group for o in overrides if o.is_delete()}
    by_choice = {o.get_key_element().lstrip("+"): o for o in overrides if not o.is_delete()}
    known: origins.Origins | None = None
    for choice, override in by_choice.items():
        option = choices.get(choice)
        if not isinstance(option, str) or not origins.node_of(choice):
            continue
        asked = _Said()
        _follow(choice, option, choices, by_choice, asked)
        lost = {key: value for key, value in asked.values.items() if _lost(root, key, value, said, removed)}
        others = {
            key: name
            for key, name in asked.options.items()
            if key not in by_choice
            and key not in removed
            and _final(choices, key) != name
            and not _is_fallback(key, name)
        }
        if lost or others:
            known = known or origins.Origins(root, root.hydra)
            yield _refusal(override, root, choices, lost, others, known)


def _follow(
    choice: str, option: str, choices: Mapping[str, Any], by_choice: Mapping[str, Override], said: _Said
) -> None:
    """Gather what an option says: first what its defaults list brings, then its own values over that."""
    group = choice.partition("@")[0]
    header, content = origins.read(f"{group}/{option}")
    package = origins.package_of(choice, header)
    for entry in content.get("defaults") or ():
        if isinstance(entry, str) and not entry.startswith(("_self_", "/")):
            _follow(choice, entry, choices, by_choice, said)  # an option of the same group that this one extends
        for key, name in entry.items() if isinstance(entry, dict) else ():
            brought = _choice(str(key), f"{group}/{option}".rpartition("/")[0])
            if not isinstance(name, str) or brought.startswith("_overlap"):
                continue
            said.options[brought] = name
            if _final(choices, brought) == name and brought not in by_choice:
                _follow(brought, name, choices, by_choice, said)
    own = {key: value for key, value in content.items() if key != "defaults"}
    said.values.update(dotted.flatten(own, package))


def _choice(key: str, folder: str) -> str:
    """What Hydra calls the choice that an entry of a defaults list makes: `tp` in comm_overlap -> comm_overlap/tp."""
    name, _, where = key.split(" ")[-1].partition("@")
    path = name.lstrip("/") if name.startswith("/") else f"{folder}/{name}"
    if where.startswith(origins.GLOBAL):
        where = where.removeprefix(origins.GLOBAL).lstrip(".")
        return path if where == path.replace("/", ".") else f"{path}@{where or origins.GLOBAL}"
    return path


def _is_fallback(choice: str, option: str) -> bool:
    """Whether a bundle has no opinion here. No preset is one: without TP overlap none is read."""
    return option in _FALLBACKS or (choice.partition("@")[0], option) == ("userbuffers", "none")


def _final(choices: Mapping[str, Any], choice: str) -> Any:
    """What is chosen in the end, also where the primary config stands in a folder, which Hydra names behind an `@`."""
    return choices.get(choice, next((name for key, name in choices.items() if key.startswith(f"{choice}@")), None))


def _lost(root: DictConfig, key: str, value: Any, said: Mapping[str, Override], removed: set[str]) -> bool:
    """Whether the config has another value than the option says, and no override says so. removed: keys behind a `~`."""
    node = key.partition(".")[0]
    unsaid = value is None or (node not in _ALL_FIELDS and value == DEFAULTS.get(key, dotted.ABSENT))
    if unsaid or (isinstance(value, str) and "${" in value):
        return False
    found = origins.value_of(root, key)
    if found == value or origins.said_by(key, said):
        return False
    return not any(other.startswith(f"{key}.") for other in said) and not any(
        f"{key}.".startswith(f"{other}.") for other in removed
    )


def _chooser(choices: Mapping[str, Any], choice: str) -> str:
    """The file whose defaults list made a choice, such as an experiment's."""
    for key, option in choices.items():
        group = key.partition("@")[0]
        if not isinstance(option, str) or group.startswith("hydra/"):
            continue
        for entry in origins.read(f"{group}/{option}")[1].get("defaults") or ():
            for written, name in entry.items() if isinstance(entry, dict) else ():
                if written.startswith("override ") and (_choice(written, group), name) == (choice, choices.get(choice)):
                    return f"{group}/{option}.yaml"
    return "your config"


def _refusal(
    override: Override,
    root: DictConfig,
    choices: Mapping[str, Any],
    lost: Mapping[str, Any],
    others: Mapping[str, str],
    known: origins.Origins,
) -> Finding:
    """lost: field -> the value that the option says; others: choice -> the option that it brings."""
    chosen = str(override.input_line)
    final = {key: yaml_value(origins.value_of(root, key)) for key in lost}
    final |= {key: str(_final(choices, key)) for key in others}
    origin = {key: known.get(key, "") for key in lost} | {key: _chooser(choices, key) for key in others}
    asked = {key: yaml_value(value) for key, value in lost.items()} | dict(others)
    says, wins = (" ".join(f"{key}={value}" for key, value in side.items()) for side in (asked, final))
    files = " and ".join(dict.fromkeys(filter(None, origin.values())))
    why = f"{chosen} says {says}, but {files} comes later in the defaults list and wins. Say which of them counts."
    return Finding(
        rule=CFG010.__name__, severity="error", title=CFG010.title(), why=why,
        where=(Place(chosen, "", COMMAND_LINE), *(Place(key, value, origin[key]) for key, value in final.items())),
        fixes=(Fix(says, f"what {chosen} says"), Fix(wins, f"what {files} says")), source=CFG010.source,
    )  # fmt: skip
