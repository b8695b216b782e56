"""TP: edges of tensor-parallel overlap and the nearest legal neighbours."""

import pytest

from hydra_overlap import resolve
from tests.overrides import refusing, remarks, request_of

ON = "comm_overlap.tp.tp_comm_overlap=true"
TP2 = ("parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true")
TE = "software.transformer_engine=2.11.0"
BF16 = "precision.bf16=true"
LEGAL = (ON, *TP2, TE, BF16)


def test_allows_tp_overlap_where_everything_it_needs_is_there() -> None:
    resolution = resolve(request_of(*LEGAL))
    assert resolution.transformer_config["tp_comm_overlap"] is True
    assert resolution.userbuffers is None  # Transformer Engine's defaults


def test_refuses_tp_overlap_with_one_tensor_parallel_rank_and_says_nothing_of_what_follows() -> None:
    assert refusing(ON) == ["TP001"]


def test_refuses_tp_overlap_without_sequence_parallelism() -> None:
    assert refusing(ON, TP2[0], TE, BF16) == ["TP002"]


def test_refuses_tp_overlap_without_transformer_engine() -> None:
    assert refusing(ON, *TP2, BF16) == ["TP003"]
    assert refusing(ON, *TP2, BF16, "software.transformer_engine=null", "platform=h100") == ["TP003"]


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
    "software.torch=2.11.0", "comm_overlap.ep.overlap_moe_expert_parallel_comm=true",
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
    tp16 = (ON, "parallelism.tensor_model_parallel_size=16", "parallelism.sequence_parallel=true", TE, BF16)
    assert refusing(*tp16, "platform=h100") == ["TP007"]
    assert refusing(*tp16, "platform=gb200") == []


def test_a_bootstrap_backend_of_null_is_derived() -> None:
    resolution = resolve({"comm_overlap": {"tp": {"tp_comm_bootstrap_backend": None}}})
    assert resolution.transformer_config["tp_comm_bootstrap_backend"] == "nccl"


@pytest.mark.parametrize(("version", "rules"), [("2.7.0", ["TP008"]), ("2.8.0", []), ("2.20.2", [])])
def test_refuses_a_transformer_engine_without_quantization_modes(version: str, rules: list[str]) -> None:
    assert refusing(ON, *TP2, BF16, f"software.transformer_engine={version}") == rules


@pytest.mark.parametrize(("formats", "rules"), [
    (["precision.bf16=true"], []),
    (["precision.bf16=true", "precision.fp8=hybrid"], []),
    (["precision.fp16=true"], ["TP009"]),
    (["precision.bf16=false", "model.hidden_size=128", "model.seq_length=128"], ["TP009"]),
    (["precision.bf16=true", "model.hidden_size=128", "model.seq_length=128"], []),
    (["precision.bf16=false", "model.hidden_size=128"], []),  # part of a program that says the rest elsewhere
])  # fmt: skip
def test_refuses_userbuffers_of_numbers_that_are_not_bf16(formats: list[str], rules: list[str]) -> None:
    assert refusing(ON, *TP2, TE, *formats) == rules


@pytest.mark.parametrize(("ranks", "rules"), [(2, []), (3, ["TP010"]), (6, ["TP010"]), (16, []), (64, ["TP010"])])
def test_refuses_numbers_of_ranks_that_no_kernel_is_made_for(ranks: int, rules: list[str]) -> None:
    layout = (f"parallelism.tensor_model_parallel_size={ranks}", "parallelism.sequence_parallel=true")
    assert refusing(ON, *layout, TE, BF16) == rules


@pytest.mark.parametrize(("model", "rules"), [
    ("multi_latent_attention=true", ["TP011"]), ("multi_latent_attention=false", []),
    ("mtp_num_layers=1", ["TP012"]), ("mtp_num_layers=0", []), ("mtp_num_layers=null", []),
    ("variable_seq_lengths=true", ["TP013"]), ("variable_seq_lengths=false", []),
])  # fmt: skip
def test_refuses_models_in_which_megatron_core_switches_the_overlap_off(model: str, rules: list[str]) -> None:
    assert refusing(*LEGAL, f"model.{model}") == rules
    assert refusing(f"model.{model}") == []


@pytest.mark.parametrize(("recipe", "rules"), [
    ("null", []), ("delayed", []), ("tensorwise", []), ("mxfp8", []), ("blockwise", ["TP014"]),
])  # fmt: skip
def test_refuses_fp8_recipes_that_userbuffers_cannot_gather(recipe: str, rules: list[str]) -> None:
    assert refusing(*LEGAL, "precision.fp8=e4m3", f"precision.fp8_recipe={recipe}") == rules
    assert refusing(*LEGAL, f"precision.fp8_recipe={recipe}") == []  # no FP8, no recipe
    assert refusing("precision.fp8=e4m3", f"precision.fp8_recipe={recipe}") == []


