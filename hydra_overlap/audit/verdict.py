"""The verdict on a foreign configuration: read, completed with facts, judged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import dotted, option_files
from ..errors import GatingError
from ..findings import Finding, Fix, render
from ..presets.one_line import in_one_line
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from ..rules.layout import data_parallel_size, smallest_world
from ..schema.fields import FIELDS
from . import environment
from .intake import Intake, UnreadableError, facts_of
from .overrides import COMMAND_LINE, values

WORLD = "parallelism.world_size"
VERSIONS = ("torch", "megatron_core", "transformer_engine")
ASKED_BY_ENVIRONMENT = {
    "launch.layernorm_sm_margin": "NVTE_FWD_LAYERNORM_SM_MARGIN",
    "launch.nccl_pp_comm_chunksize": "NCCL_P2P_NET_CHUNKSIZE",
}
"""Fields that other launchers have no setting for: the variable itself is the ask."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What `hydra-overlap audit` says of one configuration. resolution: None if a rule refuses.

    undecided: keys that rules read and whose values the text does not tell, or not in a form that could be used: no rule
    judged. lines: of the commands in a script that say exactly this.
    """

    kind: str
    findings: tuple[Finding, ...]
    resolution: Resolution | None
    overlooked: tuple[str, ...]
    ignored: int
    notes: tuple[str, ...]
    request: dict[str, Any]
    undecided: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that refuse."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def exit_code(self) -> int:
        """1 if a rule refuses, or nothing could be judged."""
        return 1 if self.errors or self.undecided else 0

    @property
    def verdict(self) -> str:
        """refused, undecided or accepted."""
        return "refused" if self.errors else "undecided" if self.undecided else "accepted"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "kind": self.kind,
            "lines": list(self.lines),
            "verdict": self.verdict,
            "undecided": list(self.undecided),
            "findings": [finding.to_dict() for finding in self.findings],
            "overlooked": list(self.overlooked),
            "ignored": self.ignored,
            "notes": list(self.notes),
            "request": self.request,
        }

    @property
    def headline(self) -> str:
        """The verdict, and on what."""
        count = len(self.errors)
        verdict = f"refused by {count} rule{'' if count == 1 else 's'}" if count else self.verdict
        plan = f": {in_one_line(self.resolution)}" if self.resolution is not None else ""
        return (
            f"{verdict}{', the rest undecided' if count and self.undecided else ''}: {self.kind}{self._where()}{plan}"
        )

    @property
    def wanted(self) -> str:
        """What the text does not tell and a verdict needs; empty if there is nothing."""
        say = " ".join(f"{key}=..." for key in self.undecided)
        return f"Not in the file; pass them after its name: {say}" if say else ""

    @property
    def asides(self) -> list[str]:
        """What was assumed, what no rule judged, and how much has nothing to do with overlap."""
        ignored = "1 other setting does" if self.ignored == 1 else f"{self.ignored} other settings do"
        return [
            *(f"note: {note}" for note in self.notes),
            *(f"no rule reads: {said}" for said in self.overlooked),
            *([f"{ignored} not affect overlap"] if self.ignored else []),
        ]

    def __str__(self) -> str:
        """The verdict first, then every finding, then what was not judged."""
        parts = [self.headline, *(render(finding) for finding in self.findings), self.wanted, "\n".join(self.asides)]
        return "\n\n".join(part for part in parts if part)

    def _where(self) -> str:
        lines = ", ".join(map(str, self.lines))
        return f", line{'s' if len(self.lines) > 1 else ''} {lines}" if lines else ""


@dataclass(frozen=True)
class Audits:
    """The audits of a script's training commands, in its order; each was judged by itself."""

    commands: tuple[Audit, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all commands."""
        return tuple(finding for one in self.commands for finding in one.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that refuse one of them."""
        return tuple(finding for one in self.commands for finding in one.errors)

    @property
    def exit_code(self) -> int:
        """1 if one of them has it."""
        return max(one.exit_code for one in self.commands)

    @property
    def verdict(self) -> str:
        """The worst one: refused, undecided, accepted."""
        return max((one.verdict for one in self.commands), key=("accepted", "undecided", "refused").index)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "kind": self.commands[0].kind,
            "verdict": self.verdict,
            "commands": [one.to_dict() for one in self.commands],
        }

    @property
    def headline(self) -> str:
        """The worst verdict, and how many there are."""
        return f"{self.verdict}: {len(self.commands)} training commands"

    def __str__(self) -> str:
        """How many there are, then each."""
        return "\n\n".join([self.headline, *map(str, self.commands)])


def audit(text: str, overrides: Sequence[str] = (), *, folder: Path | None = None) -> Audit | Audits:
    """Judge a configuration of another launcher.

    text: a Megatron-LM command line or shell script, a Megatron-Bridge YAML or list of overrides, a NeMo-Launcher or
    MLPerf YAML. overrides: what the text does not say (`platform=h100`, `parallelism.world_size=64`); they win. folder:
    where files it names are looked for. Several answers for a script with several training commands.
    Raises UnreadableError, GatingError for a key or an option that does not exist, OverrideError for a word that is no override.
    """
    said = [*facts_of(text), *overrides]
    return concluded(_read(text, folder, core_said(said)), said)


def core_said(overrides: Sequence[str]) -> str | None:
    """The version of megatron-core among overrides; None if they do not say one. Raises as `values` does."""
    found = dict(values(overrides)).get("software.megatron_core")
    return None if found is None else str(found)


