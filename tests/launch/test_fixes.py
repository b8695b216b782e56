"""The overrides that launching, training, dry runs and sweeps print as fixes: each names a setting that exists, with a value it takes.

Rules prove their fixes by judging them. These are written where a machine is looked at, so they are read from the source here.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_overlap.compose.check import check
from hydra_overlap.findings import yaml_value
from hydra_overlap.launch.preflight import trn
from hydra_overlap.schema import keys
from hydra_overlap.schema.fields import DEFAULTS
from tests.each import each

ROOT = Path(__file__).parents[2] / "hydra_overlap"
ROOMS = ("dry_run", "launch", "megatron", "run", "sweep", "train")
PLACEHOLDER = re.compile(r"\b(?!CPU\b)[A-Z]{3,}\b")  # what the reader puts in: NAME, ANOTHER
KNOWN = {**vars(keys), "OURS": trn.OURS}
UNREAD = {
    "CFG001",
    "CFG002",
    "CFG003",
    "CFG005",
    "HYDRA",
    "USE",
}  # rules that say a setting or its value does not exist


def text_of(node: ast.expr) -> str | None:
    """The override, the key's default where it fills a value in; None if it is not written down here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for number, part in enumerate(node.values):
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            known = KNOWN.get(ast.unparse(part.value).rpartition(".")[2])
            if not isinstance(known, str) and number == 0:
                return None  # the key itself is filled in
            if not isinstance(known, str):
                key = "".join(parts).rpartition(" ")[2].partition("=")[0]
                return f"{key}={yaml_value(DEFAULTS[key])}" if key in DEFAULTS else None
            parts.append(known)
    return "".join(parts)


def fixes() -> Iterator[str]:
    for path in sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "fixes":
                for pair in ast.walk(node.value):
                    if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
                        text = text_of(pair.elts[0])
                        if text and "=" in text and " " not in text.partition("=")[0]:
                            yield text


FIXES = sorted(set(fixes()))


def test_the_fixes_are_found() -> None:
    assert len(FIXES) > 25 and "launch.dry_run=true" in FIXES


@each("fix", FIXES)
def test_a_fix_names_a_setting_that_exists_with_a_value_that_it_takes(fix: str) -> None:
    words = [PLACEHOLDER.sub("7", word) for word in shlex.split(fix)]
    OverridesParser.create().parse_overrides(words)
    GlobalHydra.instance().clear()
    ours = [word for word in words if not word.startswith("hydra")]
    verdict = check(ours)
    wrong = [finding for finding in verdict.findings if finding.rule in UNREAD]
    assert verdict.exit_code < 2 and wrong == [], [finding.title for finding in wrong]
