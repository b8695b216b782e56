"""What each field means: the string under it in nodes.py, which Python itself does not keep."""

import ast
import dataclasses
import inspect
import typing
from functools import lru_cache

from . import nodes
from .annotations import unwrapped


@lru_cache(maxsize=1)
def descriptions() -> dict[str, str]:
    """Flat key of the request -> what the field means, in which unit."""
    return dict(_walk(nodes.Request, ""))


def _walk(node: type, prefix: str) -> typing.Iterator[tuple[str, str]]:
    hints, texts = typing.get_type_hints(node), _strings(node)
    for field in dataclasses.fields(node):
        kind, _ = unwrapped(hints[field.name])
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, texts[field.name]


def _strings(node: type) -> dict[str, str]:
    """Field -> the string that follows it in the class's source."""
    body = ast.parse(inspect.getsource(node)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[typing.cast(ast.Name, field.target).id] = str(text.value.value)
    return found
