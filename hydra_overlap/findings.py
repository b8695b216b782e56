"""What a rule says about a configuration: the data, and the text people read."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = (
    80  # columns where nobody says how many there are; overrides and paths are never broken, so that they can be pasted
)
PROSE = 100  # columns of wrapped prose at most, however wide the terminal is
INDENT = 10  # columns of a label, such as `fix`, and the space around it
LONGEST = 4096  # bits of a whole number that is written out
SEVERITIES = ("error", "warning", "note")

_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}
_INTEGER, _FLOAT = re.compile(r"[-+]?\d+"), re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z0-9_./:%+@-]*")  # of texts that overrides say bare, those that Hydra reads as they stand

Span = tuple[str, str]  # a text and what it is: a severity, "rule", "label", "override", "aside", or "" for plain prose


@dataclass(frozen=True)
class Fix:
    """Overrides to paste after the command that was run, and what they do to the overlap.

    replaces: the part of the command in whose place they stand, as it was typed or by its key; empty where they come after all
    of it. The effect says so too.
    """

    override: str
    effect: str
    replaces: str = ""


@dataclass(frozen=True)
class Place:
    """One offending setting: full key, value in YAML spelling, and the file, override or rule it came from."""

    key: str
    value: str
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule's verdict on one configuration. severity: error refuses; warning and note do not."""

    rule: str
    severity: str
    title: str
    why: str = ""
    where: tuple[Place, ...] = ()
    fixes: tuple[Fix, ...] = ()
    source: str = ""

    @property
    def message(self) -> str:
        """The whole text of this finding."""
        return render(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "title": self.title,
            "message": self.message,
            "why": self.why,
            "where": [{"key": p.key, "value": typed(p.value), "origin": p.origin} for p in self.where],
            "fixes": [{"override": f.override, "effect": f.effect, "replaces": f.replaces} for f in self.fixes],
            "source": self.source,
        }


def in_place(override: str, replaces: str) -> Fix:
    """The fix of a word that means nothing: what was meant, in its place."""
    return Fix(override, f"in place of {replaces}: did you mean this?", replaces)


def yaml_value(value: Any) -> str:
    """A value as it is typed on Hydra's command line: `true`, `null`, `[a,b]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(yaml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{yaml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int) and value.bit_length() > LONGEST:  # Python writes no such number in decimal
        return f"{hex(value)[:24]}..."
    return str(value)


def visible(text: str) -> str:
    r"""The text on one line, with each character that would not be seen as its escape: `\n`, `\x1b`, `\u2028`, `\udcff`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def typable(value: Any) -> bool:
    """Whether Hydra's grammar reads `yaml_value(value)` back without quotes; blanks would part one override from the next."""
    return not isinstance(value, str) or bool(_WORD.fullmatch(value))


def typed(text: str) -> Any:
    """What `yaml_value` wrote, as the value it was: `true` -> True, `[a,1]` -> ["a", 1]; any other text as it is."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text[:1] in ("[", "{"):
        with suppress(yaml.YAMLError):
            return yaml.safe_load(text.replace(":", ": ") if text[0] == "{" else text)
    return text


def render(finding: Finding, width: int = WIDTH) -> str:
    """The text block of a finding: severity, rule and title; what was found, why it matters, how to fix it, the source."""
    return plain(lines(finding, width))


def plain(said: Iterable[Sequence[Span]]) -> str:
    """Lines as text, without what their parts are."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in said)


def wrapped(text: str, width: int) -> list[str]:
    """Prose in lines of at most `width` columns, broken between words alone."""
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)


def lines(finding: Finding, width: int = WIDTH) -> Iterator[list[Span]]:
    """The block line by line, for `width` columns. No word is broken: what is longer than a line stands on one of its own.

    What would end a line or steer a terminal, such as a line break in a value, is shown as its escape.
    """
    for line in _lines(finding, width):
        yield [(visible(text), kind) for text, kind in line]


def _lines(finding: Finding, width: int) -> Iterator[list[Span]]:
    head = f"{finding.severity} {finding.rule}  "
    for index, line in enumerate(_wrapped(finding.title, width - len(head))):
        lead: list[Span] = [(f"{finding.severity} ", finding.severity), (f"{finding.rule}  ", "rule")]
        yield [*(lead if index == 0 else [(" " * len(head), "")]), (line, "rule")]
    places = [(str(place), place.origin) for place in finding.where]
    yield from _pairs(["found", *[""] * (len(places) - 1)], places, width, "")
    for index, line in enumerate(_wrapped(finding.why, width - INDENT)):
        yield [_label("why" if index == 0 else ""), (line, "")]
    fixes = [(fix.override, fix.effect) for fix in finding.fixes]
    yield from _pairs(["fix", *["   or"] * (len(fixes) - 1)], fixes, width, "override")
    for index, line in enumerate(_wrapped(finding.source, width - INDENT)):
        yield [_label("source" if index == 0 else ""), (line, "aside")]


def _pairs(labels: Sequence[str], pairs: Sequence[tuple[str, str]], width: int, kind: str) -> Iterator[list[Span]]:
    """What is to be read beside what is said of it, in two columns; below it where one of them does not fit beside."""
    longest = max((len(left) for left, _ in pairs), default=0)
    beside = all(INDENT + longest + 3 + len(right) <= width for _, right in pairs if right)
    for label, (left, right) in zip(labels, pairs, strict=False):
        yield [
            _label(label),
            (f"{left:<{longest}}   " if beside and right else left, kind),
            *([(right, "aside")] if beside else []),
        ]
        if not beside:
            for line in _wrapped(right, width - INDENT - 2):
                yield [(" " * (INDENT + 2), ""), (line, "aside")]


def _label(text: str) -> Span:
    return f"  {text:<{INDENT - 2}}", "label"


def _wrapped(text: str, width: int) -> list[str]:
    return wrapped(text, min(width, PROSE - INDENT))
