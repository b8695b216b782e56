"""No secret of the environment is written into a run's files: a config that holds one is refused before anything is written."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import GatingError
from ..findings import Finding, Fix, yaml_value
from ..rules import secret_names
from ..rules.cfg import CFG012
from ..schema.fields import DEFAULTS


def require_none(
    request: Mapping[str, Any], copied: Iterable[str], environment: Mapping[str, str] = os.environ
) -> None:
    """Raise GatingError (CFG012) if a text of the request holds a secret's value, or if a secret is to be copied.

    request: nested plain dict. copied: names in overlap.env_copy; Hydra writes their values to .hydra/hydra.yaml.
    """
    findings = [*_copied(list(copied)), *_said(request, secret_names.values(environment))]
    if findings:
        raise GatingError(findings)


def hidden(findings: Iterable[Finding], environment: Mapping[str, str] = os.environ) -> tuple[Finding, ...]:
    """The findings without the values of secrets: a value of the wrong type is told with what it was."""
    secrets = secret_names.values(environment)

    def without(text: str) -> str:
        for name, value in secrets.items():
            text = text.replace(value, f"(the value of {name})")
        return text

    def shown(finding: Finding) -> Finding:
        where = tuple(replace(place, value=without(place.value)) for place in finding.where)
        fixes = tuple(fix for fix in finding.fixes if without(fix.override) == fix.override)
        return replace(finding, why=without(finding.why), where=where, fixes=fixes)

    return tuple(map(shown, findings)) if secrets else tuple(findings)


def _copied(names: list[str]) -> Iterator[Finding]:
    secret = [name for name in names if secret_names.is_secret(name)]
    if secret:
        why = (
            f"Hydra writes the values of copied variables to .hydra/hydra.yaml of every job. {', '.join(secret)} would be readable there. "
            "Processes on this machine and jobs of Slurm have the variable anyway; elsewhere, log in with the tool it belongs to."
        )
        left = ",".join(name for name in names if name not in secret)
        yield CFG012.refuse("overlap.env_copy", names, "", why, Fix(f"overlap.env_copy=[{left}]", "copies the others"))


def _said(request: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterator[Finding]:
    if not secrets:
        return
    for key, text in _texts(request, ""):
        for name, value in secrets.items():
            if value in text:
                why = f"{key} holds the value of the variable {name}. It would be written to the plan, the manifest and the logs of the run."
                fix = (
                    Fix(f"{key}={yaml_value(DEFAULTS[key])}", "the default") if key in DEFAULTS else Fix(f"~{key}", "")
                )
                yield CFG012.refuse(key, f"(the value of {name})", "", why, fix)
                break


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(key of the field, text) of every text below a node; entries of lists and mappings stand for their field."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            below = f"{key}.{name}" if key else str(name)
            yield from _texts(item, key if key in DEFAULTS else below)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item, key)
