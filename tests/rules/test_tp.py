"""TP: edges of tensor-parallel overlap and the nearest legal neighbours."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, request_of

ON = "comm_overlap.tp.tp_comm_overlap=true"
TP2 = ("parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true")
TE = "software.transformer_engine=2.11.0"
LEGAL = (ON, *TP2, TE)


def test_allows_tp_overlap_where_everything_it_needs_is_there() -> None:
    resolution = resolve(request_of(*LEGAL))
    assert resolution.transformer_config["tp_comm_overlap"] is True
    assert resolution.userbuffers is None  # Transformer Engine's defaults


def test_refuses_tp_overlap_with_one_tensor_parallel_rank_and_says_nothing_of_what_follows() -> None:
    assert refusing(ON) == ["TP001"]


def test_refuses_tp_overlap_without_sequence_parallelism() -> None:
    assert refusing(ON, TP2[0], TE) == ["TP002"]


def test_refuses_tp_overlap_without_transformer_engine() -> None:
    assert refusing(ON, *TP2) == ["TP003"]
    assert refusing(ON, *TP2, "software.transformer_engine=null", "platform=h100") == ["TP003"]


def test_says_every_thing_that_is_missing_at_once() -> None:
    assert refusing(ON, TP2[0], "platform=cpu") == ["TP002", "TP003", "TP004"]


def test_refuses_tp_overlap_in_a_plan_for_no_gpu() -> None:
    assert refusing(*LEGAL, "platform=cpu") == ["TP004"]
    assert refusing(*LEGAL, "platform=h100") == []


@pytest.mark.parametrize("part", ["ag", "rs", "rs_dgrad"])
def test_refuses_a_part_of_an_overlap_that_is_off(part: str) -> None:
    assert refusing(f"comm_overlap.tp.tp_comm_overlap_{part}=true") == ["TP005"]
    assert refusing(f"comm_overlap.tp.tp_comm_overlap_{part}=false") == []
    assert refusing(f"comm_overlap.tp.tp_comm_overlap_{part}=true", *LEGAL) == []


def test_parts_that_are_not_said_are_megatron_cores_defaults_and_off_with_the_overlap() -> None:
    parts = (
        "tp_comm_overlap_ag",
        "tp_comm_overlap_rs",
        "tp_comm_overlap_rs_dgrad",
        "tp_comm_bulk_dgrad",
        "tp_comm_bulk_wgrad",
    )
    on, off = resolve(request_of(*LEGAL)).transformer_config, resolve({}).transformer_config
    assert [on[part] for part in parts] == [True, True, False, True, True]
    assert not any(off[part] for part in parts)


EXPERTS = (
    "model.num_moe_experts=4", "parallelism.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall",
    "precision.bf16=true", "software.torch=2.11.0", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true",
    "comm_overlap.ep.delay_wgrad_compute=true",
)  # fmt: skip


def test_refuses_bulk_wgrad_overlap_of_a_weight_gradient_that_is_delayed() -> None:
    assert refusing(*LEGAL, *EXPERTS, "comm_overlap.tp.tp_comm_bulk_wgrad=true") == ["TP006"]
    assert refusing(*LEGAL, *EXPERTS, "comm_overlap.tp.tp_comm_bulk_wgrad=false") == []


def test_derives_bulk_wgrad_off_where_the_weight_gradient_is_delayed_and_says_why() -> None:
    resolution = resolve(request_of(*LEGAL, *EXPERTS))
    assert resolution.transformer_config["tp_comm_bulk_wgrad"] is False
    row = next(row for row in resolution.ledger if row.field == "comm_overlap.tp.tp_comm_bulk_wgrad")
    assert "TP006" in row.reason


@pytest.mark.parametrize(("domain", "rules"), [("null", []), ("2", []), ("1", ["TP007"])])
def test_refuses_tp_overlap_beyond_the_nvlink_domain(domain: str, rules: list[str]) -> None:
    assert refusing(*LEGAL, f"platform.nvlink_domain_size={domain}") == rules


def test_refuses_tp16_on_h100_and_allows_it_on_gb200() -> None:
    tp16 = (ON, "parallelism.tensor_model_parallel_size=16", "parallelism.sequence_parallel=true", TE)
    assert refusing(*tp16, "platform=h100") == ["TP007"]
    assert refusing(*tp16, "platform=gb200") == []


def test_a_bootstrap_backend_of_null_is_derived() -> None:
    resolution = resolve({"comm_overlap": {"tp": {"tp_comm_bootstrap_backend": None}}})
    assert resolution.transformer_config["tp_comm_bootstrap_backend"] == "nccl"
