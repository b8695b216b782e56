"""Spans of time against a timeline that is filled nanosecond by nanosecond."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_overlap.trace.intervals import Spans, tails, union

END = 60
PAIRS = st.lists(
    st.tuples(st.integers(0, END), st.integers(0, 25)).map(lambda one: (one[0], one[0] + one[1])), max_size=12
)
LATE = 10**18  # where traces stand: nanoseconds since 1970


def spans(pairs: list[tuple[int, int]]) -> Spans:
    table = np.array(pairs, np.int64).reshape(-1, 2) + LATE
    return union(table[:, 0], table[:, 1])


def filled(pairs: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in pairs for at in range(start, end)}


def said(found: Spans) -> set[int]:
    return {at - LATE for start, end in zip(found.starts, found.ends, strict=True) for at in range(start, end)}


@settings(max_examples=300)
@given(PAIRS)
def test_a_union_covers_what_its_spans_cover_in_pieces_that_do_not_touch(pairs: list[tuple[int, int]]) -> None:
    found = spans(pairs)
    assert said(found) == filled(pairs) and found.length == len(filled(pairs))
    assert (found.starts < found.ends).all() and (found.ends[:-1] < found.starts[1:]).all()


@settings(max_examples=300)
@given(PAIRS, PAIRS, st.integers(0, END), st.integers(0, END))
def test_what_is_shared_and_what_lies_within(
    one: list[tuple[int, int]], two: list[tuple[int, int]], start: int, end: int
) -> None:
    assert spans(one).shared_with(spans(two)) == len(filled(one) & filled(two))
    assert said(spans(one).within(LATE + start, LATE + end)) == {at for at in filled(one) if start <= at < end}


@settings(max_examples=300)
@given(PAIRS, PAIRS)
def test_tails_are_what_compute_waited_for(pairs: list[tuple[int, int]], computing: list[tuple[int, int]]) -> None:
    busy = filled(computing)
    expected = set()
    for start, end in pairs:
        if end > start and end - 1 not in busy and any(at >= end for at in busy):
            at = end - 1
            while at >= start and at not in busy:
                expected.add(at)
                at -= 1
    table = np.array(pairs, np.int64).reshape(-1, 2) + LATE
    assert said(tails(table[:, 0], table[:, 1], spans(computing))) == expected
