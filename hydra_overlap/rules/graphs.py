"""What of a step is captured in CUDA graphs, from the five settings that say so in different releases of megatron-core."""

from ..schema.keys import CORE, CUDA_GRAPH_MODULES, CUDA_GRAPH_SCOPE, ENABLE_GRAPH, EXTERNAL_GRAPH, GRAPH_IMPL
from ..schema.versions import at_least
from ._base import Config

WHOLE = "full_iteration"
GRAPHS = (GRAPH_IMPL, CUDA_GRAPH_SCOPE, CUDA_GRAPH_MODULES, ENABLE_GRAPH, EXTERNAL_GRAPH)
NO_GRAPHS = {
    GRAPH_IMPL: "null", CUDA_GRAPH_SCOPE: "[]", CUDA_GRAPH_MODULES: "[]", ENABLE_GRAPH: "false", EXTERNAL_GRAPH: "false",
}  # fmt: skip
"""Each setting -> what asks for no graphs."""


def parts(c: Config) -> tuple[str, ...]:
    """The parts of a layer that are captured; empty where it is a whole layer or the whole iteration."""
    return tuple(part for part in _named(c) if part != WHOLE)


def _named(c: Config) -> tuple[str, ...]:
    return (*c[CUDA_GRAPH_SCOPE], *c[CUDA_GRAPH_MODULES])


def implementation(c: Config) -> str:
    """none, local, transformer_engine or full_iteration (the last also for the scope that says so before 0.18).

    A scope without an implementation asks for the one that captures it: full_iteration, or Transformer Engine's graphs.
    Source: megatron-core core_v0.16.1 transformer_config.py:1666-1742, core_v0.19.0 2368-2462.
    """
    if c[ENABLE_GRAPH]:
        return WHOLE if WHOLE in _named(c) else "local"
    if c[EXTERNAL_GRAPH]:
        return "transformer_engine"
    if c[GRAPH_IMPL] == "local" and WHOLE in _named(c):
        return WHOLE
    if c[GRAPH_IMPL] is not None:
        return str(c[GRAPH_IMPL])
    return WHOLE if WHOLE in _named(c) else "transformer_engine" if _named(c) else "none"


def layerwise(c: Config) -> bool:
    """Whether layers, or parts of them, are captured one by one."""
    return implementation(c) in ("local", "transformer_engine")


def key_of_parts(c: Config) -> str:
    """The setting that names parts in this plan: cuda_graph_modules from megatron-core 0.18 on, if it is not the older one."""
    newer = c[CUDA_GRAPH_MODULES] or (at_least(c[CORE], "0.18.0") and not c[CUDA_GRAPH_SCOPE])
    return CUDA_GRAPH_MODULES if newer else CUDA_GRAPH_SCOPE


def off(c: Config) -> str:
    """The overrides that ask for no graphs."""
    return " ".join(f"{key}={value}" for key, value in NO_GRAPHS.items() if c[key]) or f"{GRAPH_IMPL}=null"


def only(c: Config, kept: tuple[str, ...], how: str = "transformer_engine") -> str:
    """The overrides that capture these parts alone; no graphs where there are none."""
    if not kept:
        return off(c)
    place = key_of_parts(c)
    others = [
        f"{key}={value}" for key, value in NO_GRAPHS.items() if key not in (place, GRAPH_IMPL) and c[key]
    ]  # fmt: skip
    return " ".join([f"{GRAPH_IMPL}={how}", f"{place}=[{','.join(kept)}]", *others])


def said(c: Config, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Of some keys, those that have nothing to do with graphs, and those that ask for them."""
    return tuple(key for key in keys if key not in GRAPHS or c[key])
