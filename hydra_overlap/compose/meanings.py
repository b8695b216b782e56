"""What a word of the command line was meant to be: an option, a group, a key, a flag of Megatron-LM, a variable."""

import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from .. import option_files
from ..findings import Fix, in_place, yaml_value
from ..reference import flags, option_pages
from ..rules.env_conflicts import NAMES
from ..schema import keys
from ..schema.fields import FIELDS
from ..schema.nicknames import keys_meant, settings
from ..suggest import folded, likely, nearest, siblings
from .option_source import own_group
from .pitfalls import GROUPS

SHOWN = 24  # options of a group that a message lists; of more, those that may be meant
SIZES = {
    "tp": keys.TP, "pp": keys.PP, "vpp": keys.VPP, "cp": keys.CP, "ep": keys.EP, "etp": keys.ETP,
}  # fmt: skip
CALLED = {"ub": "userbuffers", "off": "none", "no": "none", "false": "none"}  # an option, and what else it is called
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
PREFIXES = ("CUDA_", "NCCL_", "NVTE_", "TORCH_", "UB_", "NVSHMEM_", "PYTORCH_", "OMP_")


def option_fixes(group: str, option: str, known: Iterable[str], typed: str = "") -> list[Fix]:
    """Options that `option`, which is none, may mean. typed: the override as it was typed; empty where a file says it.

    The fix has the + and the package of what was typed, and stands in its place where Hydra would take both for two.
    """
    head = typed.partition("=")[0] or group
    instead = typed if head.startswith("+") else ""
    known = tuple(known)
    found = likely(option, known) or tuple(name for name in known if name == CALLED.get(folded(option)))
    layout = layout_of(option) if own_group(group) == "parallelism" else None
    if not found and layout:
        return [Fix(layout, f"in place of {typed or option}: this layout, which has no option", typed)]
    alone = len(found) == 1
    fixes = []
    for name in found or siblings(option, known):
        effect = "did you mean this?" if alone else _described(group, name)
        if instead:
            effect = f"in place of {instead}" + (f": {effect}" if effect else "")
        fixes.append(Fix(f"{head}={name}", effect, instead))
    return fixes


def listed(group: str, option: str, known: Iterable[str]) -> str:
    """`it has: a, b`: the options of a group, or of a large one those that may be meant, and where all are listed."""
    known = tuple(known)
    if len(known) <= SHOWN:
        return f"it has: {', '.join(known)}"
    some = likely(option, known, most=SHOWN)
    named = f", among them {', '.join(some)}" if some else ""
    return f"it has {len(known)}{named}; `hydra-overlap explain {own_group(group)}` lists them"


def _described(group: str, name: str) -> str:
    """What an option of ours is, in a few words; nothing of anybody else's."""
    try:
        return option_files.description(own_group(group), name).partition(";")[0].rstrip(".")
    except FileNotFoundError:
        return ""


def layout_of(option: str) -> str | None:
    """`tp3_dp2` -> the overrides of that layout; None if it is no such name."""
    found = re.findall(r"(tp|pp|vpp|cp|etp|ep|dp)(\d+)", folded(option))
    if not found or "_".join("".join(pair) for pair in found) != folded(option):
        return None
    sizes = {name: int(number) for name, number in found}
    said = [f"{SIZES[name]}={number}" for name, number in sizes.items() if name in SIZES]
    if sizes.get("tp", 1) > 1:
        said.append(f"{keys.SP}=true")
    if "dp" in sizes:
        said.append(f"{keys.WORLD}={sizes['dp'] * prod(sizes.get(name, 1) for name in ('tp', 'pp', 'cp'))}")
    return " ".join(said)


def group_fixes(word: str, value: Any, typed: str) -> list[Fix]:
    """What `word=value` means if `word` was meant as a group: misspelt, or without its first part (`tp=userbuffers`)."""
    group = nearest(word.replace(".", "/"), GROUPS)
    if group is None:
        short = folded(word)
        longer = [
            g for g in GROUPS if g.rpartition("/")[2] == short or (short in ("preset", "ub") and g == "userbuffers")
        ]
        group = next((g for g in longer if value in option_files.options(own_group(g))), None)
    if group is None or not isinstance(value, str):
        return []
    known = option_files.options(own_group(group))
    options = (value,) if value in known else likely(value, known)
    return [in_place(f"{group}={option}", typed) for option in options]


def key_fixes(word: str, value: Any, typed: str) -> list[Fix]:
    """What `word=value` means if `word`, which is no key, was meant as one, or as a choice of an option."""
    fixes = group_fixes(word, value, typed)
    if fixes:
        return fixes
    said = settings(word, value)
    if said is not None:
        return [in_place(said, typed)]
    if is_variable(word):
        override = f"++hydra.job.env_set.{word}={yaml_value(value)}"
        return [Fix(override, f"in place of {typed}: sets the variable for the job", typed)]
    if isinstance(value, str) and not keys_meant(word) and len(option_pages.choices(value)) == 1:
        return [in_place(option_pages.choices(value)[0], typed)]
    return []


def is_variable(word: str) -> bool:
    """Whether a word is the name of an environment variable."""
    return word in NAMES or (VARIABLE.fullmatch(word) is not None and word.startswith(PREFIXES))


def bare_fixes(word: str) -> list[Fix]:
    """What a word without a value may mean: an option, or a field to switch on."""
    fixes = [in_place(choice, word) for choice in option_pages.choices(word)]
    switches = [key for key in keys_meant(word) if FIELDS[key].kind is bool]
    if not fixes and len(switches) == 1:
        fixes = [in_place(f"{switches[0]}=true", word)]
    return fixes


def flag_fixes(flag: str, following: str | None) -> Iterator[Fix]:
    """What `--flag`, `--flag=value` or `--flag value` of another program means here. following: the next word, if any."""
    name, _, value = flag.removeprefix("--").partition("=")
    takes_next = "=" not in flag and following is not None and not following.startswith("-") and "=" not in following
    typed = f"{flag} {following}" if takes_next else flag
    declared = flags.row(flag)
    if declared is not None and declared["action"] != "store":
        typed, takes_next = flag, False
    text = value or (following or "" if takes_next else "")
    said = flags.overrides(flag, text)
    if said is not None:
        yield in_place(said, typed)
        return
    if text:
        yield from key_fixes(folded(name), _value(text), typed)
    else:
        yield from (in_place(fix.override, flag) for fix in bare_fixes(folded(name)))


def _value(text: str) -> Any:
    """A value as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text
