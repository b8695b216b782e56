"""What the documentation shows is what the code does."""

import re
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT
from tests.each import each

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/your-script.md", "docs/audit.md", "docs/coverage.md"]
)
def test_the_blocks_made_from_the_code_are_current(page):
    check = [sys.executable, "-m", "cogapp", "-I", ".", "--check", page]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make docs`: {done.stdout}{done.stderr}"


@each("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        made = page.name == "index.md" and target.startswith("reference/")  # with the site, which test_site.py builds
        assert made or (page.parent / target).exists(), f"{page.name} links to {target}"
