"""Fixes as people paste them: after the overrides that were refused, on a composition by Hydra itself."""

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap import Finding, GatingError

REFUSED = {
    "a preset at another TP size": ("comm_overlap=tp4_h100", "parallelism=tp2"),
    "no GPU": ("comm_overlap=tp4_h100", "platform=cpu"),
    "an argument out of range": ("comm_overlap=tp4_h100", "userbuffers.layers.qkv_fprop.num_sm=64"),
    "a GEMM that does not exist": ("comm_overlap=tp4_h100", "+userbuffers.layers.qkv_fwd={method:bulk}"),
    "a dgrad against its wgrad": ("comm_overlap=tp4_h100", "userbuffers.layers.qkv_dgrad.method=pipeline"),
    "layers that do not fit": ("comm_overlap=pp_interleaved", "model.num_layers=6"),
    "p2p overlap without a pipeline": ("comm_overlap=default", "comm_overlap.pp.overlap_p2p_comm=true"),
    "a base value that contradicts": ("ddp.overlap_grad_reduce=false", "comm_overlap.dp.overlap_grad_reduce=true"),
    "modules recomputed": (
        "comm_overlap=default", "parallelism=ep2", "comm_overlap/ep=a2a", "model.num_moe_experts=4", "software=reference",
        "model.moe_token_dispatcher_type=alltoall", "model.recompute_modules=[core_attn,moe]",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        yield


def errors(*overrides: str) -> dict[str, Finding]:
    """Rule -> what it refuses in the composed config; any other failure of the composition is raised."""
    try:
        compose("config", overrides=list(overrides))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, GatingError):
                return {finding.rule: finding for finding in cause.findings}
            cause = cause.__cause__ or cause.__context__
        raise
    return {}


@pytest.mark.parametrize("case", REFUSED)
def test_a_printed_fix_pasted_after_the_refused_overrides_lifts_the_refusal(case: str) -> None:
    refused = errors(*REFUSED[case])
    assert refused
    for rule, finding in refused.items():
        assert finding.fixes
        for fix in finding.fixes:
            after = errors(*REFUSED[case], *fix.override.split(" "))
            assert rule not in after, fix
            assert after.keys() <= refused.keys(), fix
