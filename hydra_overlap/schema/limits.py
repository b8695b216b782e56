"""How a field of the schema declares what it may hold beyond its type: choices and limits.

Which release of megatron-core brought a field or a choice is not declared: `releases` reads it from the wheels.
Each function makes a dataclass field. `fields` reads what they note; rules, JSON Schema, completion, documentation and
audits read `fields`. Nothing here imports more than dataclasses: Hydra loads the schema at every start of every app.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The largest number that a field takes, and the reason, as a sentence that stands after it."""

    most: float
    why: str


RANKS = Ceiling(most=2**20, why="The largest clusters have a few hundred thousand GPUs.")
NODES = Ceiling(most=2**16, why="The largest clusters have some ten thousand nodes.")
PER_NODE = Ceiling(most=4096, why="No node has so many cores or GPUs.")
LAYERS = Ceiling(most=100_000, why="Every layer is an object of its own; published models have a few hundred.")
WIDTH = Ceiling(most=2**22, why="A square weight matrix of this width fills 32 TiB in bf16.")
INT32 = Ceiling(most=2**31 - 1, why="megatron-core's data sets and Transformer Engine's kernels count it in 32 bits.")
EXPERTS = Ceiling(
    most=2**20, why="Every expert is a matrix of its own; published models have a few hundred in a layer."
)
STEPS = Ceiling(most=2**31 - 1, why="At 10 ms a step this takes eight months.")
SAMPLES = Ceiling(most=10**15, why="So many samples have never been collected.")
MINUTES = Ceiling(most=527_040, why="It is counted in minutes, and this is a year.")
SIGNAL_S = Ceiling(most=65_535, why="sbatch --signal takes at most this many seconds.")
BUFFER = Ceiling(most=2**31 - 1, why="NCCL counts the bytes of a chunk in 32 bits.")
# Of every other number: what the code that takes it can hold.
INT64 = Ceiling(most=2**63 - 1, why="Programs that read it count in 64 bits.")
FLOAT32 = Ceiling(most=3.4028234663852886e38, why="GPUs compute with it in 32-bit floating point.")
SMALLEST_FLOAT32 = 1.1754943508222875e-38
"""The smallest normal number of 32-bit floating point; what is less is zero on a GPU."""


def choice(*names: str, default: str | None = None) -> Any:
    """A text that is one of `names`, of any release."""
    return _field(default, choices=names)


def names(*known: str, default: list[str] | None = None) -> Any:
    """A list whose items are among `known`, of any release. default: a list of its own for each node."""
    return _field(default, choices=known)


def at_least(
    minimum: float | None, ceiling: Ceiling | None = None, *, default: float | None = None, below: float | None = None
) -> Any:
    """A number of `minimum` or more, and of `ceiling.most` or less. below: it stays under this one."""
    return _field(default, minimum=minimum, below=below, ceiling=ceiling)


def whole_numbers(ceiling: Ceiling, *, default: list[int] | None) -> Any:
    """A list of whole numbers from 0 to `ceiling.most`. default: a list of its own for each node."""
    return _field(default, minimum=0, ceiling=ceiling)


def version() -> Any:
    """The version of a package; null = not installed."""
    return _field(None, version=True)


def _field(default: Any, **notes: Any) -> Any:
    noted = {name: value for name, value in notes.items() if value not in (None, "")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=noted)
    return dataclasses.field(default=default, metadata=noted)
