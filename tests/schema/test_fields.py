"""What a field may hold is said once, and every reader says the same of a value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_overlap import GatingError
from hydra_overlap.resolver.normalise import normalise
from hydra_overlap.schema import nodes
from hydra_overlap.schema.fields import CHOICES, FIELDS, LISTS
from hydra_overlap.schema.keys import GPU
from tests.strategies import nest

SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(allow_nan=True) | st.sampled_from(["2.11.0", "auto", "h100"])
)  # fmt: skip
NAMES = st.sampled_from(sorted({name for known in (*CHOICES.values(), *LISTS.values()) for name in known}))


def _taken(key: str, value: object) -> bool:
    try:
        normalise(nest({key: value}), lambda key: "")
    except GatingError:
        return False
    return True


@given(key=st.sampled_from(sorted(FIELDS)), value=SCALARS | NAMES | st.lists(NAMES | st.integers(0, 2), max_size=2))
def test_a_field_allows_a_value_just_where_no_cfg_rule_refuses_it(key: str, value: object) -> None:
    assert FIELDS[key].allows(value) == _taken(key, value) or (key, value) == (GPU, "auto"), (key, value)


def test_every_default_is_allowed() -> None:
    assert [key for key, field in FIELDS.items() if not field.allows(field.default)] == []


@pytest.mark.parametrize(("key", "words"), [
    ("model.cp_comm_type", "one of p2p, all_gather, a2a, a2a+p2p, or null"),
    ("launch.loggers", "a list of tensorboard, wandb, mlflow"),
    ("model.hidden_dropout", "a number, at least 0, below 1"),
    ("parallelism.world_size", "a whole number, at least 1, at most 1,048,576, or null"),
    ("software.torch", "a version such as 2.11.0, or null"),
    ("ddp.nccl_ub", "true or false"),
])  # fmt: skip
def test_what_a_field_wants_is_said_in_words(key: str, words: str) -> None:
    assert FIELDS[key].wanted() == words


def test_a_list_by_default_is_nobody_elses() -> None:
    one, other = nodes.Launch(), nodes.Launch()
    one.loggers.append("wandb")
    assert other.loggers == ["tensorboard"] == FIELDS["launch.loggers"].default


def test_no_number_is_infinite() -> None:
    assert not FIELDS["optimizer.lr"].allows(math.inf)
