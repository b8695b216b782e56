"""What a reader of a foreign configuration hands over."""

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from ..errors import HydraOverlapError
from ..export._base import FACTS_MARK
from ..findings import Finding, Fix, Place
from ..rules import RULES
from ..rules.cfg import CFG001
from ..rules.trn import TrainerRule
from ..schema.fields import FIELDS
from ..schema.keys import FSDP
from ..suggest import did_you_mean, nearest

# Names of settings that bear on overlap, in Megatron-LM, Bridge and NeMo: named when no rule reads them.
BEARS_ON_OVERLAP = re.compile(
    r"overlap|p2p|bucket|tp_comm|^ub_|userbuffer|nccl|sharp|fsdp|wgrad|align_|cuda_?graph|hierarchical|delay|defer"
    r"|max_connections|sm_margin|stream|sequence_parallel|symmetric|hybridep|deepep|dispatcher|ddp_num|interleav"
)


# An audited configuration is another program's: what train.py alone needs (TRN) is not judged in it.
JUDGED = frozenset(key for rule in RULES if not issubclass(rule, TrainerRule) for key in rule.reads)
FACTS = ("platform.", "software.", "parallelism.world_size")  # no recipe says them
ABSENT = "no "  # begins what is said of a flag that is not there
LIKE = 0.9  # of difflib, from which on an unknown name is taken for a known one misspelt


class UnreadableError(HydraOverlapError):
    """Text that is none of the formats, or broken."""


class Unknown(str):
    """The text of a setting whose value is known only where the program runs."""


