"""What a rule says about a configuration: the data, and the text people read."""

import textwrap
from dataclasses import dataclass
from typing import Any

COLUMN = 64  # columns of an override beside which its effect still finds room; below a longer one
WIDTH = 110  # columns of wrapped prose; overrides and sources are never broken, so that they can be pasted


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
            "where": [{"key": p.key, "value": p.value, "origin": p.origin} for p in self.where],
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
    return str(value)


def render(finding: Finding) -> str:
    """The text block of a finding: what, where, why, fix, source."""
    lines = [f"{finding.rule}  {finding.title}"]
    if finding.where:
        width = max(len(str(place)) for place in finding.where)
        for index, place in enumerate(finding.where):
            label = "where" if index == 0 else ""
            lines.append(f"  {label:<8}{place!s:<{width}}   {place.origin}".rstrip())
    if finding.why:
        wrapped = textwrap.wrap(finding.why, WIDTH - 10, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {'why' if index == 0 else '':<8}{line}" for index, line in enumerate(wrapped)]
    if finding.fixes:
        lines += _fix_lines(finding.fixes)
    if finding.source:
        lines.append(f"  source  {finding.source}")
    return "\n".join(lines)


def _fix_lines(fixes: tuple[Fix, ...]) -> list[str]:
    """Overrides, and beside or below each what it does."""
    width = max((len(fix.override) for fix in fixes if len(fix.override) <= COLUMN), default=0)
    lines = []
    for index, fix in enumerate(fixes):
        label = "fix     " if index == 0 else "   or   "
        if len(fix.override) <= COLUMN:
            lines.append(f"  {label}{fix.override:<{width}}   {fix.effect}".rstrip())
        else:
            lines += [f"  {label}{fix.override}", *([f"{'':<12}{fix.effect}"] if fix.effect else [])]
    return lines
