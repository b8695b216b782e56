"""CFG: keys, types, choices, versions and ranges."""

from typing import Any

import pytest

from hydra_overlap import Finding, GatingError, resolve
from hydra_overlap.schema.fields import BELOW, CHOICES, DEFAULTS, FIELDS, LISTS, MINIMUM, MOST, VERSIONS
from tests.each import each
from tests.overrides import refusing
from tests.strategies import nest


def findings(request: Any) -> tuple[Finding, ...]:
    with pytest.raises(GatingError) as refusal:
        resolve(request)
    return refusal.value.findings


def test_nothing_said_is_a_legal_request() -> None:
    assert resolve({}).gating == "strict"


@pytest.mark.parametrize(("key", "meant"), [
    ("comm_overlap.dp.bucket_sise", "comm_overlap.dp.bucket_size"),
    ("model.hiden_size", "model.hidden_size"),
    ("model.bucket_size", "comm_overlap.dp.bucket_size"),
    ("parallelism.micro_batch_size", "training.micro_batch_size"),
    ("parallelism.tp", "parallelism.tensor_model_parallel_size"),
    ("paralelism", "parallelism"),
    ("comm_overlap.ddp", "comm_overlap.dp"),
])  # fmt: skip
def test_refuses_an_unknown_key_and_asks_whether_another_was_meant(key: str, meant: str) -> None:
    (finding,) = findings(nest({key: 4}))
    assert finding.rule == "CFG001"
    assert [fix.override for fix in finding.fixes] == [f"{meant}=4"]
    assert finding.fixes[0].effect.startswith(f"in place of {key}")


@pytest.mark.parametrize(
    "key", ["comm_overlap.tp.tp_comm_overlp", "userbuffers.layer", "model.moe_token_dispatcher_typ"]
)
def test_asks_whether_a_key_was_meant_but_gives_it_no_value_that_it_cannot_hold(key: str) -> None:
    (finding,) = findings(nest({key: 4}))
    assert f"Did you mean {key[:-3]}" in finding.why and finding.fixes == ()


@pytest.mark.parametrize(
    "said", ["ddp.num_buckets=4", "precision.fp6=e2m3", "ddp.overlap_size=4", "comm_overlap.dp.size=4"]
)
def test_carries_no_value_to_a_field_of_another_meaning(said: str) -> None:
    key, _, value = said.partition("=")
    (finding,) = findings(nest({key: int(value) if value.isdigit() else value}))
    assert (finding.rule, finding.fixes) == ("CFG001", ())


def test_says_what_a_number_that_nobody_sets_follows_from() -> None:
    (finding,) = findings({"ddp": {"num_buckets": 4}})
    assert finding.why.endswith(
        "It follows: the parameters of a rank / comm_overlap.dp.bucket_size, which counts parameters."
    )


@pytest.mark.parametrize(("value", "whole"), [(1e6, 1000000), ("8", 8), ("25M", 25000000), ("20_000_000", 20000000)])
def test_a_number_written_in_another_way_is_not_thrown_away(value: object, whole: int) -> None:
    (finding,) = findings({"comm_overlap": {"dp": {"bucket_size": value}}})
    assert [fix.override for fix in finding.fixes] == [f"comm_overlap.dp.bucket_size={whole}"]


def test_names_the_known_keys_where_nothing_is_near() -> None:
    (finding,) = findings({"comm_overlap": {"dp": {"zzz": 1}}})
    assert "bucket_size" in finding.why
    assert finding.fixes == ()


@pytest.mark.parametrize("value", [True, "4", 4.0, [4], {"a": 1}])
def test_refuses_a_bucket_size_that_is_no_whole_number(value: Any) -> None:
    (finding,) = findings({"comm_overlap": {"dp": {"bucket_size": value}}})
    assert finding.rule == "CFG002"
    assert "parameters" in finding.why


@pytest.mark.parametrize("value", ["true", 1, 0, "yes", None])
def test_refuses_a_flag_that_is_no_boolean(value: Any) -> None:
    assert findings({"parallelism": {"sequence_parallel": value}})[0].rule == "CFG002"


def test_refuses_null_only_where_null_means_nothing() -> None:
    assert findings({"parallelism": {"tensor_model_parallel_size": None}})[0].rule == "CFG002"
    assert resolve({"parallelism": {"virtual_pipeline_model_parallel_size": None}}).env


def test_an_integer_is_a_number_and_a_boolean_is_none() -> None:
    assert resolve({"optimizer": {"lr": 1}}).request["optimizer"]["lr"] == 1
    assert findings({"optimizer": {"lr": True}})[0].rule == "CFG002"


@pytest.mark.parametrize("node", ["comm_overlap", "model", "parallelism", "userbuffers"])
def test_refuses_a_text_in_place_of_a_group(node: str) -> None:
    assert findings({node: "tp4_h100"})[0].rule == "CFG002"


def test_only_userbuffers_may_be_null_as_a_whole() -> None:
    assert resolve({"userbuffers": None}).userbuffers is None
    assert findings({"model": None})[0].rule == "CFG002"


