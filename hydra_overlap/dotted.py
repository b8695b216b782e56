"""Nested mappings by dotted key: `parallelism.world_size` in `{"parallelism": {"world_size": 8}}`."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

ABSENT: Any = object()  # a default of `get` that no value is equal to


def parts(key: str) -> list[str]:
    """The names on the way: `a.b[0]` -> a, b, 0."""
    return key.replace("[", ".").replace("]", "").split(".")


def get(tree: Any, key: str, default: Any = None) -> Any:
    """What stands at `key`; the default where nothing does. The empty key is the tree itself."""
    for name in key.split(".") if key else ():
        if not isinstance(tree, Mapping) or name not in tree:
            return default
        tree = tree[name]
    return tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `key`, and make the mappings on the way to it. Raises TypeError where one of them is a value already."""
    way, _, name = key.rpartition(".")
    node: Any = tree
    for part in way.split(".") if way else ():
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise TypeError(f"{key} stands below {part}, which is {node!r}")
    node[name] = value


def flatten(tree: Mapping[str, Any], prefix: str = "", *, whole: Collection[str] = ()) -> dict[str, Any]:
    """Dotted key -> value, in order. An empty mapping is a value, and so is what stands at a key in `whole`.

    prefix: the key of `tree` itself; empty for the root.
    """
    return dict(_leaves(tree, f"{prefix}." if prefix else "", whole))


def _leaves(tree: Mapping[str, Any], prefix: str, whole: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in whole:
            yield from _leaves(value, f"{key}.", whole)
        else:
            yield key, value


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        put(tree, key, value)
    return tree
