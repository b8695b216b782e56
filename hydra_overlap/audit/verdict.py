"""The verdict on a foreign configuration: read, completed with facts, judged."""

import re
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
from . import environment, shell
from .intake import ABSENT, Intake, bears, facts_of
from .launchers import is_count
from .overrides import COMMAND_LINE, values

WORLD = "parallelism.world_size"
BEHIND = "the recipe"  # what a file that says only its changes rests on
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")  # no field of ours is in capitals
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
    judged. lines: of the commands in a script that say exactly this. unread: what holds settings and could not be read. ways:
    in how many the conditions may turn out that the text does not decide.
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
    unread: tuple[str, ...] = ()
    ways: int = 1

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that refuse."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def exit_code(self) -> int:
        """1 if a rule refuses, or nothing could be judged."""
        return 0 if self.verdict == "accepted" else 1

    @property
    def verdict(self) -> str:
        """refused, undecided or accepted."""
        return "refused" if self.errors else "undecided" if self.undecided or self.unread else "accepted"

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
        parts = [f"Not in the file; pass them after its name: {say}"] if say else []
        if self.unread:
            parts.append(
                f"Settings stand in {', '.join(self.unread)}, which cannot be read here. Judge the launch as it stands: put "
                "`hydra-overlap gate --` in front of the launcher, or start the script with `hydra-overlap record -- bash ...`."
            )
        elif self.lines and (self.undecided or self.ways > 1):
            parts.append(
                "What the caller of a script passes is said as `NAME=value` after the file name, and as `-- ARGUMENT ...`."
            )
        return "\n".join(parts)

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


def audit(
    text: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    arguments: Sequence[str] | None = None,
) -> Audit | Audits:
    """Judge a configuration of another launcher.

    text: a Megatron-LM command line or shell script, a Megatron-Bridge YAML or list of overrides, a NeMo-Launcher or
    MLPerf YAML. overrides: what the text does not say (`platform=h100`, `parallelism.world_size=64`), and variables around
    a script (`NNODES=4`); they win. folder: where files it names are looked for. arguments: of the script. Several answers
    for a script with several training commands.
    Raises UnreadableError, GatingError for a key or an option that does not exist, OverrideError for a word that is no override.
    """
    variables = [word for word in overrides if VARIABLE.match(word)]
    pairs = tuple((name, value) for name, _, value in (word.partition("=") for word in variables))
    around = shell.Around(folder, None if arguments is None else tuple(arguments), pairs)
    said = [*facts_of(text), *(word for word in overrides if word not in variables)]
    return concluded(_read(text, around, core_said(said)), said)


def core_said(overrides: Sequence[str]) -> str | None:
    """The version of megatron-core among overrides; None if they do not say one. Raises as `values` does."""
    found = dict(values(overrides)).get("software.megatron_core")
    return None if found is None else str(found)


def concluded(read: Iterable[tuple[Intake, Callable[[str], str]]], overrides: Sequence[str] = ()) -> Audit | Audits:
    """The verdict on what was read. read: each with how a fix is said there. overrides: win over what was read.

    Raises GatingError for a key or an option that does not exist, OverrideError for a word that is no override.
    """
    said = list(values(overrides))
    groups: dict[Any, list[tuple[tuple[str, ...], Audit]]] = {}
    for number, (intake, say) in enumerate(read):
        assumed = _complete(intake, said)
        group = ("alone", number) if intake.group is None else ("group", intake.group)
        groups.setdefault(group, []).append((intake.ways, judged(intake, say, assumed)))
    found: list[Audit] = []
    for ways in groups.values():
        _add(found, turned_out(ways))
    return found[0] if len(found) == 1 else Audits(tuple(found))


