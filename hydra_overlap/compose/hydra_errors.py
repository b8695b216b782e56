"""What Hydra and omegaconf raise on a user's mistake, told as findings: what, where, why, the override that fixes it.

Only what the command line and option files can cause. Whatever `explain` does not know is a bug and keeps its traceback.
"""

import itertools
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .. import dotted, option_files
from ..errors import REFUSED, USAGE, GatingError
from ..findings import Finding, Fix, Place, in_place, render, yaml_value
from ..reference import flags
from ..resolver.from_config import ours
from ..resolver.normalise import normalise
from ..rules.cfg import CFG001, CFG002, CFG003, CFG007, CFG008
from ..rules.ub import UB_ARGUMENTS, meant
from ..schema.fields import DEFAULTS, NODES, OUTPUT, TREE
from ..schema.keys import UB_LAYERS
from ..schema.nicknames import settings
from ..suggest import likely, nearest
from . import meanings
from .key_mapping import BROUGHT, OWN_NODE
from .option_source import own_group
from .overrides import COMMAND_LINE
from .pitfalls import GROUPS, lists_of_options
from .unreadable import UnreadableError

GRAMMAR = "https://hydra.cc/docs/advanced/override_grammar/basic"
HOSTS = "docs/hosts.md"
SCHEMAS = "_overlap/schema/"  # configs that type our nodes, merged before any value
ROOM = ("comm_overlap", *BROUGHT, OUTPUT, "gating")  # top-level nodes of every bundle
FORM = "An override does not have the form KEY=VALUE"
_THEIRS = ("hydra", "omegaconf", "antlr4", "yaml")  # packages whose exceptions a user's words can cause
_JUDGING = ("hydra_overlap.compose.enforce", "hydra_overlap.resolver.resolve")  # modules that run inside a resolver


@dataclass(frozen=True)
class Mistake:
    """Findings about a command line or an option file. usage: it could not even be read as a command (exit code 2).

    hydras: what Hydra itself would print, where nothing of ours is concerned; there are no findings then.
    """

    findings: tuple[Finding, ...]
    usage: bool = False
    hydras: str = ""

    @property
    def exit_code(self) -> int:
        """What a command ends with."""
        return USAGE if self.usage else REFUSED

    footer = ""

    @property
    def headline(self) -> str:
        """The verdict, above the findings; Hydra's own text where that is all there is to say."""
        if self.hydras:
            return self.hydras
        what = "This command line cannot be read" if self.usage else "This configuration cannot be composed"
        return f"{what}; nothing was started."

    def __str__(self) -> str:
        return "\n\n".join([self.headline, *(render(finding) for finding in self.findings)])


def explain(error: Exception, arguments: Sequence[str], *, sweeps: bool = True) -> "Mistake | UnreadableError | None":
    """The mistake behind `error`, raised outside of the job; None if it is none.

    arguments: the command line. sweeps: whether the command knows -m.
    """
    if isinstance(error, (RecursionError, UnicodeError)) or "embedded null" in str(error):
        return _unreadable(error)
    if isinstance(error, OverrideParseException):
        return _not_key_value(error, arguments)
    if isinstance(error, (ValueError, ConfigCompositionException)):  # what Hydra makes of an override without a key
        for override in _overrides(arguments):
            if not override.key_or_group:
                return _usage(str(override.input_line), FORM, "There is no key before the value.", GRAMMAR)
    if isinstance(error, MissingConfigException):
        return _missing(error, arguments)
    if isinstance(error, ConfigCompositionException):
        return _composition(error, arguments, sweeps)
    if isinstance(error, yaml.MarkedYAMLError):
        return Mistake((_not_yaml(error),))
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return Mistake(tuple(_no_option(arguments)) or (_hydra_says(error),))
    if isinstance(error, ValueError) and _raised_in(error) == "hydra._internal.utils":
        return _usage("", "These command-line options cannot be combined", str(error))
    if isinstance(error, OSError):
        why = f"{error.strerror or error}."
        return Mistake(
            (_finding("FILE", "A file or directory cannot be read or written", why, str(error.filename or "")),)
        )
    if _from_bug(error):
        return None
    if isinstance(error, (HydraException, OmegaConfBaseException)) or _raised_in(error).partition(".")[0] in _THEIRS:
        return Mistake((_hydra_says(error),))
    return None


