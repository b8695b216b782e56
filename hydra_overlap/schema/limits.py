"""How a field of the schema declares what it may hold beyond its type: choices and limits.

Which release of megatron-core brought a field or a choice is not declared: `releases` reads it from the wheels.
Each function makes a dataclass field. `fields` reads what they note; rules, JSON Schema, completion, documentation and
audits read `fields`. Nothing here imports more than dataclasses: Hydra loads the schema at every start of every app.
"""

import dataclasses
from typing import Any


def choice(*names: str, default: str | None = None) -> Any:
    """A text that is one of `names`, of any release."""
    return _field(default, choices=names)


def names(*known: str, default: list[str] | None = None) -> Any:
    """A list whose items are among `known`, of any release. default: a list of its own for each node."""
    return _field(default, choices=known)


def at_least(minimum: float, *, default: float | None = None, below: float | None = None) -> Any:
    """A number of `minimum` or more. below: it stays under this one."""
    return _field(default, minimum=minimum, below=below)


def version() -> Any:
    """The version of a package; null = not installed."""
    return _field(None, version=True)


def _field(default: Any, **notes: Any) -> Any:
    noted = {name: value for name, value in notes.items() if value not in (None, "")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=noted)
    return dataclasses.field(default=default, metadata=noted)
