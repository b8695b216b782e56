import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from hydra_overlap import files
from hydra_overlap.cli import main
from hydra_overlap.screen import make_console
from hydra_overlap.sweep import job, outputs, page, results
from hydra_overlap.sweep.folder import DEFINITION
from hydra_overlap.sweep.results_table import print_results
from hydra_overlap.sweep.words import REHEARSED
from tests import hostile
from tests.sweep.commands import Sweeps

REFUSAL = "refused by 1 rule; nothing was started.\n\nerror TP001  Title <of> a rule\n  fix     parallelism=tp2"


class Made:
    """A sweep's folder, point by point."""

    def __init__(self, folder: Path, **sweeper: Any) -> None:
        self.folder, self._sweeper, self._points = folder, sweeper, []  # type: ignore[var-annotated]
        self._points: list[dict[str, Any]] = []

    def point(self, *, same_as: int | None = None, refusal: str | None = None, ranks: int = 2, **swept: str) -> int:
        number = len(self._points)
        self._points.append(
            {
                "number": number, "name": "", "swept": swept, "overrides": [f"{k}={v}" for k, v in swept.items()],
                "identity": None if refusal else f"id{same_as if same_as is not None else number}",
                "same_as": same_as, "ranks": None if refusal else ranks, "refusal": refusal,
                "reason": "TP001 Title <of> a rule" if refusal else "", "rules": ["TP001"] if refusal else [],
                "folder": str(number) if refusal is None and same_as is None else None,
            }
        )  # fmt: skip
        if refusal is None and same_as is None:
            job.queue(self.folder / str(number), number=number, identity=f"id{number}")
        return number

    def ran(self, number: int, **fields: Any) -> None:
        """It completed. step_ms, or what else the record says; without fields, nothing."""
        record = (
            {"status": "completed", "mode": "gpu", "loss": {"first": 6.0, "final": 2.0}, **fields} if fields else None
        )
        if record and record.get("step_ms"):
            step = record["step_ms"]
            record["step_ms"] = {"median": step, "low": step * 0.9, "high": step * 1.2, "counted": 95, "discarded": 5}
            record["tokens_per_s"] = 1e6 / step
        said = files.read_json(self.folder / str(number) / job.JOB)
        files.write_json(self.folder / str(number) / job.JOB, {**said, "status": "completed", "seconds": 3.0})
        if record:
            files.write_json(self.folder / str(number) / job.RESULT, record)

    def table(self, metric: str | None = None) -> results.Table:
        value = {
            "format": 1, "definition": "d", "created": "2026-01-01T00:00:00", "resumed": [], "command": ["train.py", "-m", "a=1,2"],
            "sweeper": self._sweeper, "points": self._points,
        }  # fmt: skip
        files.write_json(self.folder / DEFINITION, value)
        return results.collect(self.folder, metric)


def grid(folder: Path) -> Made:
    """Two keys: overlap=dp takes 80 % and 60 % of the time of none; size=big merges into small where none."""
    made = Made(folder)
    made.ran(made.point(overlap="none", size="small"), step_ms=100.0)
    made.point(overlap="none", size="big", same_as=0)
    made.ran(made.point(overlap="dp", size="small"), step_ms=80.0)
    made.ran(made.point(overlap="dp", size="big"), step_ms=60.0)
    made.point(overlap="tp", size="small", refusal=REFUSAL)
    made.point(overlap="tp", size="big", refusal=REFUSAL)
    return made


