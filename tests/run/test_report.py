"""Step times, and what is not reported as one."""

from hydra_overlap.run.report import step_time


def test_reports_median_quartiles_and_what_was_counted():
    text = step_time([1000.0] * 5 + [100.0] * 10 + [120.0] * 5, rehearsal=False)
    assert text.startswith("step time: median 100 ms")
    assert "15 steps, 5 discarded" in text


def test_labels_a_rehearsal():
    assert "says nothing about a GPU" in step_time([100.0] * 20, rehearsal=True)


def test_reports_no_time_from_too_few_steps():
    assert step_time([100.0] * 14, rehearsal=False).startswith("step time: not reported, 9 steps after 5 of warm-up")
