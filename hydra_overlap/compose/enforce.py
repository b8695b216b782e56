"""The rules inside Hydra: judged at the end of every composition, whoever composes.

Hydra has no compose hook, but every composition ends by iterating over `hydra.job.env_copy`. `_overlap/enforce.yaml`
sets it to `${overlap.check:}`, so reading it runs `check` below on the finished config. A second latch,
`hydra.job.env_set.HYDRA_OVERLAP_PLAN: ${overlap.guard:}`, refuses to start a job whose config `check` never saw, and
`judged` is what a job calls on the config it was handed. Mechanics and traps:
docs/decisions/0002-enforcement-at-compose-time.md.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ..errors import GatingError, raised_from
from ..findings import Finding, Fix, Place
from ..resolver.from_config import ALWAYS_OURS, PRESET, ours, written
from ..resolver.resolution import Resolution
from ..resolver.resolve import resolve
from ..rules import env_conflicts, trn
from ..rules.cfg import CFG001, CFG002, CFG006, CFG009
from ..rules.env import ENV002
from ..schema.fields import NODES, OUTPUT
from . import budgets, key_mapping, option_source, origins, pitfalls, secret_values
from .extract import IN_THE_JOBS, OPEN, Reading, read
from .interpolations import hydra_keys
from .overrides import COMMAND_LINE, overrides_of, task_overrides

PLAN_VARIABLE = option_source.GUARD

# Where sweepers keep the values of a sweep that stands in YAML: Hydra's and Optuna's, Optuna 1.1, Ax, Nevergrad.
SWEEP_PARAMETERS = ("params", "search_space", "ax_config.params", "parametrization")
_AS_POINT: ContextVar[list["Answer"] | None] = ContextVar("as_point", default=None)  # see as_point
_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)  # omegaconf reads a node again while it is replaced
_CLOSED: ContextVar[bool] = ContextVar("closed", default=False)  # see closed
MASTER_NOTE = (
    "This is the config of a sweep before its values are applied; every job of the sweep is judged separately."
)


class Refused(GatingError, ConfigCompositionException):
    """A GatingError that Hydra prints without a traceback. job: the overrides of the refused job, if it is one of a sweep."""

    def __init__(self, findings: tuple[Finding, ...], job: str = "") -> None:
        GatingError.__init__(self, findings)
        self.job = job

    def __str__(self) -> str:
        text = GatingError.__str__(self)
        return f"{text}\n\nrefused in the job: {self.job}" if self.job else text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.findings, self.job)


class ComposeRefusal(Refused, InterpolationResolutionError):  # type: ignore[misc]
    """The same on its way through omegaconf, which re-raises an InterpolationResolutionError unwrapped.

    Out of it, it becomes a plain `Refused`: what Hydra knows as omegaconf's it replaces by an exception without a text, which
    would be the last line that a notebook shows.
    """

    @property
    def _initialized(self) -> bool:  # type: ignore[override]
        """Whether the message is final; omegaconf asks once, as it lets an exception out."""
        self.__class__ = Refused  # type: ignore[assignment]
        return True


def refusal_in(error: BaseException) -> GatingError | None:
    """The GatingError that `error` is or was raised from: Hydra 1.3 wraps it in an exception without a text."""
    return raised_from(error, GatingError)


def check(root: DictConfig) -> list[str]:
    """Judge a finished config, write the answer into it, and give Hydra its list of variables to copy.

    Every composition on the machine ends here; one in which nothing is ours stays what it is. Writes `overlap.*` and
    `hydra.job.env_set`. Raises ComposeRefusal. Judges nothing in the middle of a merge, in the master config of a sweep
    (its values are not applied yet) and while the shell completes a line.
    """
    if _unfinished(root) or _CHECKING.get():
        return []
    token = _CHECKING.set(True)
    try:
        return _check(root)
    finally:
        _CHECKING.reset(token)


def _check(root: DictConfig) -> list[str]:
    sink = _AS_POINT.get()
    budgets.require_few_interpolations(root)
    master = sink is None and _sweep_master(root.hydra)
    if not option_source.guarded(root):
        copied = [] if master else _without_bundle(root)
        with _writable(root):
            root.hydra.job.env_copy = copied
        return copied
    if master:
        _require_output(root)
        with _writable(root):
            root[OUTPUT].notes = [MASTER_NOTE]
        return []
    answer = judge(root)
    if sink is not None:
        sink.append(answer)
    with _writable(root):
        _write(root, answer.resolution, answer.reading)
        # A plain list from here on: whoever reads it later does not judge again, on a config already answered.
        root.hydra.job.env_copy = answer.copied
        root.hydra.job.env_set.update({**answer.resolution.env, PLAN_VARIABLE: root[OUTPUT].plan})
    return answer.copied


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What `check` writes into a config. copied: variables that Hydra is to copy to the job."""

    resolution: Resolution
    reading: Reading
    copied: list[str]