@pytest.mark.parametrize("key", CHOICES)
def test_refuses_a_choice_that_does_not_exist_and_lists_those_that_do(key: str) -> None:
    (finding,) = findings(nest({key: "nonsense"}))
    assert finding.rule == "CFG003"
    assert [fix.override for fix in finding.fixes] == [f"{key}={choice}" for choice in CHOICES[key]]


def test_marks_the_choice_that_was_meant() -> None:
    (finding,) = findings({"model": {"moe_token_dispatcher_type": "all2all"}})
    assert [fix.override for fix in finding.fixes if fix.effect] == ["model.moe_token_dispatcher_type=alltoall"]


@pytest.mark.parametrize("key", VERSIONS)
def test_refuses_a_version_that_is_none_and_explains_auto(key: str) -> None:
    assert refusing(f"{key}=newest") == ["CFG004"]
    (finding,) = findings(nest({key: "auto"}))
    assert "filled in when Hydra composes" in finding.why


def test_refuses_a_platform_that_nobody_has_read() -> None:
    (finding,) = findings({"platform": {"name": "auto"}})
    assert finding.rule == "CFG003"
    assert "filled in when Hydra composes" in finding.why


@each("key", MINIMUM)
def test_refuses_every_size_below_its_minimum_and_allows_its_default(key: str) -> None:
    below = MINIMUM[key] - 1 if MINIMUM[key] else -1
    (finding,) = findings(nest({key: [below] if FIELDS[key].listed else below}))
    assert finding.rule == "CFG005"
    default = DEFAULTS[key]
    assert default in (None, []) or default >= MINIMUM[key]


def test_says_every_wrong_value_at_once_but_judges_no_further() -> None:
    request = {"nonsense": 1, "comm_overlap": {"tp": {"tp_comm_overlap": True}, "dp": {"bucket_size": "x"}}}
    assert [finding.rule for finding in findings(request)] == ["CFG001", "CFG002"]


def test_a_where_line_names_key_and_value() -> None:
    (finding,) = findings({"comm_overlap": {"dp": {"bucket_size": True}}})
    assert [str(place) for place in finding.where] == ["comm_overlap.dp.bucket_size=true"]


@pytest.mark.parametrize("key", LISTS)
def test_refuses_a_list_with_a_name_that_does_not_exist(key: str) -> None:
    (finding,) = findings(nest({key: [LISTS[key][0], "nonsense"]}))
    assert finding.rule == "CFG003"
    assert finding.fixes[0].override == f"{key}=[{LISTS[key][0]}]"


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=inf", "optimizer.lr=nan", "model.hidden_dropout=1", "optimizer.adam_beta1=1.5", "training.seed=-1"],
)
def test_refuses_numbers_no_run_could_use(override: str) -> None:
    assert refusing(override) == ["CFG005"]


@each("key", MOST)
def test_refuses_every_number_above_its_ceiling_with_the_reason(key: str) -> None:
    above = MOST[key].most * 2 if isinstance(MOST[key].most, float) else MOST[key].most + 1
    listed = FIELDS[key].listed
    for value in (above, 10**29 if FIELDS[key].kind is not float else 1e300):
        (finding,) = findings(nest({key: [8, value] if listed else value}))
        assert finding.rule == "CFG005"
        assert MOST[key].why in finding.why or key in BELOW


@each("key", [key for key, field in FIELDS.items() if field.kind is str and field.optional])
def test_refuses_an_empty_text_where_null_says_that_there_is_none(key: str) -> None:
    for text in ("", "  "):
        assert {finding.rule for finding in findings(nest({key: text}))} <= {"CFG002"}
        assert not FIELDS[key].allows(text)


@each("value", [10**5000, -(10**5000), 1e400, float("nan")])
def test_a_number_beyond_all_bounds_is_told_in_a_sentence(value: float) -> None:
    for key in ("model.num_layers", "optimizer.lr", "training.seed", "checkpoint.save", "training.rampup_batch_size"):
        for given in (value, [value]):
            assert len(str(GatingError(findings(nest({key: given}))))) < 2000


def test_adams_epsilon_is_not_zero_in_32_bits() -> None:
    assert refusing("optimizer.adam_eps=0") == refusing("optimizer.adam_eps=1e-40") == ["CFG005"]
    assert refusing("optimizer.adam_eps=1e-15") == []


def test_a_release_of_the_largest_models_is_far_below_every_ceiling() -> None:
    large = {
        "parallelism.world_size": 131072, "parallelism.tensor_model_parallel_size": 8, "model.num_layers": 1000, "model.hidden_size": 65536,
        "model.ffn_hidden_size": 4 * 65536, "model.num_attention_heads": 512, "model.seq_length": 10_000_000, "model.vocab_size": 1_000_000,
        "training.train_iters": 10_000_000, "launch.distributed_timeout_minutes": 1440.0, "comm_overlap.dp.bucket_size": 10**12,
    }  # fmt: skip
    assert resolve(nest(large)).request["model"]["num_layers"] == 1000