def _unreadable(error: Exception) -> UnreadableError | None:
    """Files that choose each other in a circle, and texts that are none."""
    if isinstance(error, UnicodeError):
        return UnreadableError("A text is not UTF-8", f"{error}.")
    if not isinstance(error, RecursionError):
        return UnreadableError("A path holds a NUL character", "No file can have such a name.")
    if _from_bug(error):
        return None
    names = [
        str(frame.f_locals["root"].node.get_config_path())
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "_create_defaults_tree_impl" and "root" in frame.f_locals
    ]
    if not names:
        return UnreadableError("The configuration is nested too deep", "Values stand inside of values without end.")
    circle = names[-1:] + list(itertools.takewhile(lambda name: name != names[-1], names[-2::-1])) + names[-1:]
    why = f"Each of these chooses the next: {', '.join(reversed(circle))}. Take one of them out of the list before it."
    return UnreadableError("Defaults lists choose each other in a circle", why, Place(f"{names[-1]}.yaml", ""))


def _not_key_value(error: OverrideParseException, arguments: Sequence[str]) -> Mistake:
    """`TP4_H100`, `sequence_parallel`, `--tp-comm-overlap`: a word that is no override."""
    said = str(error.override)
    if said.startswith("--"):
        return foreign_flags(arguments) or _usage(said, "There is no such option of this command", "", GRAMMAR)
    fixes = tuple(meanings.bare_fixes(said))
    why = "It needs a value." if fixes else _first_line(error)
    return _usage(said, FORM, why, GRAMMAR, fixes)


def foreign_flags(arguments: Sequence[str]) -> Mistake | None:
    """What flags of other programs, such as Megatron-LM's --tp-comm-overlap, mean here; None if none of them means anything."""
    found = []
    words = list(arguments)
    for word, following in zip(words, [*words[1:], None], strict=True):
        fixes = tuple(meanings.flag_fixes(word, following)) if word.startswith("--") else ()
        if fixes:
            theirs = "Megatron-LM's" if flags.row(word) else "another program's"
            why = f"This is {theirs} way; here settings are written KEY=VALUE, without dashes."
            found.append(_finding("USE", "There is no such option of this command", why, word, GRAMMAR, fixes))
    return Mistake(tuple(found), usage=True) if found else None


def _composition(error: ConfigCompositionException, arguments: Sequence[str], sweeps: bool) -> Mistake | None:
    """Hydra's own class for most of it: told apart by its texts."""
    cause, text = error.__cause__, str(error)
    if cause is not None and _from_bug(cause):
        return None
    sweep = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)", text)
    if sweep:
        return _several_values(sweep[1], sweeps)
    of_hydra = re.match(r"Sweeping over Hydra's configuration is not supported : '(.*)'", text)
    if of_hydra:
        return _swept_hydra(of_hydra[1])
    merging = re.match(r"Error merging override (.*)", text)
    if merging:
        return Mistake((_wrong_value(merging[1], cause),))
    if re.match(r"Could not override '(.*?)'\.\n(To append to your config|Did you mean)", text):
        return _no_such_key(error, text, cause, arguments)
    twice = re.match(r"Multiple values for (\S+?)\. To override a value use 'override (\S+): (.*)'", text)
    if twice:
        lists = tuple(lists_of_options(_overrides(arguments)))
        typed = _elsewhere(arguments) or _added(twice[1], arguments)
        return Mistake(lists or (typed or _of_two_owners(twice[1], twice[3], error),))
    again = re.match(r"(\S+) appears more than once in the final defaults list", text)
    if again:
        group = again[1].partition("/")[0]
        found = _added(group, arguments) or _chosen_for_two_owners(group, arguments)
        found = found or _elsewhere(arguments) or _added("comm_overlap", arguments)
        return Mistake((found or _hydra_says(error),))
    absent = re.match(r"Could not delete from config\. '(.*)' does not exist", text)
    if absent and absent[1] in DEFAULTS:
        return Mistake((_nothing_to_delete(absent[1]),))
    in_file = re.match(r"In '(.*?)': (\w+) raised while composing config:\n(.*)", text)
    if in_file:
        return Mistake((_in_option_file(in_file[1], text),))
    return Mistake((_hydra_says(error),))


