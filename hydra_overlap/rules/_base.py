"""What a rule is, and the vocabulary its declarations use.

A rule reads declared keys of a flat, complete request (`{"parallelism.tensor_model_parallel_size": 4, ...}`), says when
it applies and what must then hold. It never edits the configuration. A derivation decides a field that was left `null`.
Both are pure: no logging, no environment, no torch, no hydra.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..findings import Finding, Fix, Place, yaml_value

Config = Mapping[str, Any]
Origin = Callable[[str], str]  # key -> where its value came from

KEEPS = "keeps the overlap"
GIVES_UP = "gives the overlap up"
ARCHITECTURE = "another architecture"
HOPPER, BLACKWELL = 90, 100  # compute capability x 10


class Rule:
    """Base of all gating rules. The class name is the id; the first line of the docstring is the title."""

    severity: ClassVar[str] = "error"
    requires: ClassVar[tuple[str, ...]] = ()
    """Judged only if none of these refused: one cause, one message."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Every key `applies` and `holds` may read; a test records that they read no others."""
    why: ClassVar[str] = ""
    """One sentence: what goes wrong without the rule."""
    source: ClassVar[str] = ""
    """Project, version, path:line."""
    refused: ClassVar[tuple[str, ...]] = ()
    """The smallest overrides that trip it, on the request of tests/rules/test_all_rules.py."""
    fixes: ClassVar[tuple[Fix, ...]] = ()
    shows: ClassVar[tuple[str, ...]] = ()
    """Keys printed under `where`; empty = all of `reads`."""
    records: ClassVar[tuple[str, ...]] = ()
    """Records of tests/reference/rules_catalogue.json that it covers."""

    @classmethod
    def title(cls) -> str:
        """The problem in one sentence: the first line of the docstring, without its full stop."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @classmethod
    def applies(cls, c: Config) -> bool:
        """Whether the rule has something to say about this request."""
        return True

    @classmethod
    def holds(cls, c: Config) -> bool:
        """Whether what must hold does."""
        raise NotImplementedError

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        """Overrides that lift the refusal of this very request; legal neighbours are computed here."""
        return cls.fixes

    @classmethod
    def why_for(cls, c: Config) -> str:
        """`why`, with this request's numbers where they help."""
        return cls.why

    @classmethod
    def places(cls, c: Config, origin: Origin) -> tuple[Place, ...]:
        """The offending settings."""
        return tuple(Place(key, yaml_value(c[key]), origin(key)) for key in cls.shown(c))

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        """Keys of the offending settings."""
        return cls.shows or cls.reads

    @classmethod
    def finding(cls, c: Config, origin: Origin) -> Finding:
        """The refusal of `c` by this rule. origin: key -> where its value came from."""
        return Finding(
            rule=cls.__name__,
            severity=cls.severity,
            title=cls.title(),
            why=cls.why_for(c),
            where=cls.places(c, origin),
            fixes=cls.fixes_for(c),
            source=cls.source,
        )


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """How one field that was left null is decided. id: family + 1xx.

    value: request -> effective value. reason: text, or request -> text. records: as in Rule. limit: how far the value
    reaches, derived or asked for; empty where it reaches everywhere.
    """

    id: str
    key: str
    value: Callable[[Config], Any]
    reason: str | Callable[[Config], str]
    source: str
    records: tuple[str, ...] = ()
    limit: Callable[[Config], str] = lambda c: ""

    def explain(self, c: Config) -> str:
        """Why the value is what it is, for this request, and how far it reaches."""
        reason = self.reason(c) if callable(self.reason) else self.reason
        return f"{reason}; {self.limit(c)}" if self.limit(c) else reason
