"""A page of `hydra-overlap explain` as data and as lines: a headline, and blocks below it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..findings import PROSE, Span, plain, wrapped


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a page. label: empty above plain prose. items: paragraphs of prose, else lines that are never broken.

    below: for each item what is said of it, if anything is.
    """

    label: str
    items: tuple[str, ...]
    below: tuple[str, ...] = ()
    prose: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """What `hydra-overlap explain` shows. kind: rule, derivation, field, flag, variable, group, option or names. severity: of a rule. data: the same for programs."""

    kind: str
    name: str
    title: str
    severity: str = ""
    blocks: tuple[Block, ...]
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"kind": self.kind, "name": self.name, **self.data}

    def lines(self, width: int = PROSE) -> Iterator[list[Span]]:
        """The page line by line, for `width` columns. Prose is broken between words, overrides and paths are not."""
        yield [(f"{self.name}  ", "rule"), (self.title, "rule" if self.kind == "rule" else "")]
        if self.severity:
            yield []
            word, _, rest = self.severity.partition(",")
            yield [(word, word), (f",{rest}" if rest else "", "")]
        for block in self.blocks:
            yield from _block(block, min(width, PROSE))

    def __str__(self) -> str:
        return plain(self.lines())


def _block(block: Block, width: int) -> Iterator[list[Span]]:
    yield []
    indent = "  " if block.label else ""
    if block.label:
        yield [(block.label, "label")]
    for index, item in enumerate(block.items):
        kind = "override" if block.label in ("fix", "example") else ""
        for number, line in enumerate(_wrapped(item, width - 6) if block.prose or _sentence(item) else [item]):
            yield [(indent + ("    " if number and not block.prose else "") + line, kind)]
        if index < len(block.below) and block.below[index]:
            said = block.below[index]
            yield from (
                [(f"{indent}    {line}", "aside")]
                for line in (_wrapped(said, width - 8) if _sentence(said) else [said])
            )


def _sentence(text: str) -> bool:
    """Whether it is prose that may be broken, not overrides of one command."""
    return " " in text and not re.search(r"\S=\S", text)


def _wrapped(text: str, width: int) -> list[str]:
    if re.search(r"^(\s|[-*|])", text, re.MULTILINE):  # a list or a table in a docstring: as it is written
        return text.splitlines()
    return wrapped(text, width)
