"""The atlas of userbuffers presets: what there is, how far each is from a plan, and which one `userbuffers=auto` takes.

A preset is an option file of conf/userbuffers. What Transformer Engine makes of its values is in gemms.py.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from .. import dotted, option_files
from ..errors import GatingError
from ..findings import Finding, Fix
from ..resolver.ledger import NO_PRESET
from ..resolver.resolve import resolve
from ..schema.fields import DEFAULTS
from ..schema.nodes import AUTO
from ..suggest import did_you_mean
from .gemms import Gemm, Layers, gemm_map, memory_mib

__all__ = [
    "Gemm",
    "Preset",
    "catalogue",
    "choose",
    "distance",
    "gemm_map",
    "memory_mib",
    "nearest",
    "preset",
    "shape_of",
]

DIMENSIONS = ("gpu", "hidden_size", "tp", "cp", "mbs", "seq_length", "precision")
TUNED_SHOWN = 2  # presets that a refusal names
NO_PRESETS = (NO_PRESET, AUTO)  # options of the group that hold no values of their own
GENERATION = {
    "a100": "Ampere", "a800": "Ampere", "h800": "Hopper", "h20": "Hopper", "h100": "Hopper", "h200": "Hopper", "b100": "Blackwell", "b200": "Blackwell", "gb200": "Blackwell",
    "b300": "Blackwell", "gb300": "Blackwell",
}  # fmt: skip
OTHER_GPU, OTHER_GENERATION, OTHER_PRECISION, UNSAID = 1.0, 4.0, 2.0, 0.5  # costs; docs/presets.md says why
REASONS = {
    "gpu": "other SM counts and NVLink bandwidth",
    "hidden_size": "GEMMs of another size over the same SMs",
    "tp": "another number of peers: other rings and splits",
    "cp": "another number of tokens per rank",
    "mbs": "another number of tokens per rank",
    "seq_length": "another number of tokens per rank",
    "precision": "other GEMM times and buffer sizes",
}

Shape = Mapping[str, Any]  # dimension -> value; None = not said


class UnknownPresetError(LookupError):
    """Nothing bears this name; the message lists a near one."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One option of conf/userbuffers. remarks: what its comments say beyond the description and the source."""

    name: str
    description: str
    source: str
    tuned_for: Shape
    layers: Layers
    remarks: tuple[str, ...]

    @property
    def lora(self) -> bool:
        """Whether it was made for LoRA fine-tuning, which has no weight gradients to hide anything under."""
        return "lora" in self.name

    def node(self) -> dict[str, Any]:
        """The `userbuffers` node of a request that uses it."""
        return {
            "name": self.name,
            "source": self.source,
            "tuned_for": dict(self.tuned_for),
            "layers": {gemm: dict(entry) for gemm, entry in self.layers.items()},
        }

    def plan(self) -> dict[str, Any]:
        """The smallest request it was tuned for; where it does not say, two TP ranks and nothing else."""
        tuned = self.tuned_for
        return {
            "comm_overlap": {"tp": {"tp_comm_overlap": True}},
            "parallelism": {
                "tensor_model_parallel_size": tuned["tp"] or 2,
                "context_parallel_size": tuned["cp"] or 1,
                "sequence_parallel": True,
            },
            "userbuffers": self.node(),
            "model": {"hidden_size": tuned["hidden_size"], "seq_length": tuned["seq_length"]},
            "training": {"micro_batch_size": tuned["mbs"] or 1},
            "precision": {"bf16": True, "fp8": "hybrid" if tuned["precision"] == "fp8" else None},
            "software": option_files.option("software", option_files.REFERENCE_STACK),
        }

    def refusals(self) -> tuple[str, ...]:
        """Ids of the userbuffers rules that refuse it on the very shape it was tuned for."""
        return refusals(self.plan())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name, "description": self.description, "source": self.source, "tuned_for": dict(self.tuned_for),
            "layers": {gemm: dict(entry) for gemm, entry in self.layers.items()}, "remarks": list(self.remarks),
            "refused_by": list(self.refusals()),
        }  # fmt: skip


