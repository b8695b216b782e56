"""Where the interpolations of a config lead, without resolving one of them."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from .. import dotted

DEEPEST = 200  # interpolations that name each other, one after the other; each takes omegaconf several frames
VOLATILE = ("hydra", "now")  # resolvers whose answer is the job's or the moment's
_REFERENCE = re.compile(r"\$\{\s*(\.*)([^{}:\s]+)\s*(:?)")
_HYDRA = re.compile(r"\$\{\s*hydra:\s*([^{}\s]+)\s*\}")


def stands_alone(node: Any) -> bool:
    """Whether a node says all it says by itself: no interpolation in it, nothing missing."""
    if node._is_interpolation() or node._is_missing():
        return False
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        return all(stands_alone(child) for child in node._content.values())
    if OmegaConf.is_list(node) and not node._is_none():
        return all(stands_alone(child) for child in node._content)
    return True


def of_the_job(node: Any) -> bool:
    """Whether an interpolation in `node` leads to the job that runs, its number or folder, or to the clock."""
    return _leads_there(node, set())


def hydra_keys(text: str) -> list[str]:
    """The keys of Hydra's own node that `${hydra:KEY}` names in a text."""
    return _HYDRA.findall(text)


def expanded(node: Any, counted: dict[int, int], most: int, depth: int = 0) -> int:
    """How much is read to resolve all of a node: one for each interpolation, and one for each 512 characters of a text.

    What an interpolation names counts as often as it is named. Answers `most` + 1 for anything above. counted: answers so far, by
    id; a circle counts once, for omegaconf says where it is.
    """
    if id(node) in counted:
        return counted[id(node)]
    counted[id(node)] = 0
    if depth > DEEPEST:
        return most + 1
    if node._is_interpolation():
        named = (
            _find(node, len(dots), name) for dots, name, colon in _REFERENCE.findall(str(node._value())) if not colon
        )
        below, total = [one for one in named if one is not None], 1
    else:
        below, total = list(_children(node)), 0
        if isinstance(getattr(node, "_val", None), str):
            total = len(node._val) // 512
    for one in below:
        total = min(total + expanded(one, counted, most, depth + 1), most + 1)
    counted[id(node)] = total
    return total


def _leads_there(node: Any, seen: set[int]) -> bool:
    if id(node) in seen:
        return False
    seen.add(id(node))
    if not node._is_interpolation():
        return any(_leads_there(child, seen) for child in _children(node))
    for dots, name, colon in _REFERENCE.findall(str(node._value())):
        if colon:
            if name in VOLATILE:
                return True
            continue
        if not dots and name.partition(".")[0] == "hydra":
            return True
        found = _find(node, len(dots), name)
        if found is not None and _leads_there(found, seen):
            return True
    return False


def _children(node: Any) -> Iterator[Any]:
    content = getattr(node, "_content", None)
    if isinstance(content, dict):
        yield from content.values()
    elif isinstance(content, list):
        yield from content


def _find(node: Any, dots: int, name: str) -> Any:
    """The node a reference names, unresolved; None if it is not there. dots: 0 = from the root, 1 = a sibling."""
    start = node._get_root() if dots == 0 else node._get_parent()
    for _ in range(dots - 1):
        start = start._get_parent() if start is not None else None
    for part in dotted.parts(name):
        if isinstance(start, DictConfig) and isinstance(start._content, dict):
            start = start._content.get(part)
        elif isinstance(start, ListConfig) and isinstance(start._content, list) and part.isdigit():
            start = start._content[int(part)] if int(part) < len(start._content) else None
        else:
            return None
    return start