def turned_out(ways: Sequence[tuple[tuple[str, ...], Audit]]) -> Audit:
    """One verdict on a command that depends on conditions nobody can evaluate: what holds whichever way they turn out."""
    first = ways[0][1]
    if len(ways) == 1:
        return first
    audits = [audit for _, audit in ways]
    notes = tuple(dict.fromkeys(note for audit in audits for note in audit.notes if not note.startswith("if ")))
    if all(_same(audit, first) for audit in audits):
        return replace(first, notes=notes)
    common = [finding for finding in first.findings if all(_has(finding, audit) for audit in audits)]
    errors = any(finding.severity == "error" for finding in common)
    each = tuple(f"if {' and '.join(names)}: {audit.headline}" for names, audit in ways)
    differing = _differing([audit.request for audit in audits])
    alike = len({audit.verdict for audit in audits}) == 1
    undecided = first.undecided if alike or errors else tuple(dict.fromkeys((*differing, *first.undecided)))
    accepted = alike and first.verdict == "accepted"
    resolution = first.resolution if accepted else None
    return replace(
        first, findings=tuple(common), notes=(*each, *notes), undecided=undecided, resolution=resolution, ways=len(ways)
    )


def _same(audit: Audit, other: Audit) -> bool:
    """Whether two say the same, but for lines and notes."""
    plain = {"lines": (), "notes": (), "resolution": None, "ignored": 0}
    return replace(audit, **plain) == replace(other, **plain)  # type: ignore[arg-type]


def _has(finding: Finding, audit: Audit) -> bool:
    return any(other.rule == finding.rule and other.severity == finding.severity for other in audit.findings)