class Difference(NamedTuple):
    """One dimension in which a preset and a plan differ. tuned: None if the preset does not say."""

    dimension: str
    tuned: Any
    here: Any
    cost: float

    def __str__(self) -> str:
        return f"{self.dimension} {'not known' if self.tuned is None else self.tuned}, here {self.here}"


class Candidate(NamedTuple):
    """A preset, how far it is, and in what."""

    preset: Preset
    distance: float
    differences: tuple[Difference, ...]


class Choice(NamedTuple):
    """What `auto` took, and why, for the ledger. preset: None for Transformer Engine's defaults."""

    preset: Preset | None
    reason: str


@lru_cache(maxsize=1)
def catalogue() -> tuple[Preset, ...]:
    """Every preset, sorted by name."""
    return tuple(_read(name) for name in option_files.options("userbuffers") if name not in NO_PRESETS)


def none() -> dict[str, Any]:
    """The `userbuffers` node of Transformer Engine's defaults."""
    return {"name": NO_PRESET, "layers": {}}


def preset(name: str) -> Preset:
    """The preset of that name. Raises UnknownPresetError."""
    known = [one.name for one in catalogue()]
    if name not in known:
        message = f"There is no preset {name}{did_you_mean(name, known)}. `hydra-overlap presets` lists them."
        raise UnknownPresetError(message)
    return next(one for one in catalogue() if one.name == name)


def _read(name: str) -> Preset:
    text = option_files.text("userbuffers", name)
    values = option_files.parse(text)
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    return Preset(
        name=name,
        description=comments[0],
        source=values["source"],
        tuned_for=values["tuned_for"],
        layers=values["layers"],
        remarks=tuple(comments[2:]),
    )


def shape_of(request: Mapping[str, Any]) -> Shape:
    """The seven dimensions of a nested request; what it leaves out has the schema's default."""

    def said(key: str) -> Any:
        return dotted.get(request, key, DEFAULTS[key])

    return {
        "gpu": said("platform.name"),
        "hidden_size": said("model.hidden_size"),
        "tp": said("parallelism.tensor_model_parallel_size"),
        "cp": said("parallelism.context_parallel_size"),
        "mbs": said("training.micro_batch_size"),
        "seq_length": said("model.seq_length"),
        "precision": "fp8" if said("precision.fp8") else "bf16" if said("precision.bf16") else None,
    }


def differences(tuned_for: Shape, here: Shape) -> tuple[Difference, ...]:
    """Every dimension that the plan says and the preset does not say, or says otherwise."""
    return tuple(
        Difference(name, tuned_for[name], here[name], _cost(name, tuned_for[name], here[name]))
        for name in DIMENSIONS
        if here[name] is not None and tuned_for[name] != here[name]
    )


def _cost(dimension: str, tuned: Any, here: Any) -> float:
    if dimension == "tp":
        return math.inf  # also where the preset does not say: nothing shows that its rings fit
    if tuned is None:
        return UNSAID
    if dimension == "gpu":
        return OTHER_GPU if GENERATION.get(tuned) == GENERATION.get(here) else OTHER_GENERATION
    if dimension == "precision":
        return OTHER_PRECISION
    return abs(math.log2(tuned / here))


def distance(one: Preset, here: Shape) -> float:
    """How far a preset is from a plan: 0 = tuned for this shape, infinite = another TP size.

    A factor of two in a size costs 1; the other costs are constants above. It orders presets; it predicts no speed.
    """
    return sum(difference.cost for difference in differences(one.tuned_for, here))


def nearest(here: Shape, *, lora: bool = False) -> list[Candidate]:
    """Presets for the plan's TP size, the nearest first. lora: those made for LoRA, instead of the others."""
    found = [
        Candidate(one, distance(one, here), differences(one.tuned_for, here)) for one in catalogue() if one.lora == lora
    ]
    found = [candidate for candidate in found if math.isfinite(candidate.distance)]
    return sorted(found, key=lambda candidate: (candidate.distance, candidate.preset.name))


def ranked(request: Mapping[str, Any], *, lora: bool = False) -> list[Candidate]:
    """Presets for the TP size of a nested request: those that no rule refuses there first, each part the nearest first."""
    found = nearest(shape_of(request), lora=lora)
    refused = {one.preset.name: refusals({**request, "userbuffers": one.preset.node()}) for one in found}
    return sorted(found, key=lambda one: bool(refused[one.preset.name]))  # stable