def _added(group: str, arguments: Sequence[str]) -> Finding | None:
    """`+comm_overlap=dp` where an option of the group is chosen already."""
    for override in _overrides(arguments):
        if override.is_add() and override.key_or_group == group:
            value = override.value()
            fix = Fix(f"{group}={yaml_value(value)}", "without the +" if override.package is None else "once")
            return CFG008.refuse(
                override.get_key_element().lstrip("+"), value, COMMAND_LINE, "The group already has an option.", fix
            )
    return None


def _elsewhere(arguments: Sequence[str]) -> Finding | None:
    """`+comm_overlap@train.comm_overlap=dp`: a second bundle, under another node."""
    for override in _overrides(arguments):
        if override.is_add() and override.key_or_group == "comm_overlap" and override.package is not None:
            value, key = override.value(), override.get_key_element().lstrip("+")
            fix = Fix(f"comm_overlap={yaml_value(value)}", f"in place of +{key}={yaml_value(value)}")
            return CFG007.refuse(
                key, value, COMMAND_LINE, "Rules read comm_overlap only at the top level of the config.", fix
            )
    return None


def _nothing_to_delete(key: str) -> Finding:
    """`~comm_overlap.dp.bucket_size`, which no option file says."""
    why = "No option file sets it, so there is nothing to remove."
    fix = Fix(f"++{key}={yaml_value(DEFAULTS[key])}", "writes the default out")
    return CFG001.refuse(f"~{key}", "", COMMAND_LINE, why, fix)


def _of_two_owners(group: str, option: str, error: Exception) -> Finding:
    """The app's defaults list has a group that a bundle brings as well. option: one of the two that Hydra met."""
    why = f"Your app's defaults list and a bundle both bring the group {group}."
    yours = _option_of_the_app(option, error)
    own = own_group(group)
    mine = f"my_{own}"
    fixes = [
        Fix(f"~{group}={yours}", "removes yours; the bundle's takes its node"),
        Fix(f"~{group}={yours} +{group}@{mine}={yours}", f"keeps yours beside it, as the node {mine}"),
    ]
    if yours in option_files.options(own):  # in our words: it can stand in the bundle's place
        fixes[1:] = [Fix(f"override /{group}: {yours}", "instead of yours, in that list after the bundle")]
    return CFG008.refuse(group, yours, "your defaults list", f"{why} More: docs/hosts.md.", *fixes)


def _option_of_the_app(option: str, error: Exception) -> str:
    """Of the two options that Hydra met, the app's; only Hydra's own frame knows the one beside `option`."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        default = frame.f_locals.get("default")
        if frame.f_code.co_name == "set_known_choice" and default is not None:
            of_a_bundle = str(default.parent_base_dir).startswith("comm_overlap")
            return option if of_a_bundle else str(default.get_name())
    return "OPTION"


def _chosen_for_two_owners(group: str, arguments: Sequence[str]) -> Finding | None:
    """`parallelism=tp8` where the app's defaults list has a parallelism beside that of a bundle: it is chosen for both."""
    chosen = [o for o in _overrides(arguments) if o.key_or_group == group and not o.is_delete()]
    if group not in BROUGHT or not chosen:
        return None
    why = f"Your app's defaults list and a bundle both bring the group {group}, and this override chooses for both."
    fix = Fix(f"{group}@my_{group}: OPTION", f"in the defaults list, in place of {group}: OPTION; docs/hosts.md")
    return CFG008.refuse(group, chosen[0].value(), COMMAND_LINE, why, fix)


def _swept_hydra(line: str) -> Mistake:
    """`-m hydra/launcher=basic,joblib`, `-m hydra.launcher.n_jobs=1,2`."""
    key, _, values = line.partition("=")
    if "/" in key.partition(".")[0]:
        why = "They are chosen once for the whole sweep."
        first = re.split(r"[,(\[]", values)[0]
        return _usage(
            line,
            "The launcher or sweeper cannot differ between jobs of a sweep",
            why,
            "",
            (Fix(f"{key}={first}", "one of them"),),
        )
    why = "Hydra sweeps over its own settings only if they are in YAML (hydra.sweeper.params). The launcher's settings may differ between jobs."
    fix = Fix(f"+hydra.sweeper.params={{{key}:'{values}'}}", "the same as in YAML")
    return _usage(line, "Hydra's own settings cannot be swept on the command line", why, "", (fix,))