def judge(
    root: DictConfig,
    *,
    with_origins: bool = True,
    plain: Mapping[str, Any] | None = None,
    choices_known: bool = False,
) -> Answer:
    """The answer to a finished config; nothing is written. Raises ComposeRefusal.

    with_origins: false leaves out where values came from, which changes words and never the verdict, and takes time.
    plain: nodes of the request that are known as plain data already (`extract.read`). choices_known: that no file overrules
    an option that the command line chose is known, from a config of the same files and keys.
    """
    _require_output(root)
    with _refusing(root.hydra):
        with key_mapping.in_its_words(root):
            pitfalls.check(root, choices_known=choices_known)
        if _CLOSED.get():
            _require_known_nodes(root)
        reading = read(root, foreign_nodes=True, plain=plain, composing=True)
        secret_values.require_none(reading.request, map(str, root[OUTPUT].env_copy))
        known = _origins(root, root.hydra, reading) if with_origins else None
        resolution = _resolved(root, reading, known)
        _check_environment(root.hydra, resolution)
        return Answer(resolution=resolution, reading=reading, copied=_variables_to_copy(root))


@contextmanager
def as_point() -> Iterator[list[Answer]]:
    """Judge what is composed here as a job of a sweep, however much it looks like the sweep's own config; -> the answers."""
    answers: list[Answer] = []
    token = _AS_POINT.set(answers)
    try:
        yield answers
    finally:
        _AS_POINT.reset(token)


@contextmanager
def closed() -> Iterator[None]:
    """Compose for an app that has no nodes but ours: any other is refused already here, not only where the job starts."""
    token = _CLOSED.set(True)
    try:
        yield
    finally:
        _CLOSED.reset(token)


def _require_output(root: DictConfig) -> None:
    if not isinstance(root.get(OUTPUT), DictConfig):
        why = "The rules write their answer into overlap; your config or command line removed it."
        raise ComposeRefusal((CFG001.refuse(OUTPUT, root.get(OUTPUT), "", why),))


def guard(root: DictConfig) -> str:
    """Refuse a job whose config was never judged; `check` puts the plan's fingerprint in this place."""
    master = _AS_POINT.get() is None and _sweep_master(root.hydra) and OmegaConf.is_missing(root.hydra.job, "num")
    if _unfinished(root) or master:
        return ""  # a job of a sweep has its number; the sweep's own config is never started
    finding = CFG006.refuse(
        "hydra.job.env_copy",
        list(root.hydra.job.env_copy),
        "",
        "hydra.job.env_copy carries the check, and your config or command line replaced it: nothing was judged.",
        Fix("overlap.env_copy=[...]", "copies these variables and keeps the check"),
    )
    raise ComposeRefusal((finding,))


def judged(cfg: DictConfig, *, foreign_nodes: bool = False) -> Resolution:
    """The answer to a job's config, derived anew from its request: what a job calls first, and uses alone.

    It closes the ways on which a config reaches a job without a composition that judged it, such as a saved
    `.hydra/config.yaml` that is run again with an override on top. foreign_nodes: nodes such as `model` may be the
    app's own, with keys that no rule reads (see `extract`). Raises GatingError if a rule refuses, or (CFG006) if
    `overlap.plan` is not the fingerprint of this very request and answer: `overlap` was written for another one.
    """
    if not OmegaConf.is_config(cfg.get("comm_overlap")):
        raise GatingError((_never_judged(cfg, "There is no comm_overlap in this config, so no rule ran."),))
    _require_paths(cfg)
    reading = read(cfg, foreign_nodes=foreign_nodes)
    found = OmegaConf.select(cfg, f"{OUTPUT}.plan")
    resolution = _resolved(cfg, reading, _origins(cfg, _hydra_of(found), reading))
    if not foreign_nodes:
        _require_known_nodes(cfg)
    if found is None:
        raise GatingError((_never_judged(cfg, "overlap.plan is empty: the rules did not run at composition."),))
    if found != fingerprint(reading, resolution):
        why = "overlap.* was derived from another request, or for another kind of machine."
        raise GatingError((_never_judged(cfg, why),))
    return resolution


def _origins(cfg: DictConfig, hydra: DictConfig | None, reading: Reading) -> dict[str, str]:
    found = origins.of(cfg, hydra)
    found.update(dict.fromkeys(reading.unread, origins.DEFAULT))
    found.update(reading.origins)
    return found


