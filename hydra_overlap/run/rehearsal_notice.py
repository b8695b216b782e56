"""What a rehearsal is and is not, in the first lines of the run."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..findings import yaml_value
from ..launch.plan import Plan, known


def print_rehearsal(plan: Plan, console: Console) -> None:
    """Say that this is a rehearsal, what was shrunk or replaced, how it computes, and what it cannot exercise."""
    rehearsal = known(plan.rehearsal)
    title = f"REHEARSAL on CPU with gloo{_planned_for(plan)}. Layout and schedule are those of the plan."
    console.print()
    console.print(Text(title, "bold yellow"), soft_wrap=True)
    changes = [*rehearsal.shrunk, *(change for change in rehearsal.replaced if change.reason)]
    if changes:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "planned", "rehearsed", "why"):
            table.add_column(column, overflow="fold")
        for change in changes:
            planned, here = yaml_value(change.planned), yaml_value(change.rehearsed)
            table.add_row(f"  {change.key}", planned, here, change.reason)
        console.print(table)
    for text in rehearsal.arithmetic:
        console.print(Text(f"{text}."), soft_wrap=True)
    console.print("not exercised here:")
    for text in rehearsal.not_exercised:
        console.print(Text(f"  - {text}"), soft_wrap=True)


def _planned_for(plan: Plan) -> str:
    platform = plan.request.platform.name
    return f"; the plan is for {platform}" if platform not in (None, "cpu") else ": this machine has no GPU"
