"""docs/rules.md, made from the declarations: `python -m hydra_overlap.reference.rules_page > docs/rules.md`."""

import inspect
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..findings import yaml_value
from ..resolver.resolve import resolve
from ..rules import DERIVATIONS, RULES, Rule
from .examples import example

HEAD = """# Rules

Every rule that judges a request, and every derivation that decides a field left `null`. Made from the declarations in
`hydra_overlap/rules/` by `python -m hydra_overlap.reference.rules_page`; a test compares.

An **error** refuses the configuration. A **note** is printed, and the run starts. A rule is judged only if those it comes
*after* did not refuse: one cause, one message. Fixes are those printed for the example; each was judged on it. What
`gating=bridge` does instead is in [decision 0003](decisions/0003-bridge-mode.md).
"""


def page() -> str:
    """The whole page, Markdown."""
    blocks = [HEAD]
    for _, rules in groupby(RULES, key=lambda rule: rule.__module__):
        family = list(rules)
        blocks.append(f"## {_first_line(inspect.getmodule(family[0]))}\n")
        blocks += ["\n".join(_rule(rule)) for rule in family]
    blocks += ["## Derivations: what `null` becomes\n", "\n".join(_derivations())]
    return "\n".join(blocks) + "\n"


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0].rstrip(".")


def _rule(rule: type[Rule]) -> Iterator[str]:
    finding = example(rule)
    yield f"### {rule.__name__}: {rule.title()}\n"
    after = f"; after {', '.join(rule.requires)}" if rule.requires else ""
    yield f"*{rule.severity}{after}*\n"
    why = rule.why or (finding.why if finding else "")
    if why:
        yield f"{why}\n"
    if rule.reads:
        yield f"- reads: {', '.join(f'`{key}`' for key in rule.reads)}"
    if rule.refused:
        yield f"- example: `{' '.join(rule.refused)}`"
    for fix in finding.fixes if finding else ():
        effect = f": {fix.effect}" if fix.effect else ""
        yield f"- fix: `{fix.override}`{effect}"
    yield f"- source: {rule.source}\n"


def _derivations() -> Iterator[str]:
    rows = {row.field: row for row in resolve({}).ledger}
    yield "The reason is that of a request in which nothing is said.\n"
    yield "| id | field | becomes | because | source |"
    yield "|---|---|---|---|---|"
    for derivation in DERIVATIONS:
        row = rows.get(derivation.key)
        value = f"`{yaml_value(row.effective)}`" if row and row.asked is None else ""
        reason = row.reason if row and row.asked is None else derivation.reason
        yield f"| {derivation.id} | `{derivation.key}` | {value} | {reason} | {derivation.source} |"


if __name__ == "__main__":
    sys.stdout.write(page())
