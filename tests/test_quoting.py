"""A value in the text of another language stays where it was put; bash, Python and YAML read the texts themselves."""

import ast
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hydra_overlap import quoting
from hydra_overlap.findings import visible
from tests import hostile
from tests.each import each

TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(hostile.ALL))
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def test_a_comment_runs_nothing_in_a_shell_whatever_it_says(tmp_path) -> None:
    assert hostile.bash(tmp_path, "".join(f"{quoting.comment(text)}\n" for text in hostile.ALL)) == b""


@given(text=TEXTS)
def test_a_comment_is_one_line_and_nothing_else_in_python_and_yaml(text: str) -> None:
    said = quoting.comment(text)
    assert said.splitlines() == [said] and said.isprintable()
    assert ast.parse(said).body == [] and yaml.safe_load(said) is None


def test_a_command_is_one_line_that_bash_reads_back_as_the_same_words(tmp_path) -> None:
    words = [text for text in hostile.ALL if text != hostile.NUL and "\ud800" not in text]  # no argument can hold these
    said = quoting.command(["printf", r"%s\0", *words])
    assert said.splitlines() == [said]
    assert [os.fsdecode(word) for word in hostile.bash(tmp_path, said).split(b"\0")] == [*words, ""]


def test_a_variable_of_a_shell_file_has_the_value_that_was_meant(tmp_path) -> None:
    lines = [quoting.shell_export("VALUE", text) + r"; printf '%s\n' " + '"$VALUE"' for text in hostile.ONE_LINE]
    assert hostile.bash(tmp_path, "\n".join(lines)).decode().split("\n") == [*hostile.ONE_LINE, ""]


@each("text", [*hostile.SEVERAL_LINES, hostile.NUL])
def test_a_variable_that_would_take_several_lines_of_a_shell_file_is_refused(text: str) -> None:
    with pytest.raises(quoting.UnwritableError):
        quoting.shell_export("VALUE", text)


@each("name", ["", "A B", "A;touch PWNED;B", "1A", "A\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(quoting.UnwritableError):
        quoting.shell_export(name, "1")
    with pytest.raises(quoting.UnwritableError):
        quoting.python_name(name)


@given(value=DATA)
def test_plain_data_in_python_is_that_data_in_ascii(value: object) -> None:
    said = quoting.python_literal(value)
    assert said.isascii() and said.splitlines() == [said] and ast.literal_eval(said) == value


def test_numbers_without_a_literal_are_written_and_objects_are_refused() -> None:
    assert quoting.python_literal([float("inf"), float("nan")]) == "[float('inf'), float('nan')]"
    with pytest.raises(quoting.UnwritableError):
        quoting.python_literal({"a": object()})


@given(text=TEXTS)
def test_what_is_shown_is_one_line_of_characters_that_can_be_seen(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text) == text or not text.isprintable()