def _several_values(line: str, sweeps: bool) -> Mistake:
    """`comm_overlap=dp,none` without -m, or to a command that judges one plan."""
    if sweeps:
        fixes = [Fix(f"-m {line}", "one run after the other")]
        return _usage(
            line,
            "Several values for one key, but no -m",
            "A comma asks for a sweep: one run per value.",
            GRAMMAR,
            tuple(fixes),
        )
    parsed = _parse(line)
    swept = parsed.value() if parsed is not None else None
    values = swept.list if isinstance(swept, ChoiceSweep) else []
    head = line.partition("=")[0]
    fixes = [Fix(f"{head}={yaml_value(value)}", f"in place of {line}: one of them", line) for value in values]
    why = "This command judges one plan. A run with -m sweeps over several, and judges each before it starts any."
    return _usage(line, "Several values for one key", why, GRAMMAR, tuple(fixes))


def _missing(error: MissingConfigException, arguments: Sequence[str]) -> Mistake:
    """An option, a primary config or a directory that is not there."""
    group, _, _ = (error.missing_cfg_file or "").rpartition("/")
    theirs = {str(name) for name in error.options or ()}
    known = group.startswith("hydra/") or any(group == one or group.endswith(f"/{one}") for one in GROUPS)
    if group and theirs and not known and not theirs & set(option_files.options(own_group(group))):
        return _as_hydra_says(error)  # a group of the app's own
    return Mistake((_missing_config(error, arguments),))


def _as_hydra_says(error: Exception) -> Mistake:
    """Hydra's own words, as its run_and_report prints them."""
    cause = error.__cause__
    lines = [str(error), *([str(cause)] if isinstance(cause, OmegaConfBaseException) else [])]
    return Mistake(
        (),
        hydras="\n".join([*lines, "", "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."]),
    )


def _missing_config(error: MissingConfigException, arguments: Sequence[str]) -> Finding:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    known = [str(name) for name in error.options or option_files.options(group)]
    inside = next((ours for ours in GROUPS if group.endswith(f"/{ours}")), None)
    if inside and not known:
        where = group.removesuffix(f"/{inside}")
        why = f"The config that asks for it is in {where}, so Hydra looks for the group there. A + on the command line cannot change that."
        fix = Fix(f"/{inside}@_global_.{inside.replace('/', '.')}: {option}", "in its defaults list")
        again = Fix(f"{inside}={option}", "if that list already has one")
        return CFG003.refuse(group, option, "", why, fix, again)
    if not group or not known:
        what = " ".join(str(error).split("\n\n")[0].split())
        return _finding("FILE", "A config that is named does not exist", what, missing)
    said = [o for o in _overrides(arguments) if o.key_or_group == group and option in re.split(r"[,\[\] ]", _text(o))]
    file = re.match(r"In '(.*?)'", str(error))
    origin = COMMAND_LINE if said or not file else f"{file[1]}.yaml"
    typed = str(said[0].input_line) if said else ""
    why = f"{group} has no option {option!r}; {meanings.listed(group, option, known)}."
    shown = typed.partition("=")[0] or group
    return CFG003.refuse(shown, option, origin, why, *meanings.option_fixes(group, option, known, typed))


def _no_option(arguments: Sequence[str]) -> Iterator[Finding]:
    """`comm_overlap=null`, `comm_overlap=3`: a group takes the name of an option."""
    for override in _overrides(arguments):
        group, value = override.key_or_group, override.value()
        if group in GROUPS and not isinstance(value, (str, list, dict)):
            known = option_files.options(group)
            why = f"{group} is a config group and takes one of its options: {', '.join(known)}."
            fixes = [Fix(f"{group}=none", "switches it off")] if "none" in known else []
            shown = _text(override) if override.is_sweep_override() else value
            yield CFG003.refuse(group, shown, COMMAND_LINE, why, *fixes)