@pytest.mark.parametrize(("shape", "rules"), [
    (["model.seq_length=256"], []), (["model.seq_length=128"], ["TP015"]),
    (["model.seq_length=128", "training.micro_batch_size=2"], []),
    (["model.seq_length=256", "parallelism.context_parallel_size=2"], ["TP015"]),
    (["model.hidden_size=192"], ["TP015"]), (["model.hidden_size=256"], []),
])  # fmt: skip
def test_refuses_mxfp8_chunks_that_are_not_whole_tiles(shape: list[str], rules: list[str]) -> None:
    mxfp8 = ("precision.fp8=e4m3", "precision.fp8_recipe=mxfp8")
    assert refusing(*LEGAL, *mxfp8, *shape) == rules
    assert refusing(*LEGAL, *shape) == []  # bf16


PART = "comm_overlap.tp.tp_comm_"
NOTHING = [f"{PART}{name}=false" for name in ("overlap_ag", "overlap_rs", "bulk_dgrad", "bulk_wgrad")]


def test_refuses_tp_overlap_with_every_part_off() -> None:
    assert refusing(*LEGAL, *NOTHING) == ["TP016"]
    for index in range(len(NOTHING)):
        assert refusing(*LEGAL, *NOTHING[:index], *NOTHING[index + 1 :]) == []


@pytest.mark.parametrize("bulk", ["bulk_dgrad", "bulk_wgrad"])
def test_refuses_a_bulk_overlap_beside_the_dgrad_reduce_scatter_that_replaces_it(bulk: str) -> None:
    rs_dgrad = (*LEGAL, f"{PART}overlap_rs_dgrad=true")
    assert refusing(*rs_dgrad, f"{PART}{bulk}=true") == ["TP017"]
    assert refusing(*rs_dgrad, f"{PART}{bulk}=true", f"{PART}overlap_disable_qkv=true") == []  # qkv keeps it
    assert refusing(*rs_dgrad, f"{PART}{bulk}=false") == []


def test_refuses_a_dgrad_reduce_scatter_that_no_layer_has() -> None:
    disabled = [f"{PART}overlap_disable_{layer}=true" for layer in ("qkv", "fc1")]
    assert refusing(*LEGAL, f"{PART}overlap_rs_dgrad=true", *disabled) == ["TP018"]
    assert refusing(*LEGAL, f"{PART}overlap_rs_dgrad=true", disabled[0]) == []
    assert refusing(*LEGAL, *disabled) == []
    experts = ("model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall", f"{PART}overlap_rs_dgrad=true")
    shared = "model.moe_shared_expert_intermediate_size=64"
    assert refusing(*LEGAL, *experts, disabled[0]) == ["TP018"]  # no fc1 that userbuffers know
    assert refusing(*LEGAL, *experts, shared, disabled[0]) == refusing(*LEGAL, *experts) == []


def test_the_dgrad_reduce_scatter_derives_the_bulk_overlaps_off_and_says_why() -> None:
    resolution = resolve(request_of(*LEGAL, f"{PART}overlap_rs_dgrad=true"))
    for name in ("tp_comm_bulk_dgrad", "tp_comm_bulk_wgrad"):
        assert resolution.transformer_config[name] is False
        assert "TP017" in next(row.reason for row in resolution.ledger if row.field == f"comm_overlap.tp.{name}")


SYMMETRIC = ("model.symmetric_ar_type=one_shot", TP2[0])
NEW = ("software.torch=2.7.0", TE)


def test_refuses_symmetric_all_reduce_where_it_is_missing_or_idle() -> None:
    assert refusing(*SYMMETRIC, *NEW) == []
    assert refusing(*SYMMETRIC, "software.torch=2.6.0", TE) == ["TP019"]
    assert refusing(*SYMMETRIC, "software.torch=2.7.0") == ["TP019"]
    assert refusing(*SYMMETRIC, TP2[1], *NEW) == ["TP020"]
    assert refusing(SYMMETRIC[0], *NEW) == ["TP020"]


def test_notes_what_a_partial_disable_and_experts_leave_out() -> None:
    dictionary = "userbuffers.layers.qkv_fprop={method:ring_exchange}"
    assert remarks(*LEGAL, dictionary) == []
    assert remarks(*LEGAL, dictionary, f"{PART}overlap_disable_fc1=true") == ["TP201"]
    off = [f"{PART}bulk_dgrad=false", f"{PART}bulk_wgrad=false"]
    assert remarks(*LEGAL, dictionary, f"{PART}overlap_disable_fc1=true", *off) == []
    assert remarks(*LEGAL, dictionary, "model.num_moe_experts=4") == ["TP202"]
