"""Every point of a sweep, judged before anything starts: legal, refused and by which rule, or the same as another."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..compose import hydra_errors
from ..compose.enforce import Answer, refusal_in
from ..compose.interpolations import of_the_job
from ..errors import GatingError
from ..findings import Finding, yaml_value
from ..resolver.from_config import ours
from .composer import Composer
from .identity import identity
from .points import Point

WINDOW = 1024  # points ordered by their group choices before they are judged: each choice is merged once, not in turns


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One point and its verdict.

    identity: hash of the effective configuration; None if refused. refusal: the full text; None if legal. reason: the
    refusal in one line. rules: ids of the rules that refuse; empty for a mistake in composing. same_as: number of the
    earlier point that would be the same run. ranks: world size; None where no rule judged. effective: overlap field ->
    value, of what the rules decided. launcher: the point's `hydra.launcher`, resolved as far as that is possible. saves:
    where its checkpoints go, as written; None where none are, or where the path is in the job's own folder.
    """

    point: Point
    identity: str | None = None
    refusal: str | None = None
    reason: str = ""
    rules: tuple[str, ...] = ()
    same_as: int | None = None
    ranks: int | None = None
    effective: dict[str, Any] = field(default_factory=dict)
    launcher: dict[str, Any] = field(default_factory=dict)
    saves: str | None = None


def judge_all(
    points: Iterable[Point], composer: Composer, *, progress: Callable[[int], None] = lambda done: None
) -> list[Judged]:
    """The verdict on every point, in order. progress: called with the number of points judged so far.

    Raises whatever is no mistake of a user's: a bug, of ours or of a resolver of the app's own.
    """
    return list(stream(points, composer, progress=progress))


def stream(
    points: Iterable[Point], composer: Composer, *, progress: Callable[[int], None] = lambda done: None
) -> Iterator[Judged]:
    """The verdicts one by one, in order; what many points have in common is held once."""
    first: dict[str, int] = {}
    shared = _Shared()
    remaining, done = iter(points), 0
    while window := list(islice(remaining, WINDOW)):
        verdicts: dict[int, Judged] = {}
        for point in sorted(window, key=lambda point: composer.base_key(point.overrides)):
            verdicts[point.number] = _judge(point, composer, shared)
            done += 1
            progress(done)
        for point in window:
            verdict = verdicts[point.number]
            if verdict.identity is not None:
                earlier = first.setdefault(verdict.identity, point.number)
                if earlier != point.number:
                    verdict = dataclasses.replace(verdict, same_as=earlier)
            yield verdict


def _judge(point: Point, composer: Composer, shared: "_Shared") -> Judged:
    try:
        config, answer = composer.judge(point.overrides)
    except Exception as error:
        return _refused(point, error, shared)
    return Judged(
        point=point,
        identity=identity(config, answer),
        ranks=answer.resolution.request["parallelism"]["world_size"] if answer else None,
        effective=shared.dict(_decided(answer) if answer else {}),
        launcher=shared.dict(_launcher(config)),
        saves=_saves(config),
    )


def _refused(point: Point, error: Exception, shared: "_Shared") -> Judged:
    refusal = refusal_in(error)
    if refusal is not None:
        findings = refusal.findings
        text = str(GatingError(findings))
        rules = tuple(dict.fromkeys(finding.rule for finding in findings))
    else:
        mistake = hydra_errors.explain(error, point.overrides)
        if mistake is None:
            raise error
        findings, text, rules = mistake.findings, str(mistake), ()
    reason = "; ".join(_in_one_line(finding) for finding in findings)
    return Judged(point=point, refusal=shared.text(text), reason=shared.text(reason), rules=rules)


def _in_one_line(finding: Finding) -> str:
    if finding.rule in ("HYDRA", "FILE", "USE"):  # not rules; their titles say what Hydra or the system said
        return f"{finding.title}: {finding.why}".rstrip(": ")
    place = f" ({finding.where[0]})" if finding.rule.startswith("CFG") and finding.where else ""
    return f"{finding.rule} {finding.title}{place}"


def _decided(answer: Answer) -> dict[str, Any]:
    """Field -> effective value, of every overlap field that was left to the rules."""
    return {row.field: row.effective for row in answer.resolution.ledger if row.rule and row.asked is None}


def _launcher(config: DictConfig) -> dict[str, Any]:
    node = OmegaConf.select(config, "hydra.launcher")
    if not isinstance(node, DictConfig):
        return {}
    try:
        plain: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:  # a value of the job's own, such as its number
        plain = OmegaConf.to_container(node, resolve=False)
    return dict(plain)


def _saves(config: DictConfig) -> str | None:
    node = config.get("checkpoint")
    if not isinstance(node, DictConfig) or not ours(config, "checkpoint") or of_the_job(node._get_node("save")):
        return None
    save: str | None = node.save
    return save


class _Shared:
    """One copy of every dict and text that many points have in common. Nobody changes them."""

    def __init__(self) -> None:
        self._dicts: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, str] = {}

    def dict(self, value: dict[str, Any]) -> dict[str, Any]:
        return self._dicts.setdefault(json.dumps(value, sort_keys=True, default=yaml_value), value)

    def text(self, value: str) -> str:
        return self._texts.setdefault(value, value)
