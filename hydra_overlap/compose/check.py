"""Judging a command line without running it: our own config composed with overrides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import REFUSED, HydraOverlapError
from ..findings import Finding
from ..resolver.resolution import Resolution
from ..rules.trn import OURS
from ..schema.keys import TRAINER


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `hydra-overlap check` says. exit_code: 0 accepted, 1 refused, 2 unreadable. resolution: None unless accepted."""

    exit_code: int
    text: str = ""
    findings: tuple[Finding, ...] = ()
    resolution: Resolution | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        answer = self.resolution.to_dict() if self.resolution else {}
        findings = [finding.to_dict() for finding in self.findings]
        return {"verdict": "refused" if self.exit_code else "accepted", **answer, "findings": findings}


def check(overrides: Sequence[str], *, trainer: str = OURS) -> Verdict:
    """Compose our config with `overrides` and judge it.

    trainer: whose plan it is, unless an override of launch.trainer says so. For `other` what train.py needs and does not
    build is not judged.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from . import hydra_errors
    from .enforce import judged, refusal_in

    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("hydra_overlap.conf", version_base=None):
            whose = () if trainer == OURS else (f"{TRAINER}={trainer}",)
            resolution = judged(compose("config", [*whose, *overrides]))
    except Exception as error:
        refusal = refusal_in(error)
        if refusal is not None:
            return Verdict(exit_code=REFUSED, text=str(refusal), findings=refusal.findings)
        mistake = None if isinstance(error, HydraOverlapError) else hydra_errors.explain(error, overrides)
        if mistake is None:
            raise
        return Verdict(exit_code=mistake.exit_code, text=str(mistake), findings=mistake.findings)
    return Verdict(exit_code=0, findings=resolution.findings, resolution=resolution)
