"""The rules inside Hydra: judged at the end of every composition, whoever composes.

Hydra has no compose hook, but every composition ends by iterating over `hydra.job.env_copy`. `_overlap/enforce.yaml`
sets it to `${overlap.check:}`, so reading it runs `check` below on the finished config. A second latch,
`hydra.job.env_set.HYDRA_OVERLAP_PLAN: ${overlap.guard:}`, refuses to start a job whose config `check` never saw.
Mechanics and traps: docs/decisions/0002-enforcement-at-compose-time.md.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from . import facts, origins
from .errors import GatingError
from .findings import Finding, Fix
from .request import NODES
from .resolution import Resolution
from .resolve import resolve
from .rules.cfg import CFG001, CFG002, CFG006, CFG007, CFG008
from .rules.env import ENV002

OUTPUT = "overlap"
PLAN_VARIABLE = "HYDRA_OVERLAP_PLAN"


class ComposeRefusal(GatingError, InterpolationResolutionError, ConfigCompositionException):  # type: ignore[misc]
    """A GatingError that Hydra 1.3 and 1.4 print without a traceback.

    omegaconf re-raises InterpolationResolutionError unwrapped; Hydra tidies ConfigCompositionException.
    """

    _initialized = True  # omegaconf: the message is final, do not decorate it

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        GatingError.__init__(self, findings)

    def __reduce__(self) -> tuple[Any, ...]:
        return ComposeRefusal, (self.findings,)


def register() -> None:
    """Make `${overlap.check:}` and `${overlap.guard:}` known to omegaconf. Idempotent."""
    OmegaConf.register_new_resolver("overlap.check", check, replace=True)
    OmegaConf.register_new_resolver("overlap.guard", guard, replace=True)


def check(*, _root_: DictConfig) -> list[str]:
    """Judge a finished config, write the answer into it, and give Hydra its list of variables to copy.

    Writes `overlap.*` and `hydra.job.env_set`. Raises ComposeRefusal. Does nothing in the middle of a merge, for the
    master config of a sweep (its values are not applied yet) and while the shell completes a line.
    """
    hydra = _root_.get("hydra")
    if hydra is None or not hydra.runtime.choices or _completing() or _sweep_master(hydra):
        return []
    with _refusing():
        _check_shape(_root_)
        request, filled = read_request(_root_)
        known = origins.of(_root_)
        resolution = resolve(request, origins=known)
        _check_environment(hydra, resolution)
    with _writable(_root_):
        _write(_root_, resolution, filled)
        hydra.job.env_set.update({**resolution.env, PLAN_VARIABLE: _root_[OUTPUT].plan})
    return list(_root_[OUTPUT].env_copy)


def guard(*, _root_: DictConfig) -> str:
    """Refuse a job whose config was never judged; `check` puts the plan's fingerprint in this place."""
    if _completing() or "hydra" not in _root_ or not _root_.hydra.runtime.choices or _sweep_master(_root_.hydra):
        return ""
    finding = CFG006.refuse(
        "hydra.job.env_copy",
        OmegaConf.to_container(_root_.hydra.job.env_copy),
        "",
        "hydra.job.env_copy carries the check; your config or command line replaced it.",
        Fix("overlap.env_copy=[...]", "copies these variables and keeps the check"),
    )
    raise ComposeRefusal((finding,))


