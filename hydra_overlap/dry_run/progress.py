"""How far a dry run is, while it builds: a live line on a terminal, and where there is none a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

SPARSE_S = 15  # seconds between two lines where there is no terminal

Told = Callable[[str, int, int], None]
"""Called before each piece of work: what it is, how much is done, how much there is in all."""


@contextmanager
def shown(console: Console) -> Iterator[Told]:
    """Show on `console` what the function that this gives is told; what the live line showed is gone at the end."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task("dry run", total=None)

        def told(what: str, done: int, total: int) -> None:
            live.update(task, description=f"dry run: {what}", completed=done, total=total)

        yield told


def _lines(console: Console, clock: Callable[[], float] = time.monotonic) -> Told:
    last = began = clock()

    def told(what: str, done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if now - last < SPARSE_S:
            return
        last = now
        left = f", about {(now - began) / done * (total - done):.0f} s left" if done else ""
        console.print(f"dry run: {what}, {done / total:.0%} done{left}", soft_wrap=True)

    return told
