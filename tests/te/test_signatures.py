"""Every minor version of Transformer Engine from 2.8 to 2.20 takes our call of initialize_ub; 2.7 is refused by name.

One plan each, through the version's own initialize_ub (upstream.py). tests/te/test_te_contract.py goes through all presets
with three of the versions.
"""

import inspect
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from hydra_overlap.megatron import userbuffers
from hydra_overlap.rules.ub import GEMMS
from tests import needs
from tests.plans import plan_of
from tests.te import upstream

pytestmark = [needs.TORCH, needs.IN_PROCESS]

WITHOUT_CUBLASMP = ("2.8.0", "2.9.0", "2.10.0", "2.11.0", "2.12.0", "2.13.0", "2.14.0", "2.15.0", "2.16.0")
WITH_CUBLASMP = ("2.17.0", "2.18.0", "2.19.0", "2.20.2")
PLAN = ("comm_overlap=tp4_h100", "model=llama3_70b", "comm_overlap.tp.tp_comm_bootstrap_backend=gloo")


def engine_of(version: str, config: pytest.Config) -> SimpleNamespace:
    """Initialize_ub of a version; skips where its wheel cannot be had."""
    try:
        return upstream.cut(upstream.download(version, Path(config.cache.mkdir("transformer-engine"))))  # type: ignore[union-attr]
    except (subprocess.SubprocessError, OSError, IndexError) as error:
        pytest.skip(f"transformer-engine {version} cannot be downloaded: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("version", [*WITHOUT_CUBLASMP, *WITH_CUBLASMP])
def test_every_minor_version_takes_our_call(version: str, pytestconfig: pytest.Config) -> None:
    engine = engine_of(version, pytestconfig)
    names = ["shape", "tp_size", "use_fp8", "quantization_modes", "dtype", "ub_cfgs", "bootstrap_backend"]
    names += ["with_cublasmp"] if version in WITH_CUBLASMP else []
    assert list(inspect.signature(engine.initialize_ub).parameters) == names
    plan = plan_of(*PLAN)
    given = userbuffers.arguments(plan, engine.UserBufferQuantizationMode)
    userbuffers.require_accepted(engine.initialize_ub, given)
    with upstream.world(4):
        made = upstream.communicators(engine, **given)
    assert {gemm for gemm, _ in made} == set(GEMMS)
    assert given["shape"][0] % 8192 == 0
    assert {tuple(communicator.shape) for communicator in made.values()} == {tuple(given["shape"])}
    for gemm, entry in plan.resolution.userbuffers.items():
        assert made[gemm, "none"].arguments["num_comm_sm"] == entry["num_sm"], gemm


def before_2_8(shape, tp_size, use_fp8=False, dtype=None, ub_cfgs=None, bootstrap_backend=None):
    """initialize_ub as it was from 1.9 to 2.7."""
    raise AssertionError("called all the same")


def test_an_older_version_is_refused_before_it_is_called() -> None:
    given = userbuffers.arguments(plan_of(*PLAN), SimpleNamespace(NONE="none", FP8="fp8"))
    with pytest.raises(userbuffers.UserbuffersError, match="no quantization_modes"):
        userbuffers.require_accepted(before_2_8, given)
