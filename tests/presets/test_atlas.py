"""The atlas: every published preset is here, value for value, and says what it was tuned for and who refuses it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from hydra_overlap import option_files
from hydra_overlap.presets import catalogue
from hydra_overlap.resolver.normalise import normalise
from hydra_overlap.rules.ub import UB201
from tests.each import each
from tests.overrides import errors_of

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"
PUBLISHED = json.loads((REFERENCE / "userbuffers_presets.json").read_text())["presets"]
TE = json.loads((REFERENCE / "userbuffers_te_calls.json").read_text())
BRIDGE = json.loads((REFERENCE / "bridge_userbuffers_presets.json").read_text())["presets"]
DOCS = (ROOT / "docs" / "presets.md").read_text()
NAMES = [one.name for one in catalogue.catalogue()]
PUBLISHED_AS = {name: entry for entry in PUBLISHED for name in entry["options"]}

SWITCHES = ("set_sm_margin", "aggregate", "fp8_buf", "atomic_gemm")  # bool in Transformer Engine, 0 and 1 in YAML files
ENVIRONMENT = re.compile(r"\$\{oc\.decode:\$\{oc\.env:\w+,(?P<default>[^}]*)\}")

# Two values that OmegaConf cannot read: a brace too few, a dollar too many. Meant, and here: the default they name.
BROKEN = {
    ("mlperf41_gpt3_b200_tp8_mbs1", "proj_fprop", "atomic_gemm"): "${oc.decode:${oc.env:TE_UB_ATOMIC_GEMM_RS_PROJ,0}",
    ("mlperf51_llama31_405b_h100_tp4_mbs1", "fc2_fprop", "fp8_buf"): "${oc.decode:${oc.env:FC2_FPROP_FP8_BUF,0}}$",
}


def meant(argument: str, value: Any) -> Any:
    """What a published value means: the environment's default, the `false` of (False,), a boolean for 0 and 1."""
    if value == "tuple-default":
        return False
    if isinstance(value, str) and (found := ENVIRONMENT.match(value)):
        default = found["default"]
        value = {"False": False, "True": True}.get(default, int(default) if default.isdigit() else default)
    if argument in SWITCHES:
        assert value in (0, 1), value
        return bool(value)
    return value


def test_every_published_preset_is_an_option_and_every_option_is_published() -> None:
    assert len(PUBLISHED) == 76
    assert all(entry["options"] for entry in PUBLISHED)
    assert sorted(PUBLISHED_AS) == NAMES
    assert sorted(set(option_files.options("userbuffers")) - set(NAMES)) == ["auto", "none"]