def _resolved(cfg: DictConfig, reading: Reading, known: Mapping[str, str] | None) -> Resolution:
    """The answer to what was read, all its fixes in the words of this config. Raises GatingError."""
    with key_mapping.in_its_words(cfg), _tuned_presets(reading.request if known is not None else None):
        resolution = resolve(reading.request, origins=known)
    return replace(resolution, findings=key_mapping.reworded(cfg, resolution.findings))


@contextmanager
def _tuned_presets(request: Mapping[str, Any] | None) -> Iterator[None]:
    """A refused preset's finding names those that fit; `resolve` itself knows none. request: None where nobody reads words."""
    try:
        yield
    except GatingError as refusal:
        if request is None:
            raise
        from ..presets.catalogue import with_tuned  # it reads every preset

        raise GatingError(with_tuned(refusal.findings, request)) from None


def _require_paths(cfg: DictConfig) -> None:
    """Hydra makes `None` of a `${hydra:...}` without a value, and `/ckpt/None` of a path with one in it."""
    hydra: Any = HydraConfig.get() if HydraConfig.initialized() else OmegaConf.create()
    findings = []
    for node, names in OPEN.items():
        for name in names if isinstance(cfg.get(node), DictConfig) and ours(cfg, node) else ():
            text = written(cfg[node], name)
            for key in hydra_keys(text) if isinstance(text, str) else []:
                if OmegaConf.select(hydra, key) is None:
                    why = f"hydra.{key} has no value in this job. Only jobs of a sweep have a number (hydra.job.num)."
                    fix = Fix(f"{node}.{name}={IN_THE_JOBS}", "in the job's folder")
                    findings.append(CFG002.refuse(f"{node}.{name}", text, "", why, fix))
    if findings:
        raise GatingError(findings)


def _require_known_nodes(cfg: DictConfig) -> None:
    """In our own app a node that is none of ours is a mistake: nothing reads it."""
    known = (*NODES, OUTPUT)
    unknown = [str(name) for name in cfg if name not in (*known, "hydra")]
    if unknown:
        raise GatingError([CFG001.unknown(name, cfg[name], "", known) for name in unknown])


