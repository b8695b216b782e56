"""How one point composes, and whether two ways of composing it agree to the last flag."""

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from hydra_overlap.compose.enforce import refusal_in

Outcome = tuple[str, str, list[str]]


def outcome(compose: Callable[[], DictConfig]) -> Outcome:
    """("config", its text, its nodes), or ("error", its class, its texts)."""
    try:
        config = compose()
    except Exception as error:
        return "error", type(error).__name__, texts(error)
    return "config", OmegaConf.to_yaml(config), list(nodes(config))


def texts(error: BaseException) -> list[str]:
    """The texts of an error and of those it was raised from; of a refusal of ours, all it says."""
    refusal = refusal_in(error)
    if refusal is not None:
        return [str(refusal)]
    found, cause = [], error
    while cause is not None:
        found.append(str(cause))
        cause = cause.__cause__
    return found


def nodes(node: Any, place: str = "") -> Iterator[str]:
    """Every node below `node`: types, flags and value, unresolved."""
    metadata = node._metadata
    kind = (
        metadata.ref_type,
        metadata.object_type,
        metadata.optional,
        metadata.key,
        node._get_flag("struct"),
        node._get_flag("readonly"),
    )
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        yield f"{place} {kind}"
        for name, child in node._content.items():
            assert child._get_parent() is node, f"{place}.{name}"
            yield from nodes(child, f"{place}.{name}")
    elif isinstance(node, ListConfig) and isinstance(node._content, list):
        yield f"{place} {kind}"
        for index, child in enumerate(node._content):
            assert child._get_parent() is node, f"{place}[{index}]"
            yield from nodes(child, f"{place}[{index}]")
    else:
        yield f"{place} {kind} {type(node).__name__} {node._value()!r}"
