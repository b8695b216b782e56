"""The userbuffers dictionary of another launcher: its spelling of values, and ours of its places."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Finding, Fix, Place, yaml_value
from ..rules.ub import TYPES, UB003, UB_ARGUMENTS
from ..schema.keys import UB_LAYERS
from .intake import Intake, Unknown
from .yamls import number_or_text

CLASSES = {"BulkOverlapCfg": "bulk", "PipelineOverlapCfg": "pipeline", "RingExchangeOverlapCfg": "ring_exchange"}
"""Megatron-Bridge's name of an entry -> method."""
NAMED_DEFAULT = re.compile(r"\$\{oc\.env:\s*\w+\s*,([^{}]*)")
TEXT = "Transformer Engine takes the text as the value, or stops."


def take(intake: Intake, value: Mapping[str, Any], said: str, why: str = TEXT) -> None:
    """Set the layers. said: where the dictionary stands. why: what becomes of text in the place of a value.

    Text that names a value is refused, and judged on with that value, so that the fix keeps what was tuned.
    """
    layers = {str(gemm): entry(what) for gemm, what in value.items() if gemm != "_target_" and what is not None}
    meant: dict[str, Any] = {}
    texts = {f"{gemm}.{name}": text for gemm, name, text in _texts(layers)}
    for gemm, name, text in list(_texts(layers)):
        if isinstance(text, Unknown):
            intake.leave(UB_LAYERS, f"{said}.{gemm}.{name}={text}")
        elif (found := _named(name, text)) is not None:
            layers[gemm][name] = meant[f"{gemm}.{name}"] = found
    if meant:
        intake.findings.append(_finding(meant, texts, said, why))
    if intake.take(UB_LAYERS, layers, said):
        intake.flat["userbuffers.name"] = "of the configuration"


def entry(what: Any) -> Any:
    """One entry with Bridge's class as its method, and 0 and 1 as the booleans that Transformer Engine takes them for.

    add_ub tests them for truth and hands them to constructors whose parameters are C++ bools, which pybind11 fills from
    any number: Transformer Engine v2.8 to v2.18 pytorch/module/base.py add_ub, pytorch/csrc/extensions/pybind.cpp.
    """
    if not isinstance(what, Mapping):
        return what
    kind = str(what.get("_target_", "")).rpartition(".")[2]
    made: dict[str, Any] = {"method": CLASSES[kind]} if kind in CLASSES else {}
    return made | {str(name): _switch(str(name), value) for name, value in what.items() if name != "_target_"}


def _switch(name: str, value: Any) -> Any:
    return bool(value) if UB_ARGUMENTS.get(name) is bool and type(value) is int and value in (0, 1) else value


def _texts(layers: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(GEMM, argument, value) of text where none belongs."""
    for gemm, arguments in layers.items():
        for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
            if isinstance(value, str) and name in UB_ARGUMENTS and (UB_ARGUMENTS[name] is not str or "${" in value):
                yield gemm, name, value


def _named(name: str, text: str) -> Any:
    """The value that a text names, of the argument's type; None if there is none."""
    default = NAMED_DEFAULT.search(text)
    value = _switch(name, number_or_text(default[1] if default else text))
    return value if type(value) is UB_ARGUMENTS[name] and value != text else None


def _finding(meant: Mapping[str, Any], texts: Mapping[str, str], said: str, why: str) -> Finding:
    wrong = "; ".join(
        f"{place} is {TYPES[UB_ARGUMENTS[place.rpartition('.')[2]]]}, not the text {texts[place]}" for place in meant
    )
    overrides = " ".join(f"{UB_LAYERS}.{place}={yaml_value(value)}" for place, value in meant.items())
    return Finding(
        rule=UB003.__name__, severity="error", title=UB003.title(), why=f"{wrong}. {why}", source=UB003.source,
        where=tuple(Place(f"{UB_LAYERS}.{place}", texts[place], said) for place in meant),
        fixes=(Fix(overrides, "the values that the text stands for"),),
    )  # fmt: skip


def say(override: str, place: str, nothing: str) -> str | None:
    """An override of ours in the source's words; None if it is not about the dictionary.

    place: where the dictionary stands there, with the dot after it. nothing: what says that there is none.
    """
    if override == "userbuffers=none":
        return nothing
    deletes, _, path = override.partition(f"{UB_LAYERS}.")
    if not path or deletes not in ("", "~"):
        return None
    return f"{place}{path}" if not deletes else f"without {place}{path}"
