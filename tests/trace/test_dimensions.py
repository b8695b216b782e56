"""Process groups of megatron-core by their descriptions."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from hydra_overlap.trace.dimensions import NONE, ORDER, ROWS, dimension
from hydra_overlap.trace.kernels import GATHER, P2P, REDUCE, SCATTER


@pytest.mark.parametrize(
    ("description", "operation", "expected"),
    [
        ("TENSOR_MODEL_PARALLEL_GROUP", GATHER, "TP"),
        ("DATA_PARALLEL_GROUP_WITH_CP", SCATTER, "DP reduce"),
        ("DATA_PARALLEL_GROUP_WITH_CP_AG", GATHER, "DP gather"),
        ("INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP", REDUCE, "DP reduce"),
        ("EXPERT_DATA_PARALLEL_GROUP", SCATTER, "DP reduce"),
        ("EXPERT_MODEL_PARALLEL_GROUP", "all-to-all", "EP"),
        ("HIERARCHICAL_CONTEXT_PARALLEL_GROUPS_L0", P2P, "CP"),
        ("default_pg", REDUCE, "other"),
        ("default_pg", P2P, "PP"),  # one direction between two stages
        ("mine", REDUCE, NONE),
        ("", REDUCE, NONE),
    ],
)
def test_a_group_is_of_a_dimension(description: str, operation: str, expected: str) -> None:
    assert dimension(description, operation) == expected


def test_every_group_that_megatron_core_makes_is_known() -> None:
    core = find_spec("megatron.core")
    if core is None or core.origin is None:
        pytest.skip("megatron-core is not installed")
    text = Path(core.origin).with_name("parallel_state.py").read_text()
    described = {
        found.replace("{group_desc}", "CONTEXT_PARALLEL_GROUPS")
        for found in re.findall(r'group_desc=f?"(\w[^"]*)"', text)
    }
    assert len(described) > 15
    assert {one for one in described if dimension(re.sub(r"\{\w+\}", "0", one), "") == NONE} == set()


def test_every_dimension_has_its_place_in_the_table() -> None:
    assert {name for _, name in ROWS} <= set(ORDER)