def fingerprint(reading: Reading, resolution: Resolution) -> str:
    """Identity of a plan: what was asked and what is set. Facts of the machine count only by what they change.

    Paths may be known only when the job runs: of them counts whether there are any.
    """
    answer = resolution.to_dict()
    asked = {name: node for name, node in reading.request.items() if name not in ("platform", "software")}
    for name, paths in OPEN.items():
        node = asked.get(name, {})
        asked[name] = {key: value not in (None, []) if key in paths else value for key, value in node.items()}
    if resolution.request["launch"]["trainer"] != trn.OURS:
        del asked["data"]  # no rule reads it; the job may know more of it
    settings = {
        key: answer[key] for key in ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env")
    }
    text = json.dumps([asked, settings, reading.unread], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_bundle(root: DictConfig) -> list[str]:
    """Refuse options and fields of ours that nothing would judge; a saved config is held to its own answer.

    -> variables for Hydra to copy.
    """
    if OmegaConf.select(root, f"{OUTPUT}.plan") is not None and "comm_overlap" in root:
        return _saved(root)
    choices: Any = OmegaConf.to_container(root.hydra.runtime.choices, resolve=False)
    chosen = {str(key): name for key, name in choices.items() if name is not None and option_source.offered(str(key))}
    if not chosen and not option_source.asked(root) and not _CLOSED.get():
        return []
    with _refusing(root.hydra):
        raise GatingError([_no_bundle(root, chosen)])


def _saved(root: DictConfig) -> list[str]:
    """Hold a `.hydra/config.yaml` that is run again to what it says of itself. Raises ComposeRefusal (CFG006)."""
    with _refusing(root.hydra):
        try:
            resolution = _as_saved(root, foreign_nodes=False)
        except GatingError as refusal:
            try:
                resolution = _as_saved(root, foreign_nodes=True)
            except GatingError:
                raise refusal from None
    root.hydra.job.env_set.update({**resolution.env, PLAN_VARIABLE: root[OUTPUT].plan})
    return [str(name) for name in root[OUTPUT].get("env_copy") or () if name in os.environ]


def _as_saved(root: DictConfig, *, foreign_nodes: bool) -> Resolution:
    """The answer to a saved config, which has lost its types. foreign_nodes: its app has nodes of its own."""
    reading = read(root, foreign_nodes=foreign_nodes, composing=True)
    resolution = _resolved(root, reading, origins.of(root, root.hydra))
    if root[OUTPUT].plan != fingerprint(reading, resolution):
        why = "overlap.* was derived from another request, or for another kind of machine."
        raise GatingError((_never_judged(root, why, root.hydra),))
    return resolution


def _no_bundle(root: DictConfig, chosen: Mapping[str, Any]) -> Finding:
    """CFG009, with the command line that composes the same with a bundle."""
    said = {override.get_key_element().lstrip("+"): override for override in overrides_of(root.hydra)}
    with_bundle, replaced = ["+comm_overlap=default"], []
    for key, name in chosen.items():
        if key in said and option_source.own_group(key.partition("@")[0]).partition("/")[0] in ALWAYS_OURS:
            with_bundle.append(f"{key}={name}")
            replaced.append(str(said[key].input_line))
    effect = f"in place of {' '.join(replaced)}" if replaced else "adds the bundle that decides by the layout"
    places = [Place(key, str(name), COMMAND_LINE if key in said else "your config") for key, name in chosen.items()]
    if "comm_overlap" in root and not places:
        places = [Place("comm_overlap", "", "")]
    why = (
        "Only a bundle (comm_overlap=NAME) brings the schema and the check. Without one nothing judges or applies this."
    )
    listed = "" if len(replaced) == len(chosen) else " In a defaults list, put `- comm_overlap: default` before it."
    return Finding(
        rule=CFG009.__name__, severity="error", title=CFG009.title(), why=why + listed,
        where=tuple(places or [Place("comm_overlap", "", "")]), fixes=(Fix(" ".join(with_bundle), effect),), source=CFG009.source,
    )  # fmt: skip


def _unfinished(root: DictConfig) -> bool:
    """Whether root is in the middle of a merge, or of a line the shell completes; `choices` are filled at the end."""
    return "hydra" not in root or not root.hydra.runtime.choices or _completing()


def _completing() -> bool:
    """Whether Hydra completes a line for the shell. The variable as well: an app may have a flag -sc of its own."""
    return "COMP_LINE" in os.environ and any(argument in ("-sc", "--shell-completion") for argument in sys.argv)


def _sweep_master(hydra: DictConfig) -> bool:
    """Whether this is the config Hydra composes before it applies a sweep's values."""
    overrides = overrides_of(hydra)
    if any(override.is_sweep_override() for override in overrides):
        return True
    if hydra.mode != RunMode.MULTIRUN:  # the parameters of a sweep say nothing about a single run
        return False
    said = {override.get_key_element().lstrip("+~") for override in overrides}
    swept = [OmegaConf.select(hydra, f"sweeper.{name}") for name in SWEEP_PARAMETERS]
    keys = {str(key).lstrip("+~") for node in swept if isinstance(node, DictConfig) for key in node}
    return not keys.issubset(said) or not _names_a_point(OmegaConf.select(hydra, "sweeper.points"), said)


def _names_a_point(points: Any, said: set[str]) -> bool:
    """Whether `said`, the keys of a job, hold those of one of the sweep's named points; true where there are none."""
    if not isinstance(points, DictConfig) or not points:
        return True
    listed: Any = OmegaConf.to_container(points, resolve=False)
    keys = ({str(line).partition("=")[0].lstrip("+~") for line in lines or ()} for lines in listed.values())
    return any(named and named <= said for named in keys)


def _check_environment(hydra: DictConfig, resolution: Resolution) -> None:
    """What the user sets in hydra.job.env_set: variables of the plan, differently, and those that undo what it asks for."""
    findings = []
    for name, value in resolution.env.items():
        if name in hydra.job.env_set and str(hydra.job.env_set[name]) != value:
            findings.append(ENV002.contradiction(name, str(hydra.job.env_set[name]), value))
    if resolution.gating == "strict":
        said = {name: str(hydra.job.env_set[name]) for name in env_conflicts.NAMES if name in hydra.job.env_set}
        for one in env_conflicts.contrary(resolution.request, resolution.to_dict(), said) if said else ():
            if one.severity == "error":
                findings.append(ENV002.undoing(one.name, one.value, one.undoes, one.source))
    if findings:
        raise GatingError(findings)


def _variables_to_copy(root: DictConfig) -> list[str]:
    """overlap.env_copy. Hydra would end in a KeyError on a variable that is not set."""
    names = list(root[OUTPUT].env_copy)
    absent = [name for name in names if name not in os.environ]
    if absent:
        left = ",".join(name for name in names if name in os.environ)
        why = f"Not set in this environment: {', '.join(absent)}."
        fix = Fix(f"overlap.env_copy=[{left}]", "copies the others")
        raise GatingError((CFG001.refuse("overlap.env_copy", names, "", why, fix),))
    return names


def _write(root: DictConfig, resolution: Resolution, reading: Reading) -> None:
    answer = resolution.to_dict()
    output = root[OUTPUT]
    output.effective = {
        "transformer_config": answer["transformer_config"],
        "optimizer_config": answer["optimizer_config"],
        "ddp_config": answer["ddp_config"],
        "userbuffers": _userbuffers(answer["userbuffers"], reading),
        "world_size": resolution.request["parallelism"]["world_size"],
        **reading.filled,
    }
    output.env = answer["env"]
    output.origin = {row.field: f"{row.origin} ({row.rule})" if row.rule else row.origin for row in resolution.ledger}
    findings = [f"{finding.rule}: {finding.title}. {finding.why}".strip() for finding in resolution.findings]
    output.notes = findings + [f"{key} is a key of your app; no rule reads it." for key in reading.unread]
    output.plan = fingerprint(reading, resolution)


def _userbuffers(effective: Any, reading: Reading) -> Any:
    """The dictionary Transformer Engine gets; as a reference where it is the preset's, which the config holds already."""
    if PRESET in reading.filled:
        place, layers = f"${{{OUTPUT}.effective.{PRESET}.layers}}", reading.filled[PRESET].get("layers")
    else:
        asked = {} if reading.origins else reading.request.get("userbuffers") or {}
        place, layers = "${userbuffers.layers}", asked.get("layers")
    return place if effective and effective == layers else effective


@contextmanager
def _writable(root: DictConfig) -> Iterator[None]:
    """Open the output and hydra.job for writing, whatever flags the host set. Of the whole hydra node it would be slow."""
    nodes = [node for node in (root.get(OUTPUT), root.hydra.job) if isinstance(node, DictConfig)]
    before = [(node._get_flag("readonly"), node._get_flag("struct")) for node in nodes]
    for node in nodes:
        OmegaConf.set_readonly(node, False)
        OmegaConf.set_struct(node, False)
    try:
        yield
    finally:
        for node, (readonly, struct) in zip(nodes, before, strict=True):
            OmegaConf.set_readonly(node, readonly)
            OmegaConf.set_struct(node, struct)


@contextmanager
def _refusing(hydra: DictConfig) -> Iterator[None]:
    """Turn a GatingError into the exception Hydra prints without a traceback."""
    try:
        yield
    except GatingError as refusal:
        job = " ".join(task_overrides(hydra)) if hydra.mode == RunMode.MULTIRUN else ""
        raise ComposeRefusal(secret_values.hidden(refusal.findings), job) from None


def _hydra_of(plan: str | None) -> DictConfig | None:
    """The hydra node of the job that runs, if that is the job of this plan; a saved config's has no plan of its own."""
    if not HydraConfig.initialized():
        return None
    hydra: Any = HydraConfig.get()
    return hydra if hydra.job.env_set.get(PLAN_VARIABLE, plan) == plan else None


def _never_judged(cfg: DictConfig, why: str, hydra: Any = None) -> Finding:
    """CFG006 for a job's config, with the way to one that is judged. hydra: of the config, before the job has one."""
    again = _overrides_of_saved_run(hydra)
    if again is not None:
        fix = Fix(" ".join(again) or "(no overrides)", "without --config-path and --config-name: composes it again")
    elif not OmegaConf.is_config(cfg.get("comm_overlap")):
        fix = Fix("+comm_overlap=none", "asks for no overlap and judges that")
    else:
        fix = Fix("comm_overlap=OPTION", "composes it again from the option files, with your changes as overrides")
    return CFG006.refuse(f"{OUTPUT}.plan", OmegaConf.select(cfg, f"{OUTPUT}.plan"), "", why, fix)


def _overrides_of_saved_run(hydra: Any = None) -> list[str] | None:
    """The overrides that compose a run anew, if its saved `.hydra/config.yaml` is what runs; else None."""
    if hydra is None and not HydraConfig.initialized():
        return None
    hydra = hydra or HydraConfig.get()
    if OmegaConf.is_missing(hydra.runtime, "config_sources"):  # while Hydra composes
        sources: Any = GlobalHydra.instance().config_loader().get_search_path().get_path()  # type: ignore[no-untyped-call]
    else:
        sources = hydra.runtime.config_sources
    folders = [str(source.path).removeprefix("file://") for source in sources if source.provider == "main"]
    saved = Path(*folders[:1], "overrides.yaml")
    if not folders or not saved.is_file():
        return None
    before: Any = yaml.safe_load(saved.read_text())
    return [str(line) for line in (before or [])] + task_overrides(hydra)