def _wrong_value(line: str, cause: BaseException | None) -> Finding:
    """`comm_overlap.dp.bucket_size=abc`, `comm_overlap.tp=none`, `comm_overlap={a: 1}`."""
    parsed = _parse(line)
    full_key = str(getattr(cause, "full_key", "") or "")
    if parsed is None:
        return CFG002.refuse(full_key or line, "", COMMAND_LINE, _first_line(cause) + ".")
    key, value = parsed.key_or_group, parsed.value()
    group = key.replace(".", "/")
    if group in GROUPS and not isinstance(value, dict):
        return _slash(key, group, value)
    found = _as_the_rules_say(key, value)
    if found is None:
        return CFG002.refuse(full_key or key, value, COMMAND_LINE, _first_line(cause) + ".")
    # Hydra merges one override after the other: what comes later on the line is never reached.
    fixes = (replace(fix, effect=f"in place of {line}: {fix.effect}", replaces=line) for fix in found.fixes)
    return replace(found, fixes=tuple(fixes))


def _slash(key: str, group: str, value: Any) -> Finding:
    known = option_files.options(group)
    options = (value,) if value in known else likely(str(value), known)
    why = (
        f"{key} is a group of settings. Choose one of its options with a slash instead of the dot: {', '.join(known)}."
    )
    typed = f"{key}={yaml_value(value)}"
    fixes = [Fix(f"{group}={option}", f"a slash, not a dot; in place of {typed}", typed) for option in options]
    return CFG002.refuse(key, value, COMMAND_LINE, why, *fixes)


def _no_such_key(error: Exception, text: str, cause: BaseException | None, arguments: Sequence[str]) -> Mistake:
    """`comm_overlap.dp.bucket_sise=4`, `foo=bar`, `comm_overlap/xx=none`, `comm_overlap@x=none`."""
    key = text.partition("'")[2].partition("'")[0]
    line = re.search(r"use \+(.*)", text)
    parsed = _parse(line[1]) if line else None
    value = parsed.value() if parsed else None
    typed = line[1] if line else _typed(key, arguments)
    meant = re.search(r"Did you mean to override (?:one of )?(.*?)\?", text)
    if meant:
        fixes = [in_place(f"{name}={yaml_value(value)}", typed) for name in meant[1].split(", ")]
        return _one(
            CFG001.refuse(key, value, COMMAND_LINE, "The defaults list has no such group at that place.", *fixes)
        )
    config = _composed(error)
    if config is not None and _of_another_app(config) and not _below_ours(config, key):
        found = _neighbour(config, key, value, typed)
        return _one(found) if found else _as_hydra_says(error)
    if "/" in key.partition(".")[0]:
        chosen = [
            text for override in _overrides(arguments) if override.key_or_group == key and (text := _text(override))
        ]
        fixes = meanings.group_fixes(key, value if value is not None else next(iter(chosen), None), typed)
        return _one(
            CFG001.refuse(key, value, COMMAND_LINE, f"There is no group {key}; groups: {', '.join(GROUPS)}.", *fixes)
        )
    return _one(_unknown(key, value, typed, cause))


def _one(finding: Finding) -> Mistake:
    return Mistake((finding,))


def _typed(key: str, arguments: Sequence[str]) -> str:
    """The override that names `key`, as it was typed."""
    return next((str(o.input_line) for o in _overrides(arguments) if o.get_key_element().lstrip("+~") == key), key)


def _unknown(key: str, value: Any, typed: str, cause: BaseException | None) -> Finding:
    """The finding on a key that the composed config, all of it ours, does not have."""
    found = _as_the_rules_say(key, value)
    if key in DEFAULTS:
        if found is not None:
            return replace(found, fixes=tuple(replace(fix, override=f"++{fix.override}") for fix in found.fixes))
        why = "The key is known, but this config does not have it yet."
        fix = Fix(f"++{key}={yaml_value(value)}", f"in place of {typed}: adds it", typed)
        return CFG001.refuse(key, value, COMMAND_LINE, why, fix)
    found = found or CFG001.refuse(key, value, COMMAND_LINE, _first_line(cause) + ".")
    fixes = (
        _userbuffers_fix(key, value, typed)
        if key.startswith(f"{UB_LAYERS}.")
        else meanings.key_fixes(key, value, typed)
    )
    if meanings.is_variable(key):
        return replace(found, why=f"{key} is an environment variable, no key of the config.", fixes=tuple(fixes))
    return replace(found, fixes=tuple(fixes))


