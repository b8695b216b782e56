"""What mkdocs does besides docs/: pages made from the code, pages from the top of the repository, and links out of docs/."""

import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tables that tests and pages share

from tests.docs import blocks  # noqa: E402

EXAMPLE = "examples/lightning_style"
ELSEWHERE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", EXAMPLE: "example-app.md", f"{EXAMPLE}/README.md": "example-app.md"}  # fmt: skip
"""What lies outside docs/ and has a page -> the page."""

LINK = re.compile(r"(\[[^\]]*\])\(([^)#:\s]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no files of docs/."""
    for name, text in PAGES.items():
        files.append(File.generated(config, name, content=text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave docs/ to the page of what they mean; where there is none, leave the text alone."""
    here = HOMES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = CODE.split(markdown)  # every second one is code
    parts[::2] = [LINK.sub(lambda link: _led(link, here, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def _led(link: re.Match[str], here: str, page: str) -> str:
    """here: where the text lies in the repository, from which its links start; page: where it stands on the site."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if not target:
        return link[0]
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if not (ROOT / meant).exists() and meant.removeprefix("docs/") not in PAGES:
        raise PluginError(f"{here} links to {target}, which does not exist")
    if meant.startswith("docs/") and (ROOT / meant).is_dir():
        meant = f"{meant}/README.md"  # the index of a folder
    found = ELSEWHERE.get(meant) or (meant.removeprefix("docs/") if meant.startswith("docs/") else None)
    if found is None or not (found in PAGES or (ROOT / "docs" / found).exists()):
        return text[1:-1] if "`" in text else f"`{meant}`"
    return f"{text}({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"


def _top(name: str) -> Callable[[], str]:
    return (ROOT / name).read_text


def _example() -> str:
    """The example's own text, then each of its files."""
    return "\n\n".join([(ROOT / EXAMPLE / "README.md").read_text(), "## Its files", *_example_files()])


def _example_files() -> Iterator[str]:
    for path in sorted((ROOT / EXAMPLE).rglob("*")):
        if path.suffix in (".py", ".yaml"):
            yield f"`{path.relative_to(ROOT / EXAMPLE)}`\n\n```{LANGUAGES[path.suffix]}\n{path.read_text().rstrip()}\n```"


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": blocks.commands_page,
    "reference/groups.md": blocks.groups_page,
    "reference/fields.md": blocks.fields_page,
    "changelog.md": _top("CHANGELOG.md"),
    "contributing.md": _top("CONTRIBUTING.md"),
    "example-app.md": _example,
}
HOMES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "example-app.md": f"{EXAMPLE}/README.md",
}
