"""The documentation site is built, strictly; it has every rule, field, group and command; README's targets exist."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from hydra_overlap.rules import RULES
from hydra_overlap.schema.fields import FIELDS
from tests.docs.blocks import ROOT, family

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # what mkdocs-material prints of its successor, when it is imported


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A page without a place, a link or an anchor that leads nowhere would have ended the build."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    assert config.strict
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def anchors(page: Path) -> set[str]:
    return set(re.findall(r'<h\d id="([^"]+)"', page.read_text()))


def test_every_rule_and_field_and_command_has_its_place(site: Path) -> None:
    found = {name: anchors(site / "rules" / f"{name}.html") for name in {family(r.__name__).lower() for r in RULES}}
    for rule in RULES:
        assert any(a.startswith(rule.__name__.lower()) for a in found[family(rule.__name__).lower()]), rule.__name__
    fields = (site / "reference" / "fields.html").read_text()
    assert [key for key in FIELDS if f"<code>{key}</code>" not in fields] == []
    assert {"check", "train", "presets-nearest"} <= anchors(site / "reference" / "commands.html")
    assert {"comm_overlap", "comm_overlaptp", "userbuffers", "experiment"} <= anchors(
        site / "reference" / "groups.html"
    )


def test_a_search_finds_rules_fields_and_pages(site: Path) -> None:
    titles = {entry["title"] for entry in json.loads((site / "search" / "search_index.json").read_text())["docs"]}
    assert {"TP002: TP overlap is on without sequence parallelism", "bucket_size", "Start in five minutes"} <= titles


def test_no_page_asks_another_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert fetched == [], page


def test_the_picture_is_what_the_command_prints() -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None and spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    for name, command in pictures.PICTURES.items():
        assert (ROOT / "docs" / "img" / name).read_text() == pictures.svg(command), f"run `make docs`: {name}"


def test_every_target_that_is_shown_is_in_the_makefile() -> None:
    """CI runs `make test`; a user's first command is `make train`, which tests/train runs without make."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    shown = {name for page in pages for name in re.findall(r"(?:^\$ |`)make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert shown >= {"train", "test", "site"} and shown <= targets


def test_readme_fits_on_a_screen_and_says_what_to_type_first() -> None:
    text = (ROOT / "README.md").read_text()
    first = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert first is not None and first[1].split("\n")[:2] == ["$ make train", "$ make test"]
    assert len(text.splitlines()) < 80
