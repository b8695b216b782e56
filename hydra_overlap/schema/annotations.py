"""What a field of the schema says: its type annotation, its default."""

import dataclasses
import typing
from typing import Any


def unwrapped(annotation: Any) -> tuple[Any, bool]:
    """`Optional[X]` -> (X, True); any other type -> (itself, False)."""
    arguments = typing.get_args(annotation)
    if type(None) in arguments:
        return next(argument for argument in arguments if argument is not type(None)), True
    return annotation, False


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field, shared with no other node."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
