"""The clock of the schedule picture, on orders of works written down here; recorded ones are in test_build.py."""

import pytest

from hydra_overlap import HydraOverlapError
from hydra_overlap.dry_run.collectives import Call, Work
from hydra_overlap.dry_run.timeline import summary, timeline, windows


def work(kind, microbatch, chunk=0, calls=()):
    return Work(kind={"F": "forward", "B": "backward"}[kind], chunk=chunk, microbatch=microbatch, calls=tuple(calls))


def one_forward_one_backward(stages, microbatches):
    """1F1B as Narayanan et al. 2021 draw it: warm-up, pairs, the rest."""
    orders = []
    for stage in range(stages):
        warm_up = min(stages - 1 - stage, microbatches)
        order = [work("F", number) for number in range(warm_up)]
        for number in range(microbatches - warm_up):
            order += [work("F", warm_up + number), work("B", number)]
        orders.append(order + [work("B", number) for number in range(microbatches - warm_up, microbatches)])
    return orders


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 3), (2, 2), (4, 8), (8, 64), (4, 1)])
def test_the_bubble_of_1f1b_is_stages_less_one_by_microbatches(stages, microbatches):
    line = timeline(one_forward_one_backward(stages, microbatches))
    assert line.bubble == pytest.approx((stages - 1) / microbatches)
    assert line.length == 3 * (microbatches + stages - 1)
    assert line.ideal == 3 * microbatches


def test_a_work_starts_when_its_stage_is_free_and_its_input_is_there():
    line = timeline(one_forward_one_backward(2, 2))
    starts = [[(slot.work.kind[0], slot.work.microbatch, slot.start) for slot in slots] for slots in line.slots]
    assert starts == [
        [("f", 0, 0), ("f", 1, 1), ("b", 0, 4), ("b", 1, 7)],
        [("f", 0, 1), ("b", 0, 2), ("f", 1, 4), ("b", 1, 5)],
    ]


def test_chunks_hand_over_from_the_last_stage_to_the_first():
    first = [work("F", 0), work("F", 0, chunk=1), work("B", 0, chunk=1), work("B", 0)]
    line = timeline([first, first])
    assert [slot.start for slot in line.slots[0]] == [0, 2, 6, 10]
    assert [slot.start for slot in line.slots[1]] == [1, 3, 4, 8]


def test_works_that_wait_for_each_other_are_an_error():
    with pytest.raises(HydraOverlapError, match="waits for itself"):
        timeline([[work("F", 0), work("B", 0)], [work("B", 0), work("F", 0)]])


def test_calls_within_a_work_are_spread_over_it_and_others_stand_where_they_were_made():
    gather = Call("all-gather", "data parallel with CP", 2, 100, asynchronous=True)
    reduce = Call("reduce-scatter", "data parallel with CP", 2, 200)
    elsewhere = Call("all-reduce", "default pg", 2, 4)
    line = timeline([[gather, work("F", 0), work("B", 0, calls=[reduce, reduce]), elsewhere, gather]])
    assert [(mark.call.operation, mark.time) for mark in line.marks] == [
        ("all-gather", 0),
        ("reduce-scatter", 2),
        ("reduce-scatter", 3),
        ("all-gather", 3),
    ]


def test_a_long_step_is_shown_by_its_two_ends():
    line = timeline(one_forward_one_backward(4, 100))
    assert windows(line, 1000) == [(0, line.length)]
    assert windows(line, 60) == [(0, 30), (line.length - 30, line.length)]


def test_says_the_bubble_in_words():
    assert summary(timeline(one_forward_one_backward(4, 12))) == (
        "1F1B, 4 stages, 12 microbatches: bubble 25.00% of the work, 9 of 45 units idle on every stage"
    )
    assert summary(timeline(one_forward_one_backward(1, 2))) == "one stage: no pipeline, no bubble"