@each("name", NAMES)
def test_the_values_of_an_option_are_the_published_ones(name: str) -> None:
    """Type for type: json tells true from 1."""
    wanted = {
        gemm: {argument: meant(argument, value) for argument, value in entry.items()}
        for gemm, entry in PUBLISHED_AS[name]["layers"].items()
    }
    assert wanted
    assert json.dumps(catalogue.preset(name).layers, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def test_the_nineteen_of_megatron_bridge_bear_its_names_and_values() -> None:
    ours = {
        one.source.rpartition(" ")[2]: one.layers
        for one in catalogue.catalogue()
        if one.source.startswith("Megatron-Bridge")
    }
    assert len(ours) == 19
    assert json.dumps(ours, sort_keys=True) == json.dumps(BRIDGE, sort_keys=True)


def test_values_that_cannot_be_read_are_these_and_said_in_their_files() -> None:
    found = {
        (entry["options"][0], gemm, argument): value
        for entry in PUBLISHED
        for gemm, arguments in entry["layers"].items()
        for argument, value in arguments.items()
        if isinstance(value, str) and (value.count("{") != value.count("}") or value.endswith("$"))
    }
    assert found == BROKEN
    for (first, _, _), value in BROKEN.items():
        for name in PUBLISHED_AS[first]["options"]:
            assert any(value in remark for remark in catalogue.preset(name).remarks)
        assert first in DOCS


@each("name", NAMES)
def test_a_value_that_upstream_reads_from_the_environment_is_said_to_be_the_default(name: str) -> None:
    variables = PUBLISHED_AS[name].get("env_overrides") or []
    said = [remark for remark in catalogue.preset(name).remarks if remark.startswith("environment: ")]
    assert len(said) == bool(variables)
    assert all(variable in said[0] for variable in variables)


@each("name", NAMES)
def test_a_preset_is_tuned_for_what_its_name_says(name: str) -> None:
    tuned = catalogue.preset(name).tuned_for
    said = {
        "gpu": re.search(r"(?:^|_)(a100|h100|b100|b200|gb200)_", name),
        "hidden_size": re.search(r"_h(\d{4,5})_", name),
        "tp": re.search(r"_tp(\d+)", name),
        "cp": re.search(r"_cp(\d+)", name),
        "mbs": re.search(r"_mbs(\d+)", name),
        "seq_length": re.search(r"_seq(\d+)", name),
        "precision": re.search(r"(?:^|_)(bf16|fp8)_", name),
    }
    for dimension, found in said.items():
        if found is not None:
            assert str(tuned[dimension]) == found[1], dimension
    assert set(tuned) == set(catalogue.DIMENSIONS)
    assert tuned["gpu"] is not None or name.endswith("vendored")


@each("name", NAMES)
def test_a_preset_says_where_it_is_from_and_whether_it_was_tuned_or_copied(name: str) -> None:
    one = catalogue.preset(name)
    kinds = [remark.partition(":")[0] for remark in one.remarks]
    assert kinds.count("tuned") + kinds.count("copied") == 1
    assert kinds.count("transformer-engine") == 1
    entry = PUBLISHED_AS[name]
    others = [*entry.get("also", []), *entry.get("other_names", [])]
    also = " ".join(remark for remark in one.remarks if remark.startswith("also: "))
    own = f"userbuffers_{name.replace('_seq', '_seqlen')}"
    assert [other for other in others if other not in also and other != own] == []


# what Transformer Engine and our rules say


@each("name", NAMES)
def test_an_option_names_the_precisions_in_which_transformer_engine_takes_it(name: str) -> None:
    said = next(remark for remark in catalogue.preset(name).remarks if remark.startswith("transformer-engine: "))
    row = TE["presets"][PUBLISHED_AS[name]["name"]]
    assert isinstance(row["FP8"], int)  # in FP8 all of them
    assert ("FP8 alone" in said) == isinstance(row["NONE"], str)
    if isinstance(row["NONE"], int):
        assert ("not in FP8 beside bf16" in said) == isinstance(row["FP8+NONE"], str)


def refused_by(name: str) -> tuple[str, ...]:
    return catalogue.preset(name).refusals()


@each("name", NAMES)
def test_a_preset_is_accepted_on_its_own_shape_or_refused_as_documented(name: str) -> None:
    """The list in docs/presets.md is the documentation; a rule that changes its mind changes it."""
    documented = re.search(rf"^\| `{name}` \| (?P<rules>[^|]+) \|", DOCS, re.MULTILINE)
    assert ", ".join(refused_by(name)) == (documented["rules"].strip() if documented else "")


@each("name", [name for name in NAMES if not refused_by(name)])
def test_no_other_rule_refuses_the_plan_a_preset_was_tuned_for(name: str) -> None:
    assert errors_of(catalogue.preset(name).plan()) == ()


# distance


HERE = {
    "gpu": "h100", "hidden_size": 8192, "tp": 4, "cp": 1, "mbs": 1, "seq_length": 8192, "precision": "bf16",
}  # fmt: skip
MATCHING = catalogue.preset("bf16_h100_h8192_tp4_mbs1_seq8192")


def test_the_preset_of_a_shape_is_at_no_distance() -> None:
    assert catalogue.distance(MATCHING, HERE) == 0
    assert catalogue.nearest(HERE)[0].preset == MATCHING


@pytest.mark.parametrize(
    ("changed", "cost", "said"),
    [
        ({"gpu": "h200"}, 1.0, "gpu h100, here h200"),
        ({"gpu": "gb200"}, 4.0, "gpu h100, here gb200"),
        ({"hidden_size": 4096}, 1.0, "hidden_size 8192, here 4096"),
        ({"cp": 2}, 1.0, "cp 1, here 2"),
        ({"mbs": 4}, 2.0, "mbs 1, here 4"),
        ({"seq_length": 65536}, 3.0, "seq_length 8192, here 65536"),
        ({"precision": "fp8"}, 2.0, "precision bf16, here fp8"),
        ({"tp": 8}, math.inf, "tp 4, here 8"),
    ],
)
def test_each_dimension_has_its_cost_and_says_both_values(changed: dict[str, Any], cost: float, said: str) -> None:
    here = {**HERE, **changed}
    assert catalogue.distance(MATCHING, here) == cost
    assert list(map(str, catalogue.differences(MATCHING.tuned_for, here))) == [said]


def test_a_dimension_that_a_preset_does_not_say_costs_little_and_one_the_plan_does_not_say_nothing() -> None:
    unsaid = {**MATCHING.tuned_for, "precision": None}
    assert [difference.cost for difference in catalogue.differences(unsaid, HERE)] == [catalogue.UNSAID]
    assert catalogue.differences(MATCHING.tuned_for, {**HERE, "precision": None, "gpu": None}) == ()


@each("name", NAMES)
def test_the_differences_are_those_of_the_note_on_a_preset_off_its_shape(name: str) -> None:
    """UB201, where both sides say something; TP is UB001's."""
    one = catalogue.preset(name)
    request = {**MATCHING.plan(), "platform": {"name": "h100"}, "userbuffers": one.node()}
    here = catalogue.shape_of(request)
    found = [
        str(difference)
        for difference in catalogue.differences(one.tuned_for, here)
        if difference.tuned is not None and difference.dimension != "tp"
    ]
    assert found == UB201.differences(normalise(request, lambda key: ""))


def test_lora_presets_are_offered_only_for_lora() -> None:
    assert not any("lora" in candidate.preset.name for candidate in catalogue.nearest(HERE))
    assert all("lora" in candidate.preset.name for candidate in catalogue.nearest(HERE, lora=True))


def test_an_unknown_preset_names_a_near_one() -> None:
    with pytest.raises(catalogue.UnknownPresetError, match="did you mean bf16_h100_h8192_tp4_mbs1_seq8192"):
        catalogue.preset("bf16_h100_h8192_tp4_mbs1_seq8129")