def _composed(error: BaseException) -> DictConfig | None:
    """The config on which Hydra applied the override that failed; only Hydra's own frame knows it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_apply_overrides_to_config":
            config = frame.f_locals.get("cfg")
            return config if isinstance(config, DictConfig) else None
    return None


def _of_another_app(config: DictConfig) -> bool:
    """Whether a composed config has nodes that are none of ours."""
    return any(name not in (*NODES, OUTPUT, "hydra") for name in config)


def _below_ours(config: DictConfig, key: str) -> bool:
    """Whether a key stands below a node that is one of ours, whoever composes it."""
    first = key.partition(".")[0]
    return first == OUTPUT or (first in NODES and first in config and ours(config, first))


def _neighbour(config: DictConfig, key: str, value: Any, typed: str) -> Finding | None:
    """What a key of somebody else's config was meant to be: a key beside it there, or something of ours; None if neither.

    Only the app knows what its values mean, so a number or a text is carried to a key that differs by a slip alone.
    """
    node: Any = config
    path: list[str] = []
    for part in key.split("."):
        there = [str(name) for name in node] if isinstance(node, DictConfig) else []
        name = part if part in there else nearest(part, there)
        if name is None:
            break
        path.append(name)
        node = node._get_node(name)
    else:
        fix = in_place(f"{'.'.join(path)}={yaml_value(value)}", typed)
        return CFG001.refuse(key, value, COMMAND_LINE, f"This config has no {key}.", fix)
    if path or "." in key:
        return None
    fixes = [
        replace(fix, override=fix.override if _set_here(config, fix.override) else f"+{fix.override}")
        for fix in meanings.group_fixes(key, value, typed)
    ]
    if not fixes and (said := settings(key, value)) and all(_below_ours(config, one) for one in said.split()):
        fixes = [in_place(said, typed)]
    return CFG001.refuse(key, value, COMMAND_LINE, f"This config has no {key}.", *fixes) if fixes else None


def _set_here(config: DictConfig, override: str) -> bool:
    """Whether the group of an override has an option in a composed config, so that a + before it would add a second one."""
    group = override.partition("=")[0]
    choices = config.hydra.runtime.choices if "hydra" in config else {}
    return group in choices or any(str(choice).partition("@")[0] == group for choice in choices)


def _userbuffers_fix(key: str, value: Any, typed: str) -> tuple[Fix, ...]:
    """`userbuffers.layers.qkv_fprop.num_smm=4`: a preset holds the entries it sets, so that the others are added."""
    gemm, _, name = key.removeprefix(f"{UB_LAYERS}.").partition(".")
    near = meant(gemm), nearest(name, UB_ARGUMENTS)
    return (in_place(f"++{UB_LAYERS}.{near[0]}.{near[1]}={yaml_value(value)}", typed),) if all(near) else ()


def _as_the_rules_say(key: str, value: Any) -> Finding | None:
    """The finding of `resolver.normalise` on this one setting: the same words on whatever way a mistake comes in."""
    if key.partition(".")[0] == OUTPUT:
        return CFG001.refuse(key, value, COMMAND_LINE, "overlap.* holds the answer of the rules; it cannot be set.")
    try:
        normalise(dotted.nested({key: value}), lambda _: COMMAND_LINE)
    except GatingError as refusal:
        found = refusal.findings[0]
        # Nothing was added yet that ~ could take out.
        return replace(found, fixes=tuple(fix for fix in found.fixes if not fix.override.startswith("~")))
    return None


def _in_option_file(file: str, text: str) -> Finding:
    """A mistake in YAML: the file, and the key below it."""
    key = re.search(r"full_key: (.*)", text)
    unknown = re.search(r"Key '(.*?)' not in", text)
    full_key = key[1].strip() if key else ""
    origin = f"{file}.yaml"
    if not unknown:
        return CFG002.refuse(full_key or file, "", origin, text.splitlines()[1] + ".")
    host = re.search(r"object_type=(.*)", text)
    if host and file.startswith(SCHEMAS):
        wanted = ROOM if full_key in ROOM else (full_key,)
        why = f"It has no field for {full_key}. Give it fields of type Any with default None: {', '.join(wanted)}."
        return _finding("HYDRA", "The structured primary config has no fields for our nodes", why, host[1], HOSTS)
    siblings = _siblings(full_key)
    near = nearest(unknown[1], siblings)
    hint = f" Did you mean {near}?" if near else ""
    there = f" Known keys: {', '.join(siblings)}." if siblings else ""
    why = f"There is no {unknown[1]} here.{there}{hint}"
    group, _, option = file.rpartition("/")
    if option in option_files.options(group):
        why += f" This file of your app hides the option {option} that a bundle means; rename it."
        return CFG001.refuse(full_key, "", origin, why, *_without_file(group, option))
    if not near and full_key.partition(".")[0] in BROUGHT:
        why += f" {OWN_NODE.format(full_key.partition('.')[0])}"
    return CFG001.refuse(full_key or unknown[1], "", origin, why)


def _without_file(group: str, option: str) -> Iterator[Fix]:
    """What a hidden option file of ours says, as overrides; nothing where that is more than a line."""
    said = {f"{group}.{name}": value for name, value in option_files.option(group, option).items()}
    if group == "parallelism":
        values = [f"{key}={yaml_value(value)}" for key, value in said.items() if value != DEFAULTS[key]]
        yield Fix(" ".join([f"~{group}={option}", *values]), "sets what the hidden file sets")


def _siblings(key: str) -> tuple[str, ...]:
    tree = dotted.get(TREE, key.rpartition(".")[0])
    return tuple(tree) if isinstance(tree, dict) else ()


def _not_yaml(error: yaml.MarkedYAMLError) -> Finding:
    mark = error.problem_mark or error.context_mark
    where = f"{mark.name} line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return _finding("FILE", "A config file is not valid YAML", f"{error.problem or error}.", where)


def _hydra_says(error: BaseException) -> Finding:
    """A mistake we have no better words for: Hydra's, in the usual form."""
    cause = error if str(error).strip() else error.__cause__ or error
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    lines = lines[: next((i for i, line in enumerate(lines) if line.startswith("Config search path")), len(lines))]
    title = lines[0].rstrip(".") if lines else type(error).__name__
    where = str(getattr(cause, "full_key", "") or "")
    return _finding("HYDRA", title, " ".join(lines[1:]), where, "HYDRA_FULL_ERROR=1 shows the traceback")


