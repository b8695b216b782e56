"""What a sweep leaves in its folder: results.json for programs, results.csv for a spreadsheet, report.html for people."""

import csv
import io
from pathlib import Path
from typing import Any

from .. import files
from . import page
from .results import FIGURES, ORDER, Row, Table, effects, returned_numbers, returned_value

RESULTS_JSON, RESULTS_CSV, REPORT = "results.json", "results.csv", "report.html"


def write(table: Table, folder: Path) -> None:
    """results.json, results.csv and report.html, each whole or as it was."""
    files.write_json(folder / RESULTS_JSON, as_data(table))
    for name, text in ((RESULTS_CSV, as_csv(table)), (REPORT, page.render(table))):
        files.write_text(folder / name, text)


def as_data(table: Table) -> dict[str, Any]:
    """The results of a sweep as plain data, for results.json."""
    metric = table.metric
    return {
        "format": 1,
        "command": table.definition["command"],
        "created": table.definition["created"],
        "counts": {status: table.counts[status] for status in ORDER if table.counts[status]},
        "metric": metric and {"name": metric.name, "less_is_better": metric.less_is_better, "unit": metric.unit},
        "rehearsal": table.rehearsed,
        "best": table.best and table.best.number,
        "within_spread_of_best": [row.number for row in table.within_spread],
        "effects": {
            key: [
                {
                    "value": e.value,
                    "runs": len(e.values),
                    "median_ratio": e.median,
                    "ratios": list(e.ratios),
                    "merged": e.merged,
                }
                for e in found
            ]
            for key, found in effects(table).items()
        },
        "rows": [_row_data(row) for row in table.rows],
    }


def _row_data(row: Row) -> dict[str, Any]:
    names = (
        "number",
        "name",
        "swept",
        "status",
        "same_as",
        "rules",
        "reason",
        "error",
        "identity",
        "ranks",
        "folder",
        "seconds",
    )
    values = {name: getattr(row, name) for name in names}
    return {**values, "rules": list(row.rules), "result": row.result or None, "returned": row.returned}


def as_csv(table: Table) -> str:
    """One line a point; figures of a merged point are those of the run that stands for it."""
    returned = list(dict.fromkeys(name for row in table.rows for name in returned_numbers(row.returned)))
    used = [name for name in FIGURES if any(row.figure(name) is not None for row in table.rows)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = ["number", "name", *table.keys, "status", "same_as", "identity", "ranks", "folder", "seconds", *used]
    writer.writerow([*heads, *(name or "returned" for name in returned), "reason"])
    for row in table.rows:
        writer.writerow(
            [
                row.number,
                row.name,
                *(row.swept.get(key, "") for key in table.keys),
                row.status,
                row.same_as,
                row.identity,
                row.ranks,
                row.folder,
                row.seconds,
                *(row.figure(name) for name in used),
                *(returned_value(row.returned, name) for name in returned),
                row.reason,
            ]
        )
    return buffer.getvalue()
