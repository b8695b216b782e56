"""hydra_overlap/dotted.py: nested mappings by dotted key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_overlap import dotted

NAMES = st.text(st.characters(codec="ascii", exclude_characters=".") | st.sampled_from("é漢"), min_size=1, max_size=2)
LEAVES = st.none() | st.integers() | st.lists(st.integers(), max_size=2) | st.just({})
TREES = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda node: st.dictionaries(NAMES, node, min_size=1, max_size=3), max_leaves=6),
    max_size=3,
)


@given(TREES)
def test_nested_is_the_opposite_of_flatten(tree):
    assert dotted.nested(dotted.flatten(tree)) == tree


@given(TREES)
def test_every_key_of_flatten_is_read_by_get(tree):
    assert {key: dotted.get(tree, key) for key in dotted.flatten(tree)} == dotted.flatten(tree)


def test_flatten_begins_with_the_key_of_the_tree_and_leaves_whole_what_is_named():
    tree = {"a": {"b": {"c": 1}}, "d": {"e": 2}}
    assert dotted.flatten(tree, "top", whole=("top.a.b",)) == {"top.a.b": {"c": 1}, "top.d.e": 2}


def test_get_gives_the_default_where_nothing_stands_or_a_value_stands_in_the_way():
    tree = {"a": {"b": None}, "c": 3}
    assert dotted.get(tree, "a.b", "default") is None
    assert [dotted.get(tree, key, "default") for key in ("a.x", "c.x", "x.y", "a.b.c")] == ["default"] * 4
    assert dotted.get(tree, "") is tree


def test_put_makes_the_way_and_refuses_to_go_through_a_value():
    tree = {"a": 1}
    dotted.put(tree, "b.c.d", 2)
    dotted.put(tree, "b.c.e", 3)
    assert tree == {"a": 1, "b": {"c": {"d": 2, "e": 3}}}
    with pytest.raises(TypeError, match=r"a\.b stands below a, which is 1"):
        dotted.put(tree, "a.b", 4)
    assert tree["a"] == 1


def test_indexes_are_parts_of_a_key():
    assert dotted.parts("a.b[0][1].c") == ["a", "b", "0", "1", "c"]
