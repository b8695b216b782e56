"""What a type annotation of the schema says."""

import typing
from typing import Any


def unwrapped(annotation: Any) -> tuple[Any, bool]:
    """`Optional[X]` -> (X, True); any other type -> (itself, False)."""
    arguments = typing.get_args(annotation)
    if type(None) in arguments:
        return next(argument for argument in arguments if argument is not type(None)), True
    return annotation, False