class Page(HTMLParser):
    """The texts of a page; fails on what could run or load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe", "object", "a", "b"), tag
        assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "srcdoc")], attributes

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_what_users_chose_is_text_on_the_page_in_the_plots_and_on_the_terminal(tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "</title><script>touch()[/x]$")
    for number, text in enumerate((*hostile.ONE_LINE, " ".join(hostile.SEVERAL_LINES))):
        made.ran(made.point(**{"[/k]": text, "<b>": str(number % 2)}), step_ms=100.0 + number)
    table = made.table("step_ms")
    outputs.write(table, table.folder)
    html = Path(table.folder, "report.html").read_text()
    said = "".join(Page(html).texts)
    assert all(said.count(text) >= 2 for text in hostile.ONE_LINE if " " not in text), "in a table and in a plot"
    print_results(table, make_console())
    printed = capsys.readouterr().out
    assert "[/k]" in printed and all(text.strip() in printed for text in hostile.ONE_LINE if " " not in text.strip())


def test_the_best_point_is_the_fastest_and_points_within_its_spread_are_named(tmp_path: Path) -> None:
    made = grid(tmp_path)
    assert made.table().best.number == 3  # type: ignore[union-attr]
    assert made.table().within_spread == ()
    close = made.point(overlap="pp", size="big")
    made.ran(close, step_ms=63.0)
    assert [row.number for row in made.table().within_spread] == [close]


def test_an_effect_compares_runs_that_differ_in_one_key_alone(tmp_path: Path) -> None:
    found = results.effects(grid(tmp_path).table("step_ms"))
    none, dp, tp = found["overlap"]
    assert (none.ratios, tp.ratios, tp.values) == ((), (), ())
    assert sorted(dp.ratios) == pytest.approx([0.6, 0.8])
    assert dp.median == pytest.approx(0.7)
    small, big = found["size"]
    assert small.values == (80.0, 100.0)
    assert big.ratios == pytest.approx((0.75,))
    assert big.merged == 1  # with overlap=none it is the same run: no pair of measurements


def test_two_runs_are_one_pair_however_many_names_they_have(tmp_path: Path) -> None:
    made = grid(tmp_path)
    made.point(overlap="default", size="small", same_as=2)
    made.point(overlap="default", size="big", same_as=3)
    big = results.effects(made.table("step_ms"))["size"][1]
    assert big.ratios == pytest.approx((0.75,))


def test_a_merged_point_has_the_figures_of_the_run_that_stands_for_it(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(outputs.as_csv(grid(tmp_path).table()))))
    assert [row["status"] for row in rows] == ["completed", "merged", "completed", "completed", "refused", "refused"]
    assert rows[1]["step_ms"] == rows[0]["step_ms"] == "100.0"
    assert rows[1]["same_as"] == "0"
    assert rows[4]["reason"] == "TP001 Title <of> a rule"


def test_without_a_measured_time_no_point_is_called_the_best(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for size in ("small", "big"):
        made.ran(made.point(size=size), step_ms=None, tokens_per_s=None)
    table = made.table()
    assert table.best is None
    assert "Nothing was measured" in page.render(table)
    assert made.table("loss").best is not None


def test_a_rehearsal_is_labelled_wherever_its_times_are_shown(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for size, step in (("small", 10.0), ("big", 20.0)):
        made.ran(made.point(size=size), step_ms=step, mode="rehearsal")
    table = made.table()
    console = Console(record=True, width=140)
    print_results(table, console)
    assert REHEARSED in console.export_text()
    assert page.render(table).count(REHEARSED) == 2
    assert REHEARSED not in page.render(grid(tmp_path / "other").table())


def test_the_page_stands_alone_with_plots_refusals_and_their_fixes(tmp_path: Path) -> None:
    text = page.render(grid(tmp_path).table())
    assert text.count("<svg") == 3  # all points, and one for each key
    assert not re.findall(r"(?:src|href)=\"(?!#)(?!http://www.w3.org)", text.replace("xlink:href", "href"))
    assert "@import" not in text
    assert "<script" not in text
    assert "TP001 Title &lt;of&gt; a rule" in text
    assert "fix     parallelism=tp2" in text
    assert "as #0" in text
    assert "#0101" not in text  # every colour of the plots is one of the page's, light and dark
    assert page.render(grid(tmp_path / "again").table()).count("<svg") == 3


def test_without_matplotlib_the_page_has_the_tables_and_says_how_to_get_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = page.render(grid(tmp_path).table())
    assert "<svg" not in text
    assert "pip install &#39;matplotlib&gt;=3.7&#39;" in text
    assert "16,667" in text


def test_a_job_that_says_it_runs_and_whose_process_is_gone_failed(tmp_path: Path) -> None:
    made = grid(tmp_path)
    number = made.point(overlap="pp", size="small")
    place = tmp_path / str(number) / job.JOB
    files.write_json(place, {**files.read_json(place), "status": job.RUNNING})
    row = made.table().rows[number]
    assert (row.status, row.reason) == (
        "failed",
        "The process ended without a result: it was killed, or its machine was lost.",
    )
    assert made.table().exit_code == 1
    files.write_json(
        tmp_path / str(number) / job.RESULT, {"status": "completed", "mode": "gpu"}
    )  # its ranks outlived it
    assert made.table().rows[number].status == "completed"


def test_a_rank_that_failed_fails_its_job_though_the_first_rank_completed(tmp_path: Path) -> None:
    made = grid(tmp_path)
    files.write_json(tmp_path / "2/job.3.json", {"status": "failed", "error": "Rank 3 was here"})
    assert made.table().rows[2].reason == "Rank 3 was here"
    assert made.table().rows[2].status == "failed"


def test_hydra_overlap_report_rebuilds_the_results_of_an_interrupted_sweep(tmp_path: Path) -> None:
    made = grid(tmp_path)
    made.point(overlap="pp", size="small")
    made.table()
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "7 points: 3 completed, 1 merged, 2 refused, 1 not run" in done.output
    assert "#3 overlap=dp size=big: 16,667 tokens/s, 60 ms a step" in done.output
    assert "resume=true" in done.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["counts"] == {"completed": 3, "merged": 1, "refused": 2, "not run": 1}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    as_json = CliRunner().invoke(main, ["report", str(tmp_path), "--json", "--metric", "step_ms"])
    assert json.loads(as_json.output)["result"]["metric"]["name"] == "step_ms"
    assert CliRunner().invoke(main, ["report", str(tmp_path / "0")]).exit_code == 2


def test_what_jobs_return_is_kept_where_json_can_hold_it() -> None:
    import numpy

    assert job.plain({"a": numpy.float32(0.5), "b": [1, (2, None)], 3: object()}) == {
        "a": 0.5,
        "b": [1, [2, None]],
        "3": None,
    }
    assert job.plain(float("nan")) == "nan"


def test_a_long_sweep_shows_the_best_and_those_that_failed(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for number in range(50):
        made.ran(made.point(size=str(number)), step_ms=100.0 + number)
    console = Console(record=True, width=140)
    print_results(made.table(), console)
    text = console.export_text()
    assert "all 50 points stand in results.csv" in text
    assert text.count("completed") < 25


def test_report_while_a_sweep_runs_shows_what_is_done_and_running(tmp_path: Path) -> None:
    sweeps = Sweeps(tmp_path)
    running = sweeps.start("layers=1,2", "seconds=1", f"hydra.sweep.dir={tmp_path}/s")
    sweeps.wait_for(2)
    table = results.collect(tmp_path / "s")
    assert [row.status for row in table.rows] == ["completed", "running"]
    assert running.wait(30) == 0


def test_dry_runs_are_one_table_of_layouts_ordered_and_filtered_as_asked(tmp_path: Path) -> None:
    made = Made(tmp_path, sort="bubble_percent", fitting=True)
    for name, verdict, bubble in (("a", "fits", 9.0), ("b", "does not fit", 1.0), ("c", "tight", 3.5)):
        figures = {"layout": f"TP1 {name}", "verdict": verdict, "needed_gib": 70.0, "margin_gib": 9.0, "dp_gib": 12.5}
        made.ran(made.point(parallelism=name), **{**figures, "mode": "dry run", "loss": None, "bubble_percent": bubble})
    table = made.table()
    console = Console(file=io.StringIO(), width=140)
    print_results(table, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("TP1 c") < text.index("TP1 a")
    assert "TP1 b" not in text
    assert "without those that do not fit; all 3 points stand in results.csv" in text
    assert "DP GiB" in text
    assert "no point is called the best" not in text
    html = page.render(table)
    assert "TP1 c" in html
    assert "TP1 b" not in html
    assert [row["layout"] for row in csv.DictReader(io.StringIO(outputs.as_csv(table)))] == ["TP1 a", "TP1 b", "TP1 c"]
