"""How anything looks on a terminal: its width, its colours, findings, and rows that stack where a table has no room.

Colours are rich's decision: none where output is piped, and none where NO_COLOR is set. A text is a text: `[/x]` and `:x:` in a
path or a value mean nothing.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .findings import PROSE, Finding, Span, lines, wrapped

PLAIN_WIDTH = 140  # columns where there is no terminal to ask: of a log file
WORDS = 24  # columns that a column of prose wants at least
BESIDE = 52  # columns up to which something is read beside what is said of it
GAP = 2  # columns between two columns of a table
STYLES = {
    "error": "bold red", "warning": "bold yellow", "note": "bold blue", "rule": "bold", "label": "cyan", "override": "green",
    "aside": "dim", "": "",
}  # fmt: skip


def make_console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error.

    Where that is no terminal, it is as wide as COLUMNS says or as the terminal that reads another stream of this process
    (`| less`), and wide enough for a log file where there is none.
    """
    print_all_characters()
    console = Console(highlight=False, markup=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = _width()
    return console


def print_all_characters() -> None:
    """From now on a character that standard output cannot encode is printed as its escape; it was a UnicodeEncodeError.

    Python does so on standard error. It happens in a terminal that is not UTF-8, and with a path that is not.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    for stream in (2, 0):
        with suppress(OSError):
            return os.get_terminal_size(stream).columns or PLAIN_WIDTH
    return PLAIN_WIDTH


def print_lines(said: Iterable[Sequence[Span]], console: Console) -> None:
    """Lines of a finding or of a page, in colours; they are wrapped already."""
    for line in said:
        console.print(Text.assemble(*((text, STYLES[kind]) for text, kind in line)), soft_wrap=True)


class Told(Protocol):
    """What a user's mistake is told with: `errors.HydraOverlapError`, or a mistake that is no exception."""

    @property
    def headline(self) -> str:
        """The verdict."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What it rests on."""

    @property
    def footer(self) -> str:
        """What stands below."""


def print_told(told: Told, console: Console) -> None:
    """A refusal, or any mistake: the verdict, each finding after an empty line, and what stands below them."""
    console.print(Text(told.headline, "bold red"), soft_wrap=True)
    print_findings(told.findings, console)
    if told.footer:
        console.print(Text(f"\n{told.footer}"), soft_wrap=True)


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """Each finding after an empty line."""
    for finding in findings:
        console.print()
        print_lines(lines(finding, console.width), console)


def print_pairs(pairs: Iterable[tuple[Text, str]], console: Console, *, indent: int = 2) -> None:
    """What is to be read, each with what is said of it: beside it, or below it where that takes fewer lines."""
    rows = list(pairs)
    column = max((left.cell_len for left, _ in rows if left.cell_len <= BESIDE), default=0)
    room = min(console.width - indent - column - GAP, PROSE)
    for left, right in rows:
        beside = wrapped(right, room) if left.cell_len <= column else []
        below = wrapped(right, min(console.width, PROSE) - indent - 4)
        fits = room >= WORDS and bool(beside) and max(map(len, beside)) <= room
        if fits and len(beside) <= len(below) + 1:
            first, lead, rest = " " * (column + GAP - left.cell_len) + beside[0], column + GAP, beside[1:]
        else:
            first, lead, rest = "", 4, below
        console.print(Text.assemble(" " * indent, left, (first, STYLES["aside"])), soft_wrap=True)
        for line in rest:
            console.print(Text(" " * (indent + lead) + line, STYLES["aside"]), soft_wrap=True)


def print_prose(text: str, console: Console, *, style: str = "", hanging: int = 2, most: int = PROSE) -> None:
    """A sentence or a verdict, wrapped between words; lines after the first begin `hanging` columns later.

    most: columns that it takes on a wider terminal.
    """
    for number, line in enumerate(wrapped(text, min(console.width, most) - hanging)):
        console.print(Text(" " * hanging + line if number else line, style), soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of `print_rows`. prose: sentences, which may be wrapped between words; anything else stays on one line.

    spare: left out, the last of them first, before rows are stacked: another column says it as well.
    """

    title: str
    right: bool = False
    prose: bool = False
    spare: bool = False


def print_rows(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], console: Console) -> None:
    """A table where every column has room for its longest word; else each row as a block: its first cell, and the others below.

    An empty cell is left out of a block.
    """
    for part in Rows(columns, rows).parts(console.width):
        console.print(part, soft_wrap=isinstance(part, Text))


class Rows:
    """What `print_rows` prints, for a `console.print` that a caller makes: only where no word is longer than a terminal is wide."""

    def __init__(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
        self._columns = columns
        self._cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.parts(options.max_width)

    def parts(self, width: int) -> Iterator[Table | Text]:
        """One table, or the lines of the blocks."""
        columns, cells = self._columns, self._cells
        needed = [_needed(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
        shown = list(range(len(columns)))
        spare = [index for index in shown if columns[index].spare]
        while _width_of(shown, needed) > width and spare:
            shown.remove(spare.pop())
        kept = [columns[index] for index in shown]
        picked = [[row[index] for index in shown] for row in cells]
        if _width_of(shown, needed) <= width:
            yield _table(kept, [needed[index] for index in shown], picked)
        else:
            yield from _blocks(kept, picked, width)


def _width_of(shown: Sequence[int], needed: Sequence[int]) -> int:
    return sum(needed[index] for index in shown) + GAP * (len(shown) - 1)


def _blocks(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    """What has no title of its own stands beside the first cell; the rest below it, each under its title."""
    label = max(len(column.title) for column in columns)
    for row in rows:
        head = [row[0].copy(), *(cell for column, cell in zip(columns[1:], row[1:], strict=True) if not column.title)]
        head[0].stylize("bold")
        room = width - sum(cell.cell_len + GAP for cell in head[:-1])
        last = wrapped(head[-1].plain, room) if len(head) > 1 else []
        first = Text("  ").join([*head[:-1], Text(last[0], head[-1].style)]) if last else head[0]
        number = f"{columns[0].title} " if columns[0].title in ("#", "stage") else ""
        yield Text.assemble((number, "dim"), first)
        yield from (Text(" " * (width - room) + line) for line in last[1:])
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if column.title and cell.plain:
                yield from _cell(column, cell, label, width)


def _cell(column: Column, cell: Text, label: int, width: int) -> Iterator[Text]:
    lines = wrapped(cell.plain, width - label - 4) if column.prose else [cell.plain]
    for number, line in enumerate(lines):
        lead = f"  {'' if number else column.title:<{label}}  "
        yield Text.assemble((lead, STYLES["label"]), (line, cell.style))


def _needed(column: Column, cells: Sequence[Text]) -> int:
    words = [word for cell in cells for word in (cell.plain.split() if column.prose else cell.plain.splitlines())]
    longest = max((len(word) for word in (column.title, *words)), default=0)
    whole = max((cell.cell_len for cell in cells), default=0)
    return max(longest, min(WORDS, whole)) if column.prose else longest


def _table(columns: Sequence[Column], needed: Sequence[int], rows: Iterable[Sequence[Text]]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, show_header=any(column.title for column in columns))
    for column, width in zip(columns, needed, strict=True):
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=not column.prose, min_width=width
        )
    for row in rows:
        table.add_row(*row)
    return table
