"""The pipeline schedule as text: a line for each stage, a column for each unit of time, as many as the terminal has."""

from rich.text import Text

from .timeline import UNITS, Mark, Timeline, windows

# Background of a chunk's works and text on it: forward, backward. Eight pairs, then again from the first.
_COLORS = (
    ("#8fbbee", "#2f6db5"), ("#f3c27b", "#b36b00"), ("#9ad6a4", "#2b7d3f"), ("#e4a3c8", "#a13d78"),
    ("#b9aef0", "#5b4bb5"), ("#8fd8d8", "#1f7a7a"), ("#e6a79a", "#b0432f"), ("#cfd17f", "#767812"),
)  # fmt: skip
_IDLE = "·"
LEGEND = (
    "a digit: forward of that microbatch, modulo 10; a digit and <: its backward; ·: idle; colour: model chunk; below a stage "
    "r: gradients reduced, g: parameters gathered, capitals: the stage waits for it"
)


def schedule_text(line: Timeline, width: int) -> Text:
    """The picture in `width` columns; the middle of a longer step is left out, and counted."""
    label = len(f"stage {line.stages - 1} ")
    room = max(3, width - label)
    shown, gap = windows(line, room), ""
    if len(shown) > 1:
        gap = f" {line.length - room:,} units "
        gap = gap if 3 * len(gap) <= room else "…"
        shown = windows(line, room - len(gap))
        left_out = f" {shown[1][0] - shown[0][1]:,} units " if len(gap) > 1 else gap
        gap = left_out.center(room - sum(to - start for start, to in shown))
    text = Text(no_wrap=True, overflow="crop")
    for stage in range(line.stages):
        cells = _cells(line, stage)
        marks = _marks(line, stage)
        text.append(f"stage {stage}".ljust(label), "bold")
        for number, (start, to) in enumerate(shown):
            if number:
                text.append(gap if stage == 0 else " " * len(gap), "dim")
            for column in range(start, to):
                text.append(*cells[column])
        text.append("\n")
        if marks:
            below = " " * label
            for number, (start, to) in enumerate(shown):
                below += (" " * len(gap) if number else "") + "".join(marks.get(at, " ") for at in range(start, to))
            text.append(below.rstrip() + "\n", "dim")
    text.right_crop(1)
    return text


def _cells(line: Timeline, stage: int) -> list[tuple[str, str]]:
    """(character, style) of every unit of a stage."""
    cells = [(_IDLE, "dim")] * line.length
    for slot in line.slots[stage]:
        light, dark = _COLORS[slot.work.chunk % len(_COLORS)]
        style = f"#000000 on {light}" if slot.work.kind == "forward" else f"#ffffff on {dark}"
        content = f"{slot.work.microbatch % 10}" + "<" * (UNITS[slot.work.kind] - 1)
        cells[slot.start : slot.end] = [(one, style) for one in content]
    return cells


def _marks(line: Timeline, stage: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for mark in line.marks:
        if mark.stage == stage:
            at = min(int(mark.time), line.length - 1)
            found[at] = max(found.get(at, " "), _letter(mark))
    return found


def _letter(mark: Mark) -> str:
    letter = "g" if mark.call.operation == "all-gather" else "r"
    return letter if mark.call.asynchronous else letter.upper()
