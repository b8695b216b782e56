"""PP: edges of pipeline overlap and of the deferred embedding gradient."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, request_of

PP2 = "parallelism.pipeline_model_parallel_size=2"
INTERLEAVED = (PP2, "parallelism.virtual_pipeline_model_parallel_size=2")
OVERLAP, BATCH = "comm_overlap.pp.overlap_p2p_comm", "comm_overlap.pp.batch_p2p_comm"
FLUSH = "comm_overlap.pp.overlap_p2p_comm_warmup_flush"
DEFER, LIMIT = "comm_overlap.pp.defer_embedding_wgrad_compute=true", "comm_overlap.pp.wgrad_deferral_limit"
GAF = "model.gradient_accumulation_fusion=true"


def p2p(*overrides: str) -> tuple[bool, bool]:
    fields = resolve(request_of(*overrides)).transformer_config
    return fields["overlap_p2p_comm"], fields["batch_p2p_comm"]


def test_derives_p2p_from_the_schedule() -> None:
    assert p2p() == (False, False)
    assert p2p(PP2) == (False, True)
    assert p2p(*INTERLEAVED) == (True, False)


def test_refuses_p2p_overlap_outside_the_interleaved_schedule() -> None:
    assert refusing(f"{OVERLAP}=true") == refusing(f"{OVERLAP}=true", PP2) == ["PP001"]
    assert refusing(f"{OVERLAP}=true", *INTERLEAVED) == []


def test_allows_plain_p2p_in_both_schedules() -> None:
    plain = (f"{OVERLAP}=false", f"{BATCH}=false")
    assert p2p(*plain, PP2) == p2p(*plain, *INTERLEAVED) == (False, False)


def test_refuses_batched_p2p_with_overlap_or_interleaving() -> None:
    assert refusing(f"{OVERLAP}=true", f"{BATCH}=true", *INTERLEAVED) == ["PP002"]
    assert refusing(f"{BATCH}=true", *INTERLEAVED) == ["PP002"]  # the overlap is derived
    assert refusing(f"{OVERLAP}=false", f"{BATCH}=true", *INTERLEAVED) == ["PP003"]
    assert refusing(f"{OVERLAP}=false", f"{BATCH}=true", PP2) == []


@pytest.mark.parametrize(("others", "rules"), [
    ((), ["PP004"]), ((PP2,), ["PP004"]), (INTERLEAVED, []), ((*INTERLEAVED, f"{OVERLAP}=false"), ["PP004"]),
    ((f"{OVERLAP}=true",), ["PP001"]),
])  # fmt: skip
def test_refuses_overlap_in_warm_up_without_overlap_in_between(others: tuple[str, ...], rules: list[str]) -> None:
    assert refusing(f"{FLUSH}=true", *others) == rules


def test_allows_deferring_the_embedding_gradient_in_a_pipeline_with_fused_accumulation() -> None:
    assert resolve(request_of(DEFER, PP2, GAF)).transformer_config["wgrad_deferral_limit"] == 0
    assert refusing(DEFER, GAF) == ["PP005"]
    assert refusing(DEFER, PP2) == ["PP006"]


@pytest.mark.parametrize(("limit", "rules"), [("0", []), ("22", []), ("-1", ["PP007"])])
def test_refuses_a_negative_deferral_limit(limit: str, rules: list[str]) -> None:
    assert refusing(DEFER, PP2, GAF, f"{LIMIT}={limit}") == rules


def test_refuses_a_deferral_beside_overlapped_gradient_reduction() -> None:
    dp2 = (DEFER, PP2, GAF, "parallelism.world_size=4")
    assert refusing(*dp2, "comm_overlap.dp.overlap_grad_reduce=true") == ["PP008"]
    assert refusing(*dp2, "comm_overlap.dp.overlap_grad_reduce=false") == []


def test_derives_no_gradient_reduce_overlap_beside_a_deferral() -> None:
    resolution = resolve(request_of(DEFER, PP2, GAF, "parallelism.world_size=4"))
    assert resolution.ddp_config["overlap_grad_reduce"] is False
    row = next(row for row in resolution.ledger if row.field == "comm_overlap.dp.overlap_grad_reduce")
    assert "PP008" in row.reason


def test_refuses_a_deferral_limit_without_the_deferral() -> None:
    assert refusing(f"{LIMIT}=22") == refusing(f"{LIMIT}=-1") == ["PP009"]
    assert refusing(f"{LIMIT}=0") == []