def _usage(where: str, title: str, why: str, source: str = "", fixes: tuple[Fix, ...] = ()) -> Mistake:
    return Mistake((_finding("USE", title, why, where, source, fixes),), usage=True)


def _finding(
    short_id: str, title: str, why: str, where: str = "", source: str = "", fixes: tuple[Fix, ...] = ()
) -> Finding:
    places = (Place(where, ""),) if where else ()
    return Finding(rule=short_id, severity="error", title=title, why=why, where=places, fixes=fixes, source=source)


def _overrides(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line that parse."""
    known, _ = get_args_parser().parse_known_args(list(arguments))
    return [parsed for line in known.overrides if (parsed := _parse(line)) is not None]


def _parse(line: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException:
        return None


def _text(override: Override) -> str:
    """The value as it was typed."""
    return str(override.input_line).partition("=")[2]


def _first_line(error: BaseException | None) -> str:
    lines = str(error or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else "Hydra gave no reason"


def _raised_in(error: BaseException) -> str:
    """Name of the module whose line raised `error`."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return str(tb.tb_frame.f_globals.get("__name__", "")) if tb is not None else ""


def _from_bug(error: BaseException) -> bool:
    """Whether our own code failed inside a resolver: omegaconf wraps whatever that raised, as if a user had caused it."""
    cause: BaseException | None = error
    while cause is not None:
        modules = (str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(cause.__traceback__))
        if cause is not error and any(module in _JUDGING for module in modules):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
