"""The schedule as a picture and as text: complete, legible at any length and width."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from hydra_overlap.dry_run.collectives import Call
from hydra_overlap.dry_run.schedule_page import page, write_schedule
from hydra_overlap.dry_run.schedule_text import schedule_text
from hydra_overlap.dry_run.timeline import timeline
from tests.dry_run.test_timeline import one_forward_one_backward, work
from tests.plans import plan_of

GATHER = Call("all-gather", "data parallel with CP", 2, 2**20, asynchronous=True)
REDUCE = Call("reduce-scatter", "data parallel with CP", 2, 2**21)


class Tags(HTMLParser):
    """Counts tags and classes; fails on one that is closed and was not open."""

    def __init__(self):
        super().__init__()
        self.open, self.found = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes).get("class") or ""))
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes).get("class") or ""))

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            assert self.open, f"</{tag}> closes nothing"

    def count(self, tag, class_):
        return sum(tag == one and class_ in classes.split() for one, classes in self.found)


def drawn(html):
    tags = Tags()
    tags.feed(html[html.index('<div class="scroll">') : html.index("</svg>\n</div>") + 6])
    return tags


def pipeline(stages=4, microbatches=8):
    return timeline([[GATHER, *order, REDUCE] for order in one_forward_one_backward(stages, microbatches)])


def test_draws_every_work_every_message_and_every_data_parallel_call():
    html = page(plan_of("parallelism=pp4"), pipeline(), "a line")
    tags = drawn(html)
    assert tags.count("rect", "forward") == tags.count("rect", "backward") == 4 * 8
    assert tags.count("line", "send") == 2 * 3 * 8
    assert tags.count("rect", "gather") == tags.count("rect", "reduce") == 4
    assert tags.count("rect", "goes-on") == 4  # the gathers are asynchronous, the reduces are waited for
    assert "1F1B, 4 stages, 8 microbatches: bubble 37.50% of the work" in html
    assert "left out" not in html


def test_needs_nothing_but_itself_and_follows_light_and_dark(tmp_path):
    plan = plan_of("parallelism=pp4", output_dir=tmp_path)
    html = write_schedule(plan, pipeline(), "a line").read_text()
    assert not re.search(r"(src|href)=|@import|url\(|<script", html)
    assert "prefers-color-scheme: dark" in html


def test_a_long_step_stays_legible():
    """Numbers keep their size: a step of thousands of units does not make a file, or a picture, without end."""
    line = pipeline(8, 2000)
    html = page(plan_of("parallelism=pp4"), line, "a line")
    assert f"{line.length - 480:,} of {line.length:,} units, in the middle, are left out" in html
    assert drawn(html).count("rect", "forward") < 8 * 480
    assert len(html) < 2_000_000


def test_what_a_user_typed_is_text_not_markup():
    plan = dataclasses.replace(plan_of("parallelism=pp4"), overrides=("hydra.job.name=<script>",))
    assert "<script>" not in page(plan, pipeline(), "a & b")


@pytest.mark.parametrize("width", [20, 40, 80, 140, 400])
@pytest.mark.parametrize("microbatches", [1, 8, 500])
def test_text_keeps_to_the_width_of_the_terminal(width, microbatches):
    lines = schedule_text(pipeline(4, microbatches), width).plain.split("\n")
    assert max(map(len, lines)) <= width
    assert [line.split()[1] for line in lines if line.startswith("stage")] == ["0", "1", "2", "3"]


def test_text_shows_works_idle_time_and_calls():
    line = timeline([[GATHER, work("F", 0), work("F", 1), work("B", 0), work("B", 1), REDUCE], [
        work("F", 0), work("B", 0), work("F", 1), work("B", 1)]])  # fmt: skip
    console = Console(width=60, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(schedule_text(line, 60))
    assert captured.get().splitlines() == [
        "stage 0 01··0<·1<",
        "        g       R",
        "stage 1 ·00<11<··",
    ]
