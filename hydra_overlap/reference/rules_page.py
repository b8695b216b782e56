"""docs/rules/, made from the declarations: an index and a page per family. `python -m hydra_overlap.reference.rules_page docs/rules`."""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import rules as families
from ..findings import visible, yaml_value
from ..resolver.resolve import resolve
from ..rules import DERIVATIONS, RULES, Rule
from ..rules._base import Derivation
from .examples import example

INDEX = "README.md"
MODULES = {
    "ADV": "advisories"
}  # family -> its module in hydra_overlap/rules, where that is not its name in small letters
SECTIONS = ("When it applies", "What upstream does")
"""Paragraphs of a rule's docstring that open with one of these, and a colon, stand under that heading."""

HEAD = """# Rules

Every rule that judges a request, and every derivation that decides a field left `null`. These pages are made from the
declarations in `hydra_overlap/rules/` by `make docs`; a test compares. `hydra-overlap explain TP002` prints the same facts.

- An **error** refuses the configuration. A **warning** or a **note** is printed, and the run starts.
- A rule is judged only if the rules that it comes *after* did not refuse: one cause, one message.
- Fixes are those printed for the example, and each was judged on it. Fixes of another request can have other values.
- What `gating=bridge` does instead is in [decision 0003](../decisions/0003-bridge-mode.md). Limits that are not rules, and why:
  [rules-not-implemented.md](../rules-not-implemented.md).
"""
DECIDED = "## What `null` becomes\n"
REASONS = "Reasons are those of a request that sets nothing.\n"


def pages() -> dict[str, str]:
    """File name -> Markdown: the index, then a page per family."""
    by_family = {family: list(rules) for family, rules in groupby(RULES, key=lambda rule: family_of(rule.__name__))}
    texts = {INDEX: "\n".join(_index(by_family)) + "\n"}
    return texts | {f"{family.lower()}.md": "\n".join(_page(family, rules)) for family, rules in by_family.items()}


def family_of(name: str) -> str:
    """TP of TP002: the letters of an id."""
    return name.rstrip("0123456789")


def _index(by_family: dict[str, list[type[Rule]]]) -> Iterator[str]:
    yield HEAD
    for family, rules in by_family.items():
        yield f"## [{_about(family)}]({family.lower()}.md)\n"
        yield "| id | severity | problem |"
        yield "|---|---|---|"
        for rule in rules:
            yield f"| [{rule.__name__}]({family.lower()}.md#{_anchor(rule)}) | {rule.severity} | {rule.title()} |"
        yield ""


def _page(family: str, rules: list[type[Rule]]) -> Iterator[str]:
    yield f"# {_about(family)}\n"
    yield f"[All families]({INDEX}). Severities, fixes and examples are explained there.\n"
    for rule in rules:
        yield from _rule(rule)
    derivations = [derivation for derivation in DERIVATIONS if family_of(derivation.id) == family]
    if derivations:
        yield DECIDED
        yield REASONS
        yield from _table(derivations)
        yield ""


def _about(family: str) -> str:
    """What a family judges: the first line of its module, which opens with the family's name."""
    module = import_module(f"{families.__name__}.{MODULES.get(family, family.lower())}")
    return _first_line(module)


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0].rstrip(".")


def _heading(rule: type[Rule]) -> str:
    return f"{rule.__name__}: {rule.title()}"


def _anchor(rule: type[Rule]) -> str:
    """The anchor that GitHub gives the rule's heading."""
    kept = (char for char in _heading(rule).lower() if char.isalnum() or char in " -_")
    return "".join(kept).replace(" ", "-")


def _rule(rule: type[Rule]) -> Iterator[str]:
    finding, said = example(rule), _paragraphs(rule)
    yield f"## {_heading(rule)}\n"
    after = f"; after {', '.join(rule.requires)}" if rule.requires else ""
    yield f"*{rule.severity}{after}*\n"
    wrong = [text for text in (rule.why or (finding.why if finding else ""), *said[""]) if text]
    if wrong:
        yield f"**What goes wrong.** {wrong[0]}\n"
        yield from (f"{text}\n" for text in wrong[1:])
    for section in SECTIONS:
        yield from (f"**{section}.** {text}\n" for text in said[section])
    if rule.reads:
        yield f"**Reads.** {', '.join(f'`{key}`' for key in rule.reads)}\n"
    if rule.refused:
        yield f"**Example.** `{visible(' '.join(rule.refused))}`\n"
    if finding and finding.fixes:
        yield "**How to fix.**\n"
        yield from (f"- `{fix.override}`{f': {fix.effect}' if fix.effect else ''}" for fix in finding.fixes)
        yield ""
    yield f"**Source.** {rule.source}\n"


def _paragraphs(rule: type[Rule]) -> dict[str, list[str]]:
    """Section -> the paragraphs below a rule's title that belong to it; "" holds those of none."""
    found: dict[str, list[str]] = {name: [] for name in ("", *SECTIONS)}
    body = inspect.cleandoc(rule.__doc__ or "").partition("\n")[2].strip()
    for paragraph in filter(None, body.split("\n\n")):
        text = " ".join(paragraph.split())
        section = next((name for name in SECTIONS if text.startswith(f"{name}: ")), "")
        text = text.removeprefix(f"{section}: ")
        found[section].append(text[0].upper() + text[1:] if section else text)
    return found


def _table(derivations: list[Derivation]) -> Iterator[str]:
    rows = {row.field: row for row in resolve({}).ledger}
    yield "| id | field | becomes | because | source |"
    yield "|---|---|---|---|---|"
    for derivation in derivations:
        row = rows.get(derivation.key)
        value = f"`{yaml_value(row.effective)}`" if row and row.asked is None else ""
        reason = row.reason if row and row.asked is None else derivation.reason
        yield f"| {derivation.id} | `{derivation.key}` | {value} | {reason} | {derivation.source} |"


def write(folder: Path) -> None:
    """Write every page into `folder`, and take away pages of families that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for old in folder.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
