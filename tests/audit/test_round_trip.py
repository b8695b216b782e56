"""Export, then audit: what we write says again, in the other launcher's words, the plan it was made from."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from hydra_overlap import GatingError, resolve
from hydra_overlap.audit import audit
from hydra_overlap.export import ExportError, export
from hydra_overlap.export._base import effective
from hydra_overlap.export.megatron_bridge import entries
from hydra_overlap.export.megatron_lm import irrelevant
from hydra_overlap.resolver.resolution import Resolution
from hydra_overlap.schema.targets import LEDGER_KEYS
from tests.strategies import plausible

FILES = {"megatron-lm": ("env.sh", "megatron_lm_flags.txt"), "megatron-bridge": ("megatron_bridge.yaml",)}


def relevant(resolution: Resolution) -> dict[str, object]:
    """The overlap settings that are read in such a plan."""
    c = effective(resolution)
    keys = [key for key in LEDGER_KEYS if not irrelevant(key, c)]
    layers = resolution.userbuffers or {}
    completed, unknown = entries(layers)  # Bridge's classes write Transformer Engine's defaults out
    return {key: c[key] for key in keys} | {"layers": layers if unknown else completed, "env": resolution.env}


def ids(findings) -> set[str]:
    return {finding.rule for finding in findings}


@pytest.mark.parametrize("target", FILES)
def test_an_exported_plan_audits_clean_and_means_the_same(
    target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    counted = {"accepted": 0, "refused by the target": 0}

    @given(request=plausible())
    @settings(max_examples=130, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(request) -> None:
        try:
            resolution = resolve(request)
        except GatingError:
            assume(False)
            raise
        try:
            files = export(target, resolution, "a test")
        except ExportError:
            counted["refused by the target"] += 1
            return
        folder = tmp_path_factory.mktemp("exported")
        for name, text in files.items():
            Path(folder, name).write_text(text)
        audited = audit("\n".join(files[name] for name in FILES[target]), folder=folder)
        counted["accepted"] += 1
        assert audited.errors == (), str(audited)
        said_by_the_export = set(
            re.findall(r"^# \w+ (\w+), as Megatron-LM always", "\n".join(files.values()), re.MULTILINE)
        )
        assert ids(audited.findings) <= ids(resolution.findings) | said_by_the_export, str(audited)
        assert audited.overlooked == () and audited.ignored == 0
        assert audited.resolution is not None
        assert relevant(audited.resolution) == relevant(resolution)

    check()
    print(target, counted)
    assert counted["accepted"] >= 100
