"""How things look on a terminal: every width, no broken word, no colour where there is no terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from hydra_overlap import GatingError, resolve
from hydra_overlap.errors import LaunchError
from hydra_overlap.findings import Finding, Fix, Place, render
from hydra_overlap.reference.accepted import print_accepted
from hydra_overlap.reference.explain import explain
from hydra_overlap.screen import PLAIN_WIDTH, Column, make_console, print_lines, print_pairs, print_rows, print_told
from tests import hostile

WIDTHS = (60, 80, 100, 140)
PATH = "megatron/core/distributed/distributed_data_parallel_with_a_long_name.py:915-916"
FINDING = Finding(
    rule="TP002", severity="error", title="TP overlap is on without sequence parallelism, in a title that goes on and on",
    why="Userbuffers overlap the all-gathers and reduce-scatters that sequence parallelism creates; without it there are none.",
    where=(Place("comm_overlap.tp.tp_comm_overlap", "true", "comm_overlap/tp/userbuffers.yaml"), Place("a", "1")),
    fixes=(Fix("parallelism.sequence_parallel=true", "keeps the overlap"), Fix("comm_overlap.tp.tp_comm_overlap=false parallelism=tp1", "gives the overlap up")),
    source=f"megatron-core core_v0.16.1 {PATH}",
)  # fmt: skip
PLAN = {
    "parallelism": {"tensor_model_parallel_size": 4, "sequence_parallel": True, "world_size": 8},
    "comm_overlap": {"tp": {"tp_comm_overlap": True}},
    "software": {"transformer_engine": "2.11.0", "origin": "assumed"},
    "platform": {"name": "h100", "sm": 90},
    "precision": {"bf16": True},
}


def terminal(width: int, **options: object) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False, **options)  # type: ignore[arg-type]


def shown(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def words(lines: list[str]) -> set[str]:
    return {word for line in lines for word in line.split()}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_finding_fits_every_width_and_no_word_of_it_is_broken(width: int) -> None:
    lines = render(FINDING, width).splitlines()
    assert words(lines) >= {*FINDING.title.split(), *FINDING.why.split(), PATH, "comm_overlap/tp/userbuffers.yaml"}
    assert all(len(line) <= width or len(line.split()[-1]) + 12 > width or "=" in line for line in lines)
    assert any("comm_overlap.tp.tp_comm_overlap=false parallelism=tp1" in line for line in lines), "pasted as it is"
    assert lines == [line.rstrip() for line in lines]


def test_what_is_said_of_a_fix_stands_beside_it_where_that_has_room_and_below_where_not() -> None:
    assert "  fix     parallelism.sequence_parallel=true                      keeps the overlap" in render(FINDING, 100)
    assert "  fix     parallelism.sequence_parallel=true\n            keeps the overlap" in render(FINDING, 60)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_accepted_plan_fits_every_width(width: int) -> None:
    for verbose in (False, True):
        console = terminal(width)
        print_accepted(resolve(PLAN), console, verbose=verbose)
        assert shown(console)[0].startswith("accepted: TP4 SP DP2, 8 H100, TP overlap by userbuffers")
        assert all(len(line) <= width or len(line.split()[-1]) + 12 > width for line in shown(console))


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_every_width_but_for_what_is_pasted(width: int) -> None:
    for name in ("TP002", "DP105", "comm_overlap.dp.bucket_size"):
        for line in ("".join(text for text, _ in spans) for spans in explain(name).lines(width)):
            assert len(line) <= width or "=" in line or "/" in line.split()[-1], line


def test_rows_are_a_table_where_every_column_has_room_and_blocks_where_not() -> None:
    columns = (Column(title="preset"), Column(title="cp", right=True), Column(title="why", prose=True))
    rows = [("a_long_name_of_a_preset_" * 2, "1", "one two three"), ("short", "", Text("four", "red"))]
    wide, narrow = terminal(100), terminal(60)
    print_rows(columns, rows, wide)
    print_rows(columns, rows, narrow)
    assert shown(wide)[0].split() == ["preset", "cp", "why"] and len(shown(wide)) == 3
    assert shown(narrow) == [rows[0][0], "  cp      1", "  why     one two three", "short", "  why     four"]


def test_a_spare_column_goes_before_rows_are_stacked() -> None:
    columns = (Column(title="name"), Column(title="said by the name", spare=True), Column(title="more", prose=True))
    console = terminal(60)
    print_rows(columns, [("x" * 30, "y" * 20, "one two")], console)
    assert shown(console)[0].split() == ["name", "more"] and shown(console)[1].split() == ["x" * 30, "one", "two"]


def test_what_is_said_of_a_setting_never_breaks_a_word_and_stands_below_where_that_is_shorter() -> None:
    console = terminal(80)
    print_pairs([(Text("a=1"), "said"), (Text("b=2"), "said again")], console)
    assert shown(console) == ["  a=1  said", "  b=2  said again"]
    console = terminal(60)
    print_pairs([(Text("a=1"), "short"), (Text("b" * 40 + "=1"), "some words that do not fit beside it " * 3)], console)
    lines = shown(console)
    assert lines[:2] == ["  a=1", "      short"]
    assert lines[2] == f"  {'b' * 40}=1" and lines[3].startswith("      some words")
    assert words(lines) == {
        "a=1",
        "b" * 40 + "=1",
        "short",
        *["some", "words", "that", "do", "not", "fit", "beside", "it"],
    }


def test_a_refusal_is_coloured_on_a_terminal_and_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    colours = terminal(80, force_terminal=True, color_system="standard")
    print_told(GatingError([FINDING]), colours)
    text = colours.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;31merror \x1b[0m" in text and "\x1b[32m" in text
    plain = terminal(80)
    print_told(GatingError([FINDING]), plain)
    assert plain.file.getvalue() == f"{GatingError([FINDING])}\n"  # type: ignore[attr-defined]


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal(80, force_terminal=True)
    print_told(GatingError([FINDING]), console)
    assert "\x1b[31m" not in console.file.getvalue() and "\x1b[32m" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_error_of_one_finding_is_told_like_any_other() -> None:
    error = LaunchError("No complete checkpoint", where=["checkpoint.load=/ckpt"], fixes=[("checkpoint.load=null", "")])
    console = terminal(80)
    print_told(error, console)
    assert console.file.getvalue() == f"{error}\n"  # type: ignore[attr-defined]


def test_output_that_is_no_terminal_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert make_console().width == 72
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("os.get_terminal_size", lambda stream: (_ for _ in ()).throw(OSError()))
    assert make_console().width == PLAIN_WIDTH


def test_lines_are_printed_as_they_are_wrapped() -> None:
    console = terminal(20)
    print_lines([[("error ", "error"), ("a/long/path/that/is/not/broken", "aside")]], console)
    assert shown(console) == ["error a/long/path/that/is/not/broken"]


def test_a_text_is_text_on_every_console_whatever_stands_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    for text in hostile.ONE_LINE:
        console.print(text, soft_wrap=True)
    print_rows([Column(title="[/x]")], [[text] for text in hostile.ONE_LINE], console)
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    expected = [text.strip() for text in hostile.ONE_LINE]
    assert printed == [*expected, "[/x]", *expected]


def test_a_finding_shows_what_would_end_its_line_as_an_escape() -> None:
    finding = Finding(rule="X", severity="error", title="T", where=[Place("model.name", t) for t in hostile.ALL])  # type: ignore[arg-type]
    lines = render(finding).splitlines()
    assert len(lines) == 1 + len(hostile.ALL) and all(line.isprintable() for line in lines)
    assert r"model.name=x\ntouch PWNED\n#" in render(finding)