@dataclass(kw_only=True)
class Intake:
    """What was read. flat: key of the request -> value. said: key -> how the source spells it, for messages.

    ways: how the conditions turn out that the text does not decide, where this is so only then. group: the same for all of
    these. maybe: words of the command that may add settings (`$EXTRA`); surely: what holds settings and cannot be read. by_default: ranks that would start if nobody says another number, and how
    that is said.

    overlooked: settings that bear on overlap and that no rule reads, with what was said. ignored: how many others were
    left alone. env: variables the source sets. notes: what the reader assumed. undecided: key -> the setting as it stands
    there, whose value is not known or not usable. findings: what the source's own reader would refuse or pass over.
    lines: of the command, in a script. unexported: variables that a script sets
    and does not export. exact: whether env is the whole environment of the run. asserts_connections: whether the
    program asserts CUDA_DEVICE_MAX_CONNECTIONS as Megatron-LM's validate_args does. torch_fsdp: whether torch's own FSDP is
    used, which no field of ours says. rest_is_default: whether what is not said is
    known to be the default; in Megatron-Bridge it is the recipe's. settle: what the program changes first, applied when all that was said is in `flat`. checks: what the program itself would
    refuse, looked at when all that was said is in `flat`.
    """

    kind: str
    flat: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    overlooked: list[str] = field(default_factory=list)
    ignored: int = 0
    env: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lines: tuple[int, ...] = ()
    unexported: frozenset[str] = frozenset()
    exact: bool = False
    asserts_connections: bool = False
    torch_fsdp: bool = False
    rest_is_default: bool = True
    ways: tuple[str, ...] = ()
    group: int | None = None
    maybe: tuple[str, ...] = ()
    surely: tuple[str, ...] = ()
    by_default: tuple[int, str] | None = None
    settle: Callable[["Intake"], None] | None = None
    checks: list[Callable[["Intake"], Iterable[Finding]]] = field(default_factory=list)

    def open_in(self, finding: Finding) -> tuple[str, ...]:
        """Keys that a finding hangs on and that only the recipe behind the source says, or a part that cannot be read."""
        if self.rest_is_default and not self.surely:
            return ()
        return tuple(key for key in self.unsaid_in(finding) if not key.startswith(FACTS))

    def unsaid_in(self, finding: Finding) -> tuple[str, ...]:
        """Keys that a finding hangs on and that the source does not say."""
        places = {place.key: place for place in finding.where if place.key in FIELDS or place.origin.startswith(ABSENT)}
        return tuple(
            key
            for key, place in places.items()
            if key not in self.undecided
            and self.said.get(key, place.origin if key not in FIELDS else ABSENT).startswith(ABSENT)
        )

    @property
    def tells_environment(self) -> bool:
        """Whether what is not in `env` is worth a word: of a launch, or of a command in a script."""
        return self.exact or bool(self.lines)

    @property
    def several_queues(self) -> str:
        """What Megatron-LM asserts more than one hardware queue for; empty if it does not."""
        if not self.asserts_connections:
            return ""
        return "--use-torch-fsdp2" if self.torch_fsdp else "--use-megatron-fsdp" if self.flat.get(FSDP) else ""

    @property
    def of_environment(self) -> str:
        """Where the variables stand, for messages."""
        return "environment" if self.exact else "in the source"

    def take(self, key: str, value: Any, said: str) -> bool:
        """Set one key, if the value is one our field can hold; else a verdict that hangs on it stays open."""
        if not isinstance(value, Unknown) and _holds(key, value):
            self.flat[key] = value
            self.said[key] = said
            return True
        if bears(key):
            self.leave(key, said, "" if isinstance(value, Unknown) else FIELDS[key].wanted())
        else:
            self.overlook(said)
        return False

    def change(self, key: str, value: Any, why: str) -> None:
        """What the program makes of a field before anything reads it. why: a note, where that was not said."""
        if self.flat.get(key) not in (None, value):
            self.notes.append(why)
        self.flat[key] = value

    def leave(self, key: str, said: str, wanted: str = "") -> None:
        """Leave one key undecided. wanted: what it can be; empty where its value is known only where the program runs."""
        self.undecided[key] = said
        self.notes.append(f"not usable: {said}, where {wanted} is needed" if wanted else f"not known: {said}")

    def overlook(self, said: str) -> None:
        """A setting that our rules know nothing about."""
        if BEARS_ON_OVERLAP.search(said.lower().replace("-", "_")):
            self.overlooked.append(said)
        else:
            self.ignored += 1

    def unknown(self, name: str, known: Iterable[str], said: str, why: str, source: str) -> None:
        """A name that the source's own reader does not know either, or that only we do not know."""
        if not self.misspelt(name, known, said, why, source):
            self.overlook(said)

    def misspelt(self, name: str, known: Iterable[str], said: str, why: str, source: str) -> bool:
        """Refuse an unknown name that is nearly a known one. why: what becomes of it there."""
        match = nearest(name, known)
        if match is None or not alike(name, match):
            return False
        finding = Finding(
            rule=CFG001.__name__, severity="error", title=CFG001.title(), source=source, where=(Place(said, ""),),
            why=f"There is no {name}{did_you_mean(name, (match,))}. {why}",
            fixes=(Fix(said.replace(name, match, 1), "did you mean this?"),),
        )  # fmt: skip
        self.findings.append(finding)
        return True


def bears(key: str) -> bool:
    """Whether a verdict on an audited configuration may hang on one key."""
    return key in JUDGED or key.startswith(("comm_overlap.", "parallelism."))


def alike(name: str, known: str) -> bool:
    """Whether one name is the other misspelt, or a flag cut short; names that differ in digits alone are two names."""
    if re.sub(r"\d", "", name) == re.sub(r"\d", "", known):
        return False
    return (name.startswith("--") and known.startswith(name)) or SequenceMatcher(None, name, known).ratio() >= LIKE


def _holds(key: str, value: Any) -> bool:
    """Whether our field of that name can hold the value."""
    return key in FIELDS and FIELDS[key].allows(value)


def facts_of(text: str) -> list[str]:
    """The overrides in the header of one of our own exports."""
    lines = (line.strip() for line in text.splitlines())
    return [word for line in lines if line.startswith(FACTS_MARK) for word in _words(line.removeprefix(FACTS_MARK))]


def _words(text: str) -> list[str]:
    """Words as a shell reads them, which is how they were written; as they stand where somebody left a quote open."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