def _differing(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys on which a verdict may hang and whose values are not the same in all."""
    flat = [dotted.flatten(dict(request), whole=FIELDS) for request in requests]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if bears(key) and any(one.get(key) != flat[0].get(key) for one in flat)]


def _add(found: list[Audit], audit: Audit) -> None:
    """Append it, or its line to the audit that says the same."""
    for index, other in enumerate(found):
        if _same(other, audit):
            notes = (*other.notes, *(note for note in audit.notes if note not in other.notes))
            lines = tuple(dict.fromkeys((*other.lines, *audit.lines)))
            found[index] = replace(other, lines=lines, notes=notes)
            return
    found.append(audit)


def _read(text: str, around: shell.Around, core: str | None) -> list[tuple[Intake, Callable[[str], str]]]:
    """What was read in whichever format this is, and how a fix is said there."""
    from . import dialects, megatron_bridge, megatron_lm, nemo, yamls

    other = dialects.read(text, around, core)
    if other:
        return other
    contents = megatron_bridge.contents(text, around)
    if contents and nemo.looks_like(contents[0].nested):
        return [(nemo.read(contents[0].nested), nemo.say)]
    contents = [content for content in contents if megatron_bridge.looks_like(content.nested)]
    found = [(megatron_bridge.read(content), content.nested) for content in contents]
    bridge: list[dialects.Read] = [
        (intake, megatron_bridge.say) for intake, nested in found if dialects.ours(intake, nested)
    ]
    if bridge:
        return bridge
    if megatron_lm.looks_like(text):
        return [(intake, megatron_lm.say) for intake in megatron_lm.read(text, around, core)]
    raise dialects.none_of_them("" if text.startswith("#!") else yamls.problem(text))


def _complete(intake: Intake, said: list[tuple[str, Any]]) -> list[str]:
    """Add what the source does not say: overrides, the reference stack, a number of ranks; -> what was assumed."""
    for key, name in ASKED_BY_ENVIRONMENT.items():
        if is_count(intake.env.get(name, "")):
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
        if intake.by_default is not None and _fits(intake.by_default[0], flat):
            intake.flat[WORLD], intake.said[WORLD] = intake.by_default
            return assumed
        if intake.by_default is not None:
            intake.notes.append(
                f"{WORLD} is not said: {intake.by_default[1]} does not fit, so that another number is assumed"
            )
        samples = flat["training.micro_batch_size"] * data_parallel_size({**flat, WORLD: smallest * 2})
        intake.flat[WORLD] = smallest * 2 if batch is None or batch % samples == 0 else smallest
        intake.said[WORLD] = "assumed"
        assumed.append(f"{WORLD}={intake.flat[WORLD]}")
    return assumed


def _fits(world: int, flat: Mapping[str, Any]) -> bool:
    """Whether so many ranks make whole copies of the model, and their batches the global one."""
    batch, samples = flat["training.global_batch_size"], flat["training.micro_batch_size"]
    if world % smallest_world(flat):
        return False
    samples *= data_parallel_size({**flat, WORLD: world})
    return batch is None or (samples > 0 and batch % samples == 0)


def judged(intake: Intake, say: Callable[[str], str] | None = None, assumed: Sequence[str] = ()) -> Audit:
    """The verdict on what was read. say: spells an override in the source's words. assumed: overrides nobody said."""
    if intake.settle is not None:
        intake.settle(intake)
    request = dotted.nested(intake.flat)
    undecided = tuple(key for key in intake.undecided if intake.said.get(key) != COMMAND_LINE)
    resolution, findings = (None, list(intake.findings)) if undecided else _judge(intake, request)
    others = {id(finding): _not_about_it(finding, intake) for finding in findings if finding.severity == "error"}
    unjudged = tuple(dict.fromkeys(why for why in others.values() if why))
    findings = [finding for finding in findings if not others.get(id(finding))]
    hanging = {id(finding): intake.open_in(finding) for finding in findings if finding.severity == "error"}
    unsaid = dict.fromkeys(key for keys in hanging.values() for key in keys if key not in undecided)
    undecided += tuple(key for key in unsaid if key in FIELDS)
    hang = [finding for finding in findings if hanging.get(id(finding))]
    findings = [finding for finding in findings if not hanging.get(id(finding))]
    behind = " or ".join(intake.surely) or BEHIND
    unread = intake.surely or ((BEHIND,) if any(key not in FIELDS for key in unsaid) else ())
    recipes = [
        f"{finding.rule} ({finding.title}) hangs on what {behind} says of {', '.join(hanging[id(finding)])}"
        for finding in hang
    ]
    findings = [_unless(finding, intake) for finding in findings]
    if say is not None:
        findings = [replace(finding, fixes=tuple(_said(fix, say) for fix in finding.fixes)) for finding in findings]
    notes = [
        *intake.notes,
        *unjudged,
        *recipes,
        *([f"assumed: {' '.join(assumed)}; to change this, pass other values after the file name"] if assumed else []),
    ]
    return Audit(
        kind=intake.kind,
        findings=tuple(findings),
        resolution=None
        if undecided or intake.surely or any(finding.severity == "error" for finding in findings)
        else resolution,
        overlooked=tuple(intake.overlooked),
        ignored=intake.ignored,
        notes=tuple(intake.notes if undecided and not recipes else notes),
        request=request,
        undecided=undecided,
        lines=intake.lines,
        unread=unread,
    )


def _unless(finding: Finding, intake: Intake) -> Finding:
    """A refusal that rests on what is not said, where words that nobody can read may say it."""
    absent = [intake.said.get(key, "").removeprefix(ABSENT) for key in intake.unsaid_in(finding)]
    flags = [flag for flag in absent if flag.startswith("-")]
    if finding.severity != "error" or not intake.maybe or not flags:
        return finding
    return replace(
        finding, why=f"{finding.why} This holds unless {' or '.join(intake.maybe)} says {' or '.join(flags)}."
    )


def _judge(intake: Intake, request: Mapping[str, Any]) -> tuple[Resolution | None, list[Finding]]:
    own = [*intake.findings, *(finding for check in intake.checks for finding in check(intake))]
    try:
        resolution = resolve(request, origins=intake.said)
    except GatingError as refusal:
        return None, [*own, *refusal.findings]
    return resolution, [*own, *resolution.findings, *environment.findings(intake, resolution)]


def _not_about_it(finding: Finding, intake: Intake) -> str:
    """Why a refusal is none of the audited program's; empty if it is.

    Limits of our own request, facts that a flag stands in for, and what Megatron FSDP switches on where nobody asked.
    """
    if finding.rule == "CP003":
        return "hierarchical context parallelism is not judged here"
    if finding.rule == "VER002" and intake.said.get("software.transformer_engine", "").startswith("--transformer-impl"):
        return "VER002 is about software without Transformer Engine; --transformer-impl local does not say that it is not installed"
    overlaps = [key for key in intake.unsaid_in(finding) if key.startswith("comm_overlap.")]
    if finding.rule == "DP023" and overlaps:
        return f"Megatron FSDP switches {' and '.join(key.rpartition('.')[2] for key in overlaps)} on, which the source does not say"
    return ""


def _said(fix: Fix, say: Callable[[str], str]) -> Fix:
    return replace(fix, override=" ".join(say(token) for token in fix.override.split()))
