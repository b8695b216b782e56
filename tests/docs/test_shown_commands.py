"""Every command that README and docs show is run here, or composed and judged if it trains, or has a test of its own.

The commands of a page run in their order, in one directory, as a reader would type them. What comes after `#` in their line is
looked at for one word: a command that is shown to be refused says `refused`.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap.cli import main
from tests.docs.blocks import ROOT, SCRIPTS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
TRAIN = re.compile(
    r"^(hydra-overlap train|python train\.py|torchrun .*?\btrain\.py|torchrun .*?-m hydra_overlap\.train) ?(.*)$"
)

ELSEWHERE = {
    r"make (train|test|site)( |$)": "tests/docs/test_site.py::test_every_target_that_is_shown_is_in_the_makefile",
    r"pip wheel ": "tests/packaging/test_packaging.py::test_the_wheel_holds_every_option_file_and_the_plugin",
    r"pip install ": "tests/packaging/test_packaging.py::test_an_unrelated_app_composes_and_is_refused",
    r"python your_app\.py ": "tests/hosts/test_owned_groups.py",
    r"python app\.py": "tests/hosts/test_scaffold.py::test_a_new_app_runs_and_is_refused",
    r"hydra-overlap trace ": "tests/trace/test_command.py::test_of_many_ranks_the_middle_and_the_worst_are_told",
    r"benchmarks/gpu_acceptance\.sh": "tests/te/test_gpu_acceptance.py",
}
"""Commands that are not run here -> the test that runs what they do."""

CONFIG = "defaults: [comm_overlap: default, _self_]\n"
RECIPE = "model: {tensor_model_parallel_size: 4, sequence_parallel: true}\ncomm_overlap: {tp_comm_overlap: true}\n"


@dataclass(frozen=True)
class Command:
    """A command as it is shown: the line, what its comment says, and the output that is shown below it."""

    line: str
    comment: str
    output: str

    @property
    def refused(self) -> bool:
        return "refused" in self.comment or self.output.startswith("refused by")

    def __str__(self) -> str:
        return self.line


def commands(page: Path) -> Iterator[Command]:
    for block in BLOCK.finditer(page.read_text()):
        text = re.sub(r"\\\n\s*", " ", re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE))
        for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, output = shown.partition("\n")
            command, _, comment = line.partition(" #")
            yield Command(command.strip(), comment.strip(), output)


def elsewhere(command: Command) -> str | None:
    return next((test for pattern, test in ELSEWHERE.items() if re.match(pattern, command.line)), None)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    (tmp_path / "conf" / "userbuffers").mkdir(parents=True)
    for name in ("train", "config"):
        (tmp_path / "conf" / f"{name}.yaml").write_text(CONFIG)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    accepted = (SCRIPTS / "pretrain_tp4.sh").read_text()
    (tmp_path / "train_llama.sh").write_text(accepted)
    (tmp_path / "pretrain_tp4.sh").write_text(accepted)
    (tmp_path / "pretrain.sh").write_text((SCRIPTS / "pretrain.sh").read_text())
    (tmp_path / "flags.txt").write_text(accepted.partition("pretrain_gpt.py")[2].replace("\\\n", " "))
    return tmp_path


def invoke(words: list[str], given: str = "") -> Result:
    GlobalHydra.instance().clear()
    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, words, input=given)
    GlobalHydra.instance().clear()
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{words}: {done.exception!r}"
    assert "Traceback" not in done.output, done.output
    return done


def run(command: Command, folder: Path) -> None:
    line, _, file = command.line.partition(" > ")
    before, pipe, after = line.partition(" | ")
    given = (folder / before.removeprefix("cat ")).read_text() if pipe else ""
    for words in optional(shlex.split(after if pipe else line)):
        done = invoke(words[1:], given)
        if words[1] == "doctor":  # 1: something is wrong with the machine that tests run on
            assert done.exit_code in (0, 1) and "refused by" not in done.output, command
        elif words[1:3] == ["audit", "pretrain.sh"]:  # the script that asks for what it cannot have
            assert done.exit_code == 1 and "TP001" in done.output
        else:
            assert done.exit_code == int(command.refused), f"{command}\n{done.output}"
        if file:
            Path(file).write_text(done.output)


def optional(words: list[str]) -> Iterator[list[str]]:
    """`[--json]`: with it and without."""
    yield [word for word in words if not word.startswith("[--")]
    if any(word.startswith("[--") for word in words):
        yield [word.strip("[]") if word.startswith("[--") else word for word in words]


def judge(command: Command, words: list[str]) -> None:
    """Compose and judge a command that trains; a sweep has something to compare."""
    if "-m" in words:
        done = invoke(["train", *words, "hydra.sweeper.plan_only=true", "hydra.sweeper.resume=false"])
        counts = {what: int(number) for number, what in re.findall(r"(\d+) (points|run|refused)\b", done.output)}
        assert done.exit_code == 0 and counts["run"] >= 2, f"{command}\n{done.output}"
        assert counts.get("refused", 0) <= counts["points"] / 2, f"{command}: most of its points are refused"
    else:
        shows = [] if "--cfg" in words or "--help" in words else ["--cfg", "job"]
        done = invoke(["train", *words, *shows])
        assert done.exit_code == int(command.refused), f"{command}\n{done.output}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in ("planning", "sweeps") else [])
        for page in PAGES
        if any(commands(page))
    ],
    ids=lambda page: page.stem,
)
def test_what_a_page_shows_does_what_it_shows(page: Path, shell: Path) -> None:
    for command in commands(page):
        trains = TRAIN.match(command.line)
        if trains:
            judge(command, shlex.split(trains[2]))
        elif elsewhere(command) is None:
            assert re.match(r"(cat \S+ \| )?hydra-overlap ", command.line), f"{page.name}: nothing runs `{command}`"
            run(command, shell)


def test_what_is_run_elsewhere_is_shown_and_its_test_is_there() -> None:
    shown = [command.line for page in PAGES for command in commands(page)]
    for pattern, test in ELSEWHERE.items():
        assert any(re.match(pattern, line) for line in shown) or "app" in pattern, f"no page shows {pattern}"
        file, _, name = test.partition("::")
        assert name in (ROOT / file).read_text(), test


def test_a_command_that_is_named_in_a_sentence_exists() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for name in re.findall(r"`hydra-overlap ([a-z]+)[ `]", page.read_text()):
            assert name in main.commands, f"{page.name}: hydra-overlap {name}"


def test_a_command_of_two_lines_and_its_comment_and_output_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ hydra-overlap check a=b \\\n    c=d   # refused\nrefused by 1 rule\n$ make\n```\n")
    first, second = commands(page)
    assert (first.line, first.comment, first.refused) == ("hydra-overlap check a=b  c=d", "refused", True)
    assert second.line == "make" and not second.refused