def read_request(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request nodes of a composed config as a plain dict, facts filled in; and the facts that were filled."""
    request = {
        name: OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(cfg.get(name))
        else cfg.get(name)
        for name in NODES
        if name in cfg
    }
    filled = facts.fill(request)
    return request, filled


def fingerprint(request: Mapping[str, Any], resolution: Resolution) -> str:
    """Identity of a plan: what was asked and what is set, versions and GPU facts left out."""
    answer = resolution.to_dict()
    asked = {name: node for name, node in request.items() if name not in ("platform", "software")}
    settings = {
        key: answer[key] for key in ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env")
    }
    text = json.dumps([asked, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _completing() -> bool:
    return any(argument in ("-sc", "--shell-completion") for argument in sys.argv)


def _sweep_master(hydra: DictConfig) -> bool:
    """Whether this is the config Hydra composes before it applies a sweep's values."""
    task: list[str] = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[assignment]
    overrides = OverridesParser.create().parse_overrides(task)
    if any(override.is_sweep_override() for override in overrides):
        return True
    params = OmegaConf.select(hydra, "sweeper.params")
    given = {override.get_key_element().lstrip("+~") for override in overrides}
    return bool(params) and not given.issuperset(str(key).lstrip("+~") for key in params)


def _check_shape(root: DictConfig) -> None:
    """What Hydra lets through: a list of options, a comm_overlap elsewhere than at the top, a written output."""
    findings = []
    for group, option in root.hydra.runtime.choices.items():
        if OmegaConf.is_list(option) and _is_ours(group):
            choice = list(option)
            fixes = [Fix(f"{group.partition('@')[0]}={name}", "one of them") for name in choice]
            why = "Hydra merges both options, the last one wins field by field. To run one after the other, sweep with -m."
            findings.append(CFG008.refuse(group, choice, "command line", why, *fixes))
    for name in NODES:
        if isinstance(root.get(name), str) and name not in ("gating",):
            why = f"{name} is a node of settings; a + before a group that Hydra cannot find sets a text instead."
            findings.append(CFG002.refuse(name, root[name], "", why, Fix(f"{name}={root[name]}", "without the +")))
    if "comm_overlap" not in root:
        nested = [group for group in root.hydra.runtime.choices if str(group).startswith("comm_overlap@")]
        why = (
            "The rules read comm_overlap at the top of the config; under another name or node they would judge nothing."
        )
        fix = Fix("comm_overlap@_global_.comm_overlap: OPTION", "in the defaults list")
        findings.append(CFG007.refuse(nested[0] if nested else "comm_overlap", "", "", why, fix))
    for override in root.hydra.overrides.task:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith(f"{OUTPUT}.") and key != f"{OUTPUT}.env_copy":
            field = key.rpartition(".")[2]
            why = "overlap.* is what the rules answer. Ask for something else instead."
            findings.append(
                CFG001.refuse(key, override.partition("=")[2], "command line", why, Fix(f"comm_overlap.*.{field}", ""))
            )
    if findings:
        raise GatingError(findings)


def _is_ours(group: str) -> bool:
    return group.partition("@")[0].partition("/")[0] in NODES


def _check_environment(hydra: DictConfig, resolution: Resolution) -> None:
    """A variable of the plan that the user sets differently in hydra.job.env_set."""
    findings = []
    for name, value in resolution.env.items():
        if name in hydra.job.env_set and str(hydra.job.env_set[name]) != value:
            findings.append(ENV002.contradiction(name, str(hydra.job.env_set[name]), value))
    if findings:
        raise GatingError(findings)


def _write(root: DictConfig, resolution: Resolution, filled: Mapping[str, Any]) -> None:
    answer = resolution.to_dict()
    output = root[OUTPUT]
    output.effective = {
        "transformer_config": answer["transformer_config"],
        "optimizer_config": answer["optimizer_config"],
        "ddp_config": answer["ddp_config"],
        "userbuffers": answer["userbuffers"],
        "world_size": resolution.request["parallelism"]["world_size"],
        **filled,
    }
    output.env = answer["env"]
    output.origin = {row.field: f"{row.origin} ({row.rule})" if row.rule else row.origin for row in resolution.ledger}
    output.notes = [f"{finding.rule}: {finding.title}. {finding.why}".strip() for finding in resolution.findings]
    request, _ = read_request(root)
    output.plan = fingerprint(request, resolution)


@contextmanager
def _writable(root: DictConfig) -> Iterator[None]:
    """Open the output and hydra nodes for writing, whatever flags the host set."""
    nodes = [root[OUTPUT], root.hydra]
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
def _refusing() -> Iterator[None]:
    """Turn a GatingError into the exception Hydra prints without a traceback."""
    try:
        yield
    except GatingError as refusal:
        raise ComposeRefusal(refusal.findings) from None