def concluded(read: Iterable[tuple[Intake, Callable[[str], str]]], overrides: Sequence[str] = ()) -> Audit | Audits:
    """The verdict on what was read. read: each with how a fix is said there. overrides: win over what was read.

    Raises GatingError for a key or an option that does not exist, OverrideError for a word that is no override.
    """
    said = list(values(overrides))
    found: list[Audit] = []
    for intake, say in read:
        assumed = _complete(intake, said)
        _add(found, judged(intake, say, assumed))
    return found[0] if len(found) == 1 else Audits(tuple(found))


def _add(found: list[Audit], audit: Audit) -> None:
    """Append it, or its line to the audit that says the same."""
    for index, other in enumerate(found):
        if replace(other, lines=(), notes=(), resolution=None) == replace(audit, lines=(), notes=(), resolution=None):
            notes = (*other.notes, *(note for note in audit.notes if note not in other.notes))
            found[index] = replace(other, lines=(*other.lines, *audit.lines), notes=notes)
            return
    found.append(audit)


def _read(text: str, folder: Path | None, core: str | None) -> list[tuple[Intake, Callable[[str], str]]]:
    """What was read in whichever format this is, and how a fix is said there."""
    from . import megatron_bridge, megatron_lm, nemo, yamls

    contents = megatron_bridge.contents(text)
    if contents and nemo.looks_like(contents[0].nested):
        return [(nemo.read(contents[0].nested), nemo.say)]
    contents = [content for content in contents if megatron_bridge.looks_like(content.nested)]
    if contents:
        return [(megatron_bridge.read(content), megatron_bridge.say) for content in contents]
    if megatron_lm.looks_like(text):
        return [(intake, megatron_lm.say) for intake in megatron_lm.read(text, folder, core)]
    broken = "" if text.startswith("#!") else yamls.problem(text)
    raise UnreadableError(
        "This is not a configuration that audit can read: neither flags of Megatron-LM's pretrain_gpt.py, nor a YAML or a list "
        "of overrides for Megatron-Bridge, nor a NeMo-Launcher YAML."
        + (f" It is not valid YAML: {broken}." if broken else "")
    )


def _complete(intake: Intake, said: list[tuple[str, Any]]) -> list[str]:
    """Add what the source does not say: overrides, the reference stack, a number of ranks; -> what was assumed."""
    for key, name in ASKED_BY_ENVIRONMENT.items():
        if intake.env.get(name, "").isdigit():
            intake.take(key, int(intake.env[name]), f"{name}={intake.env[name]}")
    for key, value in said:
        intake.flat[key] = value
        intake.said[key] = COMMAND_LINE
    assumed: list[str] = []
    missing = [name for name in VERSIONS if f"software.{name}" not in intake.flat]
    stack = option_files.option("software", option_files.REFERENCE_STACK)
    for name in missing:
        intake.flat[f"software.{name}"] = stack[name]
    intake.flat.setdefault("software.origin", "assumed" if missing else "installed")
    whole = len(missing) == len(VERSIONS)
    assumed += ["software=reference"] if whole else [f"software.{name}={stack[name]}" for name in missing]
    if intake.flat.get(WORLD) is None:
        flat = {key: intake.flat.get(key, leaf.default) for key, leaf in FIELDS.items()}
        smallest, batch = smallest_world(flat), flat["training.global_batch_size"]
        samples = flat["training.micro_batch_size"] * data_parallel_size({**flat, WORLD: smallest * 2})
        intake.flat[WORLD] = smallest * 2 if batch is None or batch % samples == 0 else smallest
        intake.said[WORLD] = "assumed"
        assumed.append(f"{WORLD}={intake.flat[WORLD]}")
    return assumed


def judged(intake: Intake, say: Callable[[str], str] | None = None, assumed: Sequence[str] = ()) -> Audit:
    """The verdict on what was read. say: spells an override in the source's words. assumed: overrides nobody said."""
    if intake.settle is not None:
        intake.settle(intake)
    request = dotted.nested(intake.flat)
    undecided = tuple(key for key in intake.undecided if intake.said.get(key) != COMMAND_LINE)
    resolution, findings = (None, list(intake.findings)) if undecided else _judge(intake, request)
    hanging = {id(finding): intake.open_in(finding) for finding in findings if finding.severity == "error"}
    undecided += tuple(dict.fromkeys(key for keys in hanging.values() for key in keys if key not in undecided))
    hang = [finding for finding in findings if hanging.get(id(finding))]
    findings = [finding for finding in findings if not hanging.get(id(finding))]
    recipes = [
        f"{finding.rule} ({finding.title}) hangs on what the recipe says of {', '.join(hanging[id(finding)])}"
        for finding in hang
    ]
    if say is not None:
        findings = [replace(finding, fixes=tuple(_said(fix, say) for fix in finding.fixes)) for finding in findings]
    notes = [
        *intake.notes,
        *recipes,
        *([f"assumed: {' '.join(assumed)}; to change this, pass other values after the file name"] if assumed else []),
    ]
    return Audit(
        kind=intake.kind,
        findings=tuple(findings),
        resolution=None if undecided or any(finding.severity == "error" for finding in findings) else resolution,
        overlooked=tuple(intake.overlooked),
        ignored=intake.ignored,
        notes=tuple(intake.notes if undecided and not recipes else notes),
        request=request,
        undecided=undecided,
        lines=intake.lines,
    )


def _judge(intake: Intake, request: Mapping[str, Any]) -> tuple[Resolution | None, list[Finding]]:
    own = [*intake.findings, *(finding for check in intake.checks for finding in check(intake))]
    try:
        resolution = resolve(request, origins=intake.said)
    except GatingError as refusal:
        return None, [*own, *refusal.findings]
    return resolution, [*own, *resolution.findings, *environment.findings(intake, resolution)]


def _said(fix: Fix, say: Callable[[str], str]) -> Fix:
    return replace(fix, override=" ".join(say(token) for token in fix.override.split()))
