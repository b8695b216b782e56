"""Public reports of overlap that went wrong, each answered as its thread and upstream's source say: tests/reference/public_cases.

A case is one YAML: `overrides` of ours, or a `script` (with the name that tells its format and the facts `audit_overrides` adds);
`verdict`: accept, note, warn or refuse; `rules`: whose findings say so. `works`: for a finding, the neighbour that must pass:
overrides that are added, or what is replaced in the script.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hydra_overlap import Finding
from hydra_overlap.audit import audit
from hydra_overlap.compose.check import check

FOLDER = Path(__file__).parents[1] / "reference/public_cases"
CASES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
SEVERITY = {"note": "note", "warn": "warning", "refuse": "error"}


def answered(overrides: list[str]) -> list[Finding]:
    """Every finding on a command line of ours, for whatever program trains."""
    found = check(overrides, trainer="other")
    return [*found.findings, *(found.resolution.findings if found.resolution else ())]


def audited(text: str, facts: list[str]) -> list[Finding]:
    found = audit(text, facts)
    assert not found.undecided, f"undecided: {found.notes}"
    return list(found.findings)


def findings(case: dict[str, Any], *, works: bool = False) -> list[Finding]:
    change = case.get("works", {}) if works else {}
    if "overrides" in case:
        return answered([*case["overrides"], *(change or ())])
    text = case["script"]
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    return audited(text, case.get("audit_overrides", []))


@pytest.mark.parametrize("name", CASES)
def test_a_public_report_is_answered(name: str) -> None:
    case = CASES[name]
    assert case["source"] and case["why"]
    found = findings(case)
    refusing = {finding.rule for finding in found if finding.severity == "error"}
    if case["verdict"] == "accept":
        assert not refusing, case["why"]
        return
    said = {finding.rule for finding in found if finding.severity == SEVERITY[case["verdict"]]}
    assert set(case["rules"]) <= said, f"{sorted(said)}: {case['why']}"
    if case["verdict"] == "refuse":
        assert refusing == set(case["rules"]), "one cause, one message"
    else:
        assert not refusing, case["why"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "works" in case])
def test_what_mends_a_reported_problem_is_accepted_without_its_finding(name: str) -> None:
    case = CASES[name]
    found = findings(case, works=True)
    assert not [str(finding) for finding in found if finding.severity == "error"]
    assert not {finding.rule for finding in found} & set(case["rules"])
