"""What the shell offers on TAB after `hydra-overlap`: overrides, presets, pages of `explain`, nodes. Never imports torch.

Each callback imports what it needs itself: a command pays for none of them.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from click import Context, Parameter
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from ..schema.keys import UB_LAYERS

ADDED = re.compile(r"\+{0,2}")  # what an override may begin with
BREAKS = ("=", ":", "@")  # characters at which bash cuts a word in two, of its COMP_WORDBREAKS

Texts = dict[str, str]  # what is offered -> what it is


@add_completion_class
class Bash(BashComplete):
    """Words as they were typed: bash hands `comm_overlap=tp4` over in three, and takes the last of them back."""

    # click's own script, but for the line that ends in nospace: behind `group=` and `node.` more is to come.
    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response completion type value

    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete $1)

    for completion in $response; do
        IFS=',' read type value <<< "$completion"

        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=($value)
            [[ $value == *[=.] ]] && compopt -o nospace
        fi
    done

    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
    before = ""
    """What stands before the word that bash has in hand, and belongs to it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        arguments, last = super().get_completion_args()
        words = [""]
        for word in [*arguments, last]:
            joins = word in BREAKS or words[-1].endswith(BREAKS)
            words[-1:] = [words[-1] + word] if joins else [words[-1], word]
        self.before = words[-1].removesuffix("" if last in BREAKS else last)
        return words[1:-1], words[-1]

    def format_completion(self, item: "CompletionItem[Any]") -> str:
        """One line for the script above."""
        return f"{item.type},{item.value.removeprefix(self.before)}"


def overrides(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """`group=option` and `key=value`, one level of nodes at a time."""
    return _items(_overrides(incomplete))


def _overrides(incomplete: str) -> Texts:
    added = ADDED.match(incomplete)
    sign = added[0] if added else ""
    start = incomplete.removeprefix(sign)
    if "=" in start:
        key = start.partition("=")[0]
        found = {f"{sign}{key}={value}": text for value, text in _values(key).items()}
        return _starting(incomplete, found)
    found = {f"{sign}{name}": text for name, text in _level(start, _keys()).items()}
    if len(found) == 1 and incomplete not in found:  # nothing to choose at this level
        return _overrides(*found) or found
    return found


def _keys() -> Iterator[tuple[str, str]]:
    """Every `group=` and `key=`, and what it is."""
    from .hydra_help import CATALOGUE, GROUPS

    yield from ((f"{group}=", "") for group in (*GROUPS, CATALOGUE))
    yield from ((f"{key}=", text) for key, text in _fields().items())


def _fields() -> Texts:
    """Every key an override can set, arguments of userbuffers entries as well, and what it means."""
    from ..rules.ub import GEMMS, UB_ARGUMENTS
    from ..schema.descriptions import descriptions

    return {**descriptions(), **{f"{UB_LAYERS}.{gemm}.{name}": "" for gemm in GEMMS for name in UB_ARGUMENTS}}


def _values(key: str) -> Texts:
    """The options of a group, or the values of a field that has few."""
    from ..option_files import options
    from ..rules.ub import UB_ARGUMENTS, legal_methods
    from ..schema.fields import FIELDS
    from .hydra_help import CATALOGUE, GROUPS, description

    group = key.partition("@")[0]
    if group in (*GROUPS, CATALOGUE):
        return {name: description(group, name) for name in options(group)}
    field = FIELDS.get(key)
    if field is not None:
        values = ("true", "false") if field.kind is bool else () if field.listed else field.choices
        return dict.fromkeys((*values, "null") if values and field.optional else values, "")
    gemm, _, argument = key.removeprefix(f"{UB_LAYERS}.").partition(".")
    if argument == "method":
        return dict.fromkeys(legal_methods(gemm), "")
    return dict.fromkeys(("true", "false") if UB_ARGUMENTS.get(argument) is bool else (), "")


def source(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of a file of the user's."""
    return [CompletionItem(incomplete, type="file")]


def presets(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of the names of userbuffers presets."""
    from ..option_files import options
    from ..presets.catalogue import NO_PRESETS
    from .hydra_help import CATALOGUE, description

    names = [name for name in options(CATALOGUE) if name not in NO_PRESETS and name.startswith(incomplete)]
    return _items({name: description(CATALOGUE, name) for name in names})


def gpus(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of GPUs that presets are tuned for."""
    from ..presets.catalogue import catalogue

    known = {one.tuned_for["gpu"] for one in catalogue()} - {None}
    return _items(_starting(incomplete, dict.fromkeys(sorted(known), "")))


def families(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of what the ids of rules begin with."""
    from ..rules import RULES

    return _items(_starting(incomplete.upper(), {rule.__name__.rstrip("0123456789"): "" for rule in RULES}))


def pages(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of what `explain` has a page for: rules, derivations, variables, groups and, a level of nodes at a time, fields.

    Behind `group=` the options of that group. Flags begin with a dash, where click completes the command's own.
    """
    from ..rules import DERIVATIONS, RULES
    from ..schema.descriptions import descriptions
    from . import option_pages, variable_pages

    group, sign, _ = incomplete.partition("=")
    if sign:
        return _items(_starting(incomplete, {f"{group}={name}": text for name, text in _values(group).items()}))

    ids = {rule.__name__: rule.title() for rule in RULES}
    ids |= {derivation.id: f"decides {derivation.key}" for derivation in DERIVATIONS}
    others = {**dict.fromkeys(variable_pages.names(), ""), **{f"{name}=": "" for name in option_pages.GROUPS}}
    found = {**_starting(incomplete.upper(), ids), **_level(incomplete, descriptions().items())}
    return _items({**found, **_starting(incomplete, others)} if incomplete else found)


def nodes(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Completion of nodes that have a schema of their own."""
    from ..schema.fields import FIELDS

    paths = (key.rpartition(".")[0] for key in FIELDS)
    return _items(_starting(incomplete, {".".join(p.split(".")[:n]): "" for p in paths if p for n in (1, 2)}))


def starts(context: Context, parameter: Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Shipped options that a new file of the kind can begin from."""
    from ..option_files import options
    from .hydra_help import description
    from .scaffold import FOLDERS

    words = os.environ.get("COMP_WORDS", "").split()  # an option without its value hides the arguments from the context
    groups = [group for kind, group in FOLDERS.items() if kind in words]
    texts = {name: description(group, name) for group in groups for name in options(group)}
    return _items(_starting(incomplete, texts))


def _level(start: str, names: Iterable[tuple[str, str]]) -> Texts:
    """Of the names that begin with `start` the next part each, up to a dot; what is deeper shares one line."""
    found: Texts = {}
    for name, text in names:
        if name.startswith(start):
            end = name.find(".", len(start)) + 1
            found.setdefault(name[:end] if end else name, "" if end else text)
    return found


def _starting(incomplete: str, texts: Mapping[str, str]) -> Texts:
    return {name: text for name, text in texts.items() if name.startswith(incomplete)}


def _items(texts: Mapping[str, str]) -> "list[CompletionItem[str]]":
    return [CompletionItem(name, help=text or None) for name, text in texts.items()]