def choose(request: Mapping[str, Any]) -> Choice:
    """What `userbuffers=auto` means for a nested request, facts filled in.

    The preset that matches, else the nearest one of the same TP size that no rule refuses here, else Transformer
    Engine's defaults.
    """
    asked = ((request.get("comm_overlap") or {}).get("tp") or {}).get("tp_comm_overlap")
    here = shape_of(request)
    if asked is not True or here["tp"] < 2:
        return Choice(None, "userbuffers=auto: nothing to choose, because TP overlap is not asked for")
    for candidate in nearest(here):
        if refusals({**request, "userbuffers": candidate.preset.node()}):
            continue
        said = f"userbuffers=auto: {candidate.preset.name}, "
        if not candidate.differences:
            return Choice(candidate.preset, said + "tuned for this shape")
        text = "; ".join(map(str, candidate.differences))
        return Choice(candidate.preset, f"{said}the nearest, distance {candidate.distance:.1f}: {text}")
    return Choice(None, f"userbuffers=auto: no preset for TP{here['tp']}, so Transformer Engine's defaults")


def with_tuned(findings: Iterable[Finding], request: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The same refusals; that of a preset for another TP size (UB001) has first the presets for the TP size of the plan.

    request: nested, facts filled in. At most two, the nearest that no rule refuses here.
    """
    findings = tuple(findings)
    if not any(finding.rule == "UB001" for finding in findings):
        return findings
    before = {finding.rule for finding in findings}
    fitting: list[Fix] = []
    seen: list[Layers] = []  # several names hold the same values
    for candidate in nearest(shape_of(request)):
        if candidate.preset.layers in seen or len(fitting) == TUNED_SHOWN:
            continue
        after = _errors({**request, "userbuffers": candidate.preset.node()})
        if not after - (before - {"UB001"}):
            seen.append(candidate.preset.layers)
            said = "; ".join(map(str, candidate.differences)) or "tuned for this shape"
            fitting.append(Fix(f"userbuffers={candidate.preset.name}", f"a preset for this TP size ({said})"))
    return tuple(
        replace(finding, fixes=(*fitting, *finding.fixes)) if finding.rule == "UB001" else finding
        for finding in findings
    )


def _errors(request: Mapping[str, Any]) -> set[str]:
    try:
        resolve(request)
    except GatingError as refusal:
        return {finding.rule for finding in refusal.findings}
    return set()


def refusals(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the userbuffers rules that refuse a nested request; other rules say their own."""
    try:
        resolve({**request, "gating": "strict"})
    except GatingError as refusal:
        return tuple(finding.rule for finding in refusal.findings if finding.rule.startswith("UB"))
    return ()


def memory_of(request: Mapping[str, Any], layers: Layers) -> float | None:
    """Userbuffers memory of each rank under a nested request, MiB; None if the request does not say the shape."""
    here = shape_of(request)
    if here["seq_length"] is None or here["hidden_size"] is None:
        return None
    tokens = here["seq_length"] * here["mbs"] // here["cp"]
    precision = request.get("precision") or {}
    in_bf16 = sum(
        precision.get(f"num_layers_at_{end}_in_bf16", DEFAULTS[f"precision.num_layers_at_{end}_in_bf16"])
        for end in ("start", "end")
    )
    mixed = precision.get("fp8") and precision.get("first_last_layers_bf16") and in_bf16 > 0
    kind = "fp8 beside bf16" if mixed else "fp8" if precision.get("fp8") else "bf16"
    return memory_mib(layers, (tokens, here["hidden_size"]), here["tp"], kind)


def map_of(request: Mapping[str, Any], layers: Layers, flags: Mapping[str, Any] | None = None) -> tuple[Gemm, ...]:
    """The GEMM map under a nested request. flags: `Resolution.transformer_config`."""
    mxfp8 = (request.get("precision") or {}).get("fp8_recipe") == "mxfp8"
    experts = (request.get("model") or {}).get("num_moe_experts") is not None
    return gemm_map(layers, flags, mxfp8=mxfp8, experts=experts)
