"""One page of text about a rule, a derivation or a field."""

import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..findings import PROSE, Span, yaml_value
from ..rules import DERIVATIONS, RULES, Derivation, Rule
from ..schema.descriptions import descriptions
from ..schema.fields import DEFAULTS, FIELDS
from ..suggest import nearest
from .examples import decisions, example


class UnknownError(LookupError):
    """Nothing bears this name; the message lists near ones."""


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
    """What `hydra-overlap explain` shows. kind: rule, derivation or field. severity: of a rule. data: the same for programs."""

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
        return "\n".join("".join(text for text, _ in line).rstrip() for line in self.lines())


def explain(name: str) -> Page:
    """The page of `TP002`, `TP101` or `comm_overlap.dp.bucket_size`. Raises UnknownError."""
    rules = {rule.__name__: rule for rule in RULES}
    derivations = {derivation.id: derivation for derivation in DERIVATIONS}
    if name.upper() in rules:
        return _rule(rules[name.upper()])
    if name.upper() in derivations:
        return _derivation(derivations[name.upper()])
    if name in DEFAULTS:
        return _field(name)
    match = nearest(name, [*rules, *derivations, *DEFAULTS])
    hint = f" Did you mean {match}?" if match else ""
    raise UnknownError(
        f"There is no rule, derivation or field called {name}.{hint} `hydra-overlap rules` lists the rules."
    )


def _rule(rule: type[Rule]) -> Page:
    finding = example(rule)
    why = rule.why or (finding.why if finding else "")
    body = inspect.cleandoc(rule.__doc__ or "").partition("\n")[2].strip()
    blocks = [Block(label="", items=(text,), prose=True) for text in (why, *re.split(r"\n\s*\n", body)) if text]
    if rule.reads:
        blocks.append(Block(label="reads", items=rule.reads))
    fixes = finding.fixes if finding else ()
    command = shlex.join(["hydra-overlap", "check", *rule.refused]) if finding else ""
    if finding is not None:
        blocks.append(Block(label="example", items=(command,)))
        effects = tuple(fix.effect for fix in fixes)
        blocks += [Block(label="fix", items=tuple(fix.override for fix in fixes), below=effects)] if fixes else []
    blocks.append(Block(label="source", items=(rule.source,), prose=True))
    after = f", judged only if {', '.join(rule.requires)} did not refuse" if rule.requires else ""
    data = {
        "title": rule.title(), "severity": rule.severity, "requires": list(rule.requires), "why": why, "details": body,
        "reads": list(rule.reads), "example": command or None, "source": rule.source,
        "fixes": [{"override": fix.override, "effect": fix.effect} for fix in fixes],
    }  # fmt: skip
    severity = f"{rule.severity}{after}"
    return Page(kind="rule", name=rule.__name__, title=rule.title(), severity=severity, blocks=tuple(blocks), data=data)


def _derivation(derivation: Derivation) -> Page:
    blocks = []
    found = list(decisions(derivation))
    if found:
        items = tuple(f"{yaml_value(one.value)}: {one.reason}" for one in found)
        plans = tuple(" ".join(one.plan) or "with nothing set" for one in found)
        blocks.append(Block(label="becomes, for example", items=items, below=plans))
    elif isinstance(derivation.reason, str):  # of no row of the ledger
        blocks.append(Block(label="", items=(derivation.reason,), prose=True))
    blocks.append(Block(label="source", items=(derivation.source,), prose=True))
    examples = [{"value": one.value, "reason": one.reason, "overrides": list(one.plan)} for one in found]
    data = {"decides": derivation.key, "examples": examples, "source": derivation.source}
    title = f"decides {derivation.key} if it is null"
    return Page(kind="derivation", name=derivation.id, title=title, blocks=tuple(blocks), data=data)


def _field(key: str) -> Page:
    field, readers = FIELDS[key], [rule for rule in RULES if key in rule.reads]
    decided = tuple(derivation.id for derivation in DERIVATIONS if derivation.key == key)
    blocks = [
        Block(label="", items=(descriptions()[key],), prose=True),
        Block(label="holds", items=(field.wanted(),), prose=True),
    ]
    blocks += [Block(label="since", items=(f"megatron-core {field.since}",))] if field.since else []
    blocks += [Block(label="null is decided by", items=decided)] if decided else []
    lines = tuple(f"{rule.__name__}  {rule.title()}" for rule in readers)
    blocks += [Block(label="read by", items=lines)] if readers else []
    data = {
        "default": DEFAULTS[key], "description": descriptions()[key], "holds": field.wanted(), "since": field.since or None,
        "decided_by": list(decided), "read_by": [rule.__name__ for rule in readers],
    }  # fmt: skip
    title = f"(default: {yaml_value(DEFAULTS[key])})"
    return Page(kind="field", name=key, title=title, blocks=tuple(blocks), data=data)


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
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)
