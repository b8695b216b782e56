"""Overrides beside an audited file: what the file does not say, in the words of our own command line."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .. import dotted, option_files
from ..errors import USAGE, GatingError, HydraOverlapError
from ..findings import Finding, Fix, Place
from ..rules.cfg import CFG001, CFG003
from ..schema.fields import FIELDS, NODES
from ..suggest import nearest

COMMAND_LINE = "command line"
GRAMMAR = "https://hydra.cc/docs/advanced/override_grammar/basic"
GUESSED = ("platform", "model", "precision", "parallelism", "software", "userbuffers")
"""Groups whose options people name without their group."""


class OverrideError(HydraOverlapError):
    """A word that is no override."""

    exit_code = USAGE

    def __init__(self, word: str, meant: str | None) -> None:
        fixes = (Fix(meant, "did you mean this?"),) if meant else ()
        why = "What the file leaves open is said as KEY=VALUE after its name, such as platform=h100 parallelism.world_size=64."
        title = "An override does not have the form KEY=VALUE"
        self.findings = (
            Finding(
                rule="USE", severity="error", title=title, why=why, where=(Place(word, "", COMMAND_LINE),), fixes=fixes, source=GRAMMAR
            ),
        )  # fmt: skip
        super().__init__(f"{title}: {word}")

    @property
    def headline(self) -> str:
        """That nothing was read."""
        return "This command line cannot be read; nothing was audited."

    def __str__(self) -> str:
        return f"{self.headline}\n\n{self.findings[0].message}"


def values(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of `key=value` and of `group=option`, parsed by Hydra's grammar.

    Raises GatingError for a key or an option that does not exist, OverrideError for a word that is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    for index, word in enumerate(overrides):
        try:
            (override,) = parser.parse_overrides([word])
            key, value = override.key_or_group, override.value()
        except OverrideParseException:
            raise OverrideError(word, _meant(word, overrides[index + 1 :])) from None
        if not key:
            raise OverrideError(word, None)
        yield from _values(key, value)


def _values(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    group = key.replace(".", "/")
    known = option_files.options(group) if key in NODES or group.startswith("comm_overlap/") else ()
    if known and isinstance(value, str):
        if value not in known:
            match = nearest(value, known)
            fixes = (Fix(f"{key}={match}", "did you mean this?"),) if match else ()
            why = f"{group} has no option {value!r}; it has: {', '.join(known)}."
            raise GatingError([CFG003.refuse(key, value, COMMAND_LINE, why, *fixes)])
        return dotted.flatten(option_files.option(group, value), group.replace("/", "."), whole=FIELDS).items()
    if key in FIELDS:
        return ((key, value),)
    parent = key.rpartition(".")[0]
    siblings = tuple(leaf.rpartition(".")[2] for leaf in FIELDS if leaf.rpartition(".")[0] == parent)
    raise GatingError([CFG001.unknown(key, value, COMMAND_LINE, siblings or NODES)])


def _meant(word: str, rest: Sequence[str]) -> str | None:
    """`platform=h100` for `H100`, for `--platform h100` and for `--platform=h100`."""
    name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
    if word.startswith("-") and not equals and rest and "=" not in rest[0]:
        equals, value = "=", rest[0]
    if equals:
        known = {leaf.rpartition(".")[2]: leaf for leaf in FIELDS} | {one: one for one in (*NODES, *FIELDS)}
        key = known.get(name) or nearest(name, known)
        key = known.get(key or "")
        options = option_files.options(key.replace(".", "/")) if key and key not in FIELDS else ()
        return f"{key}={nearest(value.lower(), options) or value}" if key else None
    owners = [(group, name.lower()) for group in GUESSED if name.lower() in option_files.options(group)]
    return "=".join(owners[0]) if owners else None
