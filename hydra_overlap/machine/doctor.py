"""What this machine has, what each missing thing forbids, and whether its environment contradicts a plan."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from ..resolver.resolution import Resolution
from ..rules import env_conflicts
from . import local, transformer_engine

OK, UNSET, NOTE, MISSING, WRONG = "ok", "unset", "note", "missing", "wrong"


@dataclass(frozen=True)
class Diagnosis:
    """One thing looked at.

    state: ok, unset (a variable that will be set), note (it costs something), missing (something is not possible here) or
    wrong (something will fail, or not be as the plan says).
    """

    what: str
    state: str
    found: str
    consequence: str = ""
    source: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data, for JSON."""
        return asdict(self)


def examine() -> Iterator[Diagnosis]:
    """GPUs, torch, megatron-core and Transformer Engine, each with what its absence means."""
    yield Diagnosis("Python", OK, platform.python_version())
    names = local.gpu_names()
    yield (
        Diagnosis("GPUs (NVML)", OK, f"{len(names)} x {names[0]}")
        if names
        else Diagnosis("GPUs (NVML)", MISSING, "none", "plans are judged for any GPU and rehearsed on CPU")
    )
    software = local.installed_software()
    yield _package("torch", software["torch"], "nothing can be trained or rehearsed; judging works")
    yield _package("megatron-core", software["megatron_core"], "nothing can be trained or rehearsed; judging works")
    yield _transformer_engine()


def _package(name: str, version: str | None, consequence: str) -> Diagnosis:
    return Diagnosis(name, OK, version) if version else Diagnosis(name, MISSING, "not installed", consequence)


def _transformer_engine() -> Diagnosis:
    found = transformer_engine.transformer_engine()
    if found.state == "works":
        return Diagnosis("Transformer Engine", OK, found.detail)
    if found.state == "absent":
        text = "TP overlap, FP8 and context parallelism are refused for this machine"
        return Diagnosis("Transformer Engine", MISSING, found.detail, text)
    text = f"import megatron.core fails while it is installed: pip uninstall {' '.join(n.split()[0] for n in found.installed)}"
    return Diagnosis("Transformer Engine", WRONG, f"{', '.join(found.installed)}: {found.detail}", text)


def compare_environment(resolution: Resolution, found: Mapping[str, str] = os.environ) -> Iterator[Diagnosis]:
    """Every variable of a plan against the one in force here, then those in force here that hurt the plan.

    train.py sets the former for its ranks; other launchers must. Nobody unsets the latter.
    """
    for name, needed in resolution.env.items():
        value = found.get(name)
        if value is None:
            yield Diagnosis(name, UNSET, "", f"the plan needs {needed}; train.py sets it in every rank")
        elif value != needed:
            yield Diagnosis(
                name, WRONG, value, f"the plan needs {needed}; ranks would inherit {value}, which contradicts it"
            )
        else:
            yield Diagnosis(name, OK, value)
    for one in env_conflicts.contrary(resolution.request, resolution.to_dict(), found):
        state, verb = (WRONG, "undoes ") if one.severity == "error" else (NOTE, "")
        yield Diagnosis(one.name, state, one.value, verb + one.undoes, one.source)
