"""What all exports share: the effective values of a plan, the header, and the refusal."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .. import dotted, quoting
from .._version import __version__
from ..errors import GatingError
from ..findings import Finding, Fix, Place, yaml_value
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from ..rules.trn import TRN002, TRN003
from ..schema.keys import GAF, GBS, MBS, NAN_CHECK
from ..schema.targets import in_effect

Files = dict[str, str]  # file name -> content

FACTS_MARK = "# facts:"  # what no launcher's file says, but rules need; `hydra-overlap audit` reads it back
FACTS = (
    "parallelism.world_size", "platform.name", "platform.sm", "platform.gpus_per_node", "platform.nvlink_domain_size",
    "software.torch", "software.megatron_core", "software.transformer_engine",
)  # fmt: skip
UNSAID = (
    "data.", "checkpoint.", "platform.", "software.", "userbuffers.", "launch.", "gating", "model.name",
    "training.on_nonfinite", "training.spike_grad_norm", "training.max_skipped_steps",
)  # fmt: skip
"""Not settings of a training program: facts, data, checkpoints and bad steps of our own runs, and what the environment or
the dictionary says."""


YOURS = (
    "training.train_iters", "training.seed", "training.log_interval", "training.eval_interval", "training.eval_iters",
    "optimizer.lr", "optimizer.min_lr", "optimizer.lr_warmup_iters", "optimizer.lr_decay_style", "optimizer.weight_decay",
    "optimizer.adam_beta1", "optimizer.adam_beta2", "optimizer.adam_eps", "optimizer.clip_grad",
)  # fmt: skip
"""Of a run, not of a plan: no overlap depends on them, and our own defaults are those of a rehearsal of a tiny model."""

UPSTREAM_ON = (GAF, NAN_CHECK)
"""Switches that are off in our defaults because a rehearsal cannot use them, and on in the other launchers."""


class ExportError(GatingError):
    """A target that cannot say what the plan says. findings: one for each field."""

    def __init__(self, target: str, findings: Iterable[Finding]) -> None:
        super().__init__(tuple(findings))
        self.target = target

    @property
    def headline(self) -> str:
        """That nothing is written."""
        return f"{self.target} cannot express this plan; nothing was written."


def unsaid(c: Mapping[str, Any], asked: Collection[str] | None) -> tuple[str, ...]:
    """Fields that are left to whoever trains: nobody asked for them, and the plan holds without.

    c: flat effective request. asked: keys that the user set; None if everything in the plan counts as asked for.
    """
    if asked is None:
        return ()
    left = [key for key in UPSTREAM_ON if key not in asked and not c[key] and _holds(c, key)]
    return (*(key for key in YOURS if key not in asked), *left)


def concerning(problems: Iterable[Finding], left: Collection[str]) -> list[Finding]:
    """The problems that the export has, not those of a field that it does not write."""
    return [finding for finding in problems if not any(place.key in left for place in finding.where)]


def _holds(c: Mapping[str, Any], key: str) -> bool:
    """Whether the plan is accepted with a switch on, as the other launcher has it; with fp16 the NaN check is not (DP019)."""
    try:
        resolve(dotted.nested({**c, key: True}))
    except GatingError:
        return False
    return True


def left_open(left: Collection[str], names: Mapping[str, str], *also: str) -> list[str]:
    """Comment lines on what an export leaves to whoever trains. names: key -> how the target calls it. also: more of it."""
    yours = [names[key] for key in left if key in YOURS and key in names]
    switches = [names[key] for key in left if key in UPSTREAM_ON and key in names]
    lines = (
        ["# yours to choose; the plan does not say them:", *(quoting.comment(f"  {name}") for name in (*yours, *also))]
        if yours
        else []
    )
    if switches:
        lines += [
            "# left as the target has them, because the plan does not ask for them:",
            *(quoting.comment(f"  {name}") for name in switches),
        ]
    return lines


def rehearsed_sizes(c: Mapping[str, Any], asked: Collection[str] | None) -> list[str]:
    """A note on sizes of our own default plan that nobody asked for, though rules and ranks depend on them."""
    if asked is None:
        return []
    said = [
        f"{key}={yaml_value(c[key])}" for key in ("model.name", MBS, GBS) if key not in asked and c[key] is not None
    ]
    return [f"Not asked for, so of hydra-overlap's default plan, a tiny model: {' '.join(said)}"] if said else []


def unsayable(key: str, value: Any, why: str, source: str = "", *fixes: Fix) -> Finding:
    """The finding on a field that the other launcher cannot express."""
    place = Place(key, yaml_value(value))
    title = "The target cannot express a setting of the plan"
    return Finding(
        rule="EXPORT", severity="error", title=title, why=why, where=(place,), fixes=fixes, source=source
    )  # fmt: skip


def effective(resolution: Resolution) -> dict[str, Any]:
    """The flat request with every overlap field as it will be set; base values of ddp and optimizer taken in."""
    flat = in_effect(resolution.request, resolution.to_dict())
    for key in flat:
        owner, _, name = key.partition(".")
        if owner in ("ddp", "optimizer") and f"comm_overlap.dp.{name}" in flat:
            flat[key] = None
    flat["userbuffers.layers"] = resolution.userbuffers or {}
    return flat


def common_refusals(flat: Mapping[str, Any]) -> list[Finding]:
    """What no launcher's file says, and what every one of them asserts against."""
    found = []
    if flat["platform.name"] == "cpu":
        why = "These launchers train on GPUs, and their environment depends on the GPU."
        fix = Fix("platform=h100", "plans for that GPU; conf/platform has others")
        found.append(unsayable("platform.name", "cpu", why, "", fix))
    if flat["launch.vboost"]:
        fix = Fix("launch.vboost=false", "or set it on the nodes yourself: nvidia-smi boost-slider --vboost 1")
        why = "It is a command to run on each node, not a setting of a program."
        found.append(unsayable("launch.vboost", True, why, "", fix))
    asserted = (rule for rule in (TRN002, TRN003) if not rule.holds(flat))
    return [*found, *(rule.finding(flat, lambda key: "") for rule in asserted)]


def header(target: str, command: str, flat: Mapping[str, Any], *notes: str) -> str:
    """Comment lines that open every file. target: name and version of what reads it."""
    facts = quoting.command(f"{key}={yaml_value(flat[key])}" for key in FACTS)
    said = [f"For {target}. Made by hydra-overlap {__version__}.", *([f"command: {command}"] if command else [])]
    said += [f"{FACTS_MARK.removeprefix('# ')} {facts}", *notes]
    return "".join(f"{quoting.comment(line)}\n" for line in said)
