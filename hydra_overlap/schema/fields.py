"""Every field of the request, read once from `nodes`: its key, type, default, choices and limits.

`FIELDS` has them flat by dotted key, `TREE` nested as the request is. Rules, JSON Schema, completion, documentation, exports
and audits read these; none has a table of its own.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from .. import dotted
from . import releases
from .annotations import unwrapped
from .limits import FLOAT32, INT64, Ceiling
from .nodes import Request
from .versions import at_least, is_version


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field: its type, whether it may be null, its default, and what it may hold.

    item: of a list, the type of its items. choices: the names that the text, or an item of the list, may be; empty = any.
    minimum, below: of a number; None = no limit. ceiling: the most that a number, or an item of a list of numbers, may be; every
    number has one. version: the text is the version of a package. since: the first
    megatron-core that has the setting; empty = every one that is known. arrived: choice -> the first megatron-core that has
    it, for those that are newer than the field.
    """

    kind: type
    optional: bool
    default: Any
    item: type = str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    below: float | None = None
    ceiling: Ceiling | None = None
    version: bool = False
    since: str = ""
    arrived: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def choices_in(self, core: str | None) -> tuple[str, ...]:
        """The choices that a release of megatron-core has; all that are known where its version is not."""
        if core is None or not self.arrived or not is_version(core):
            return self.choices
        return tuple(name for name in self.choices if name not in self.arrived or at_least(core, self.arrived[name]))

    @property
    def listed(self) -> bool:
        """Whether it is a list."""
        return self.kind is list

    def accepts(self, value: Any) -> bool:
        """Whether a value has the type; rule CFG002 refuses any other."""
        if value is None:
            return self.optional
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is float:
            return isinstance(value, (int, float))
        if self.kind is list:
            return isinstance(value, (list, tuple)) and all(type(item) is self.item for item in value)
        if self.kind is dict:
            return isinstance(value, Mapping) and all(_is_entry(*item) for item in value.items())
        return isinstance(value, self.kind) and not (self.optional and isinstance(value, str) and not value.strip())

    def allows(self, value: Any) -> bool:
        """Whether no CFG rule refuses a value here: its type, its choices, its limits, its version.

        A value read from a configuration of another program is ours only if this holds.
        """
        if value is None or not self.accepts(value):
            return value is None and self.optional
        if self.choices:
            return all(name in self.choices for name in (value if self.listed else (value,)))
        if self.version:
            return is_version(value)
        if self.kind in (int, float):
            return self._in_range(value)
        return not self.listed or self.item is not int or all(map(self._in_range, value))

    def _in_range(self, value: float) -> bool:
        above = self.minimum is None or value >= self.minimum
        finite = isinstance(value, int) or math.isfinite(value)  # an int may be larger than any float
        reached = self.most is None or value <= self.most
        return finite and above and reached and (self.below is None or value < self.below)

    @property
    def most(self) -> float | None:
        """The largest number that it, or an item of it, may be; None where it holds no numbers."""
        return None if self.limit is None else self.limit.most

    @property
    def limit(self) -> Ceiling | None:
        """Its ceiling and the reason; the one of its type where it declares none."""
        kind = self.item if self.listed else self.kind
        return self.ceiling or {int: INT64, float: FLOAT32}.get(kind)

    def describe(self) -> str:
        """What type of value it holds, in words."""
        return self._or_null(self._type())

    def wanted(self) -> str:
        """What it may hold, in words: its choices, or its type and limits."""
        if self.choices:
            return self._or_null(f"{'a list of' if self.listed else 'one of'} {', '.join(self.choices)}")
        if self.version:
            return self._or_null("a version such as 2.11.0")
        least = f", at least {self.minimum:g}" if self.minimum is not None else ""
        below = f", below {self.below:,}" if self.below is not None else ""
        most = f", at most {self.ceiling.most:,}" if self.ceiling is not None else ""
        return self._or_null(self._type() + least + below + most)

    def _type(self) -> str:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        names[list] = "a list of whole numbers" if self.item is int else "a list of texts"
        return names.get(self.kind, "a mapping")

    def _or_null(self, text: str) -> str:
        return f"{text}, or null" if self.optional else text

    def copy(self, value: Any) -> Any:
        """`value`, shared with nobody; entries of a mapping that are null are left out."""
        if isinstance(value, Mapping):
            return {name: dict(entry) for name, entry in value.items() if entry is not None}
        return list(value) if self.kind is list and value is not None else value


def _is_entry(name: Any, value: Any) -> bool:
    """Whether an item of a mapping is text -> mapping; null is an entry left out."""
    return isinstance(name, str) and (
        value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value))
    )


Tree = dict[str, Any]  # name -> Field or Tree


def _tree(node: type, prefix: str = "") -> Tree:
    hints = typing.get_type_hints(node)
    tree: Tree = {}
    for field in dataclasses.fields(node):
        kind, optional = unwrapped(hints[field.name])
        if dataclasses.is_dataclass(kind):
            tree[field.name] = _tree(typing.cast(type, kind), f"{prefix}{field.name}.")
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else str
        plain = typing.get_origin(kind) or kind
        key = f"{prefix}{field.name}"
        tree[field.name] = Field(
            kind=plain, optional=optional, default=default, item=item, since=releases.since(key, listed=plain is list),
            arrived=_arrived(key, field.metadata.get("choices", ())), **field.metadata,
        )  # fmt: skip
    return tree


def _arrived(key: str, choices: Iterable[str]) -> dict[str, str]:
    """Choice -> the first release that has it, of those that the first release with any choices does not have."""
    if key in releases.BY_PARSER:
        return dict(releases.BY_PARSER[key])
    (_, first), *later = releases.choices(key) or (("", ()),)
    return {name: version for name in choices for version, known in later[::-1] if name in known and name not in first}


TREE = _tree(Request)
NODES = tuple(TREE)
OUTPUT = "overlap"  # the node of a composed config that holds our answer
IGNORED = ("hydra", OUTPUT)  # in every composed config, and no part of the request

FIELDS: dict[str, Field] = dotted.flatten(TREE)
DEFAULTS = {key: field.default for key, field in FIELDS.items()}

# What rules go through for every request: the fields that have such a bound, and no others.
CHOICES = {key: field.choices for key, field in FIELDS.items() if field.choices and not field.listed}
LISTS = {key: field.choices for key, field in FIELDS.items() if field.choices and field.listed}
MINIMUM = {key: field.minimum for key, field in FIELDS.items() if field.minimum is not None}
MOST = {key: field.limit for key, field in FIELDS.items() if field.limit is not None}
BELOW = {key: field.below for key, field in FIELDS.items() if field.below is not None}
VERSIONS = tuple(key for key, field in FIELDS.items() if field.version)
SINCE = {key: field.since for key, field in FIELDS.items() if field.since}
ARRIVED = {key: field.arrived for key, field in FIELDS.items() if field.arrived}


def complete(request: Mapping[str, Any]) -> dict[str, Any]:
    """Flat, every key of the schema with its value in a nested request that was judged; the default where it says nothing."""
    return {key: dotted.get(request, key, field.default) for key, field in FIELDS.items()}
