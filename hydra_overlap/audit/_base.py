"""What a reader of a foreign configuration hands over."""

import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import HydraOverlapError
from ..export._base import FACTS_MARK
from ..request import LEAVES
from ..rules.cfg import CHOICES, LISTS, MINIMUM, VERSIONS

# Names of settings that bear on overlap, in Megatron-LM, Bridge and NeMo: named when no rule reads them.
BEARS_ON_OVERLAP = re.compile(
    r"overlap|p2p|bucket|tp_comm|^ub_|userbuffer|nccl|sharp|fsdp|wgrad|align_|cuda_?graph|hierarchical|delay|defer"
    r"|max_connections|sm_margin|stream|sequence_parallel|symmetric|hybridep|deepep|dispatcher|ddp_num|interleav"
)


class UnreadableError(HydraOverlapError):
    """Text that is none of the formats, or broken."""


@dataclass(kw_only=True)
class Intake:
    """What was read. flat: key of the request -> value. said: key -> how the source spells it, for messages.

    overlooked: settings that bear on overlap and that no rule reads, with what was said. ignored: how many others were
    left alone. env: variables the source sets. notes: what the reader assumed. files: names of files it refers to.
    undecided: key -> the setting as it stands there, where its value is known only when the source runs.
    """

    kind: str
    flat: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    overlooked: list[str] = field(default_factory=list)
    ignored: int = 0
    env: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, value: Any, said: str) -> bool:
        """Set one key, if the value is one our field can hold; else it counts as overlooked."""
        if not legible(key, value):
            self.overlook(said)
            return False
        self.flat[key] = value
        self.said[key] = said
        return True

    def overlook(self, said: str) -> None:
        """A setting that our rules know nothing about."""
        if BEARS_ON_OVERLAP.search(said.lower().replace("-", "_")):
            self.overlooked.append(said)
        else:
            self.ignored += 1


def legible(key: str, value: Any) -> bool:
    """Whether our field of that name can hold the value."""
    leaf = LEAVES.get(key)
    if leaf is None or not leaf.accepts(value):
        return False
    if value is None:
        return True
    if key in LISTS:
        return all(item in LISTS[key] for item in value)
    if key in VERSIONS:
        return value != "auto"
    return value in CHOICES.get(key, (value,)) and not (key in MINIMUM and value < MINIMUM[key])


def facts_of(text: str) -> list[str]:
    """The overrides in the header of one of our own exports."""
    lines = (line.strip() for line in text.splitlines())
    return [word for line in lines if line.startswith(FACTS_MARK) for word in line.removeprefix(FACTS_MARK).split()]
