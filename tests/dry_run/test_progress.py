"""Nobody waits for a dry run in silence, and no log is filled by one."""

import io

from rich.console import Console

from hydra_overlap.dry_run import progress


def test_a_log_gets_a_line_now_and_then_that_says_what_is_done_and_how_long_the_rest_takes():
    console = Console(file=io.StringIO(), width=80)
    now = iter([0, 1, 16, 17, 40])
    told = progress._lines(console, clock=lambda: next(now))
    for what, done in (("importing", 0), ("building rank 0", 0), ("building rank 1", 2), ("a step of rank 1", 5)):
        told(what, done, 10)
    assert console.file.getvalue().splitlines() == [
        "dry run: building rank 0, 0% done",
        "dry run: a step of rank 1, 50% done, about 40 s left",
    ]


def test_a_short_dry_run_says_nothing_in_a_log_and_a_terminal_shows_the_work_at_hand():
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
        with progress.shown(console) as told:
            told("building rank 0", 0, 3)
        assert ("building rank 0" in console.file.getvalue()) is terminal
