"""What a command says when it fails in a way that nobody foresaw: a short report and a file, never a traceback."""

import errno
import json
import operator
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hydra_overlap import faults
from hydra_overlap.cli import main

TOKEN = "hf_abcdefgh12345678"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`explain` has a fault: it asks for an attribute whose name holds a secret and a control character. -> the place of details."""
    monkeypatch.setattr("hydra_overlap.reference.explain.explain", operator.methodcaller(f"{TOKEN}\x1b[31m"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("sys.argv", ["hydra-overlap", "explain", "TP002", "logger.api_key=s3cret"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def explain(*words: str) -> Result:
    return CliRunner().invoke(main, ["explain", "TP002", *words])


def test_a_fault_of_ours_is_a_short_report_with_a_file_of_details(broken: Path) -> None:
    done = explain()
    assert done.exit_code == 1 and not done.stdout and "Traceback" not in done.stderr
    assert "fault of hydra-overlap, not of your configuration" in done.stderr
    assert "AttributeError: " in done.stderr and "HYDRA_FULL_ERROR=1" in done.stderr and "\x1b" not in done.stderr
    assert re.search(r"where: +hydra_overlap/cli\.py:\d+", done.stderr)
    (details,) = broken.iterdir()
    assert str(details) in done.stderr
    text = details.read_text()
    assert "Traceback (most recent call last)" in text and "hydra-core 1." in text and "explain TP002" in text


def test_neither_the_report_nor_its_file_holds_a_secret(broken: Path) -> None:
    done = explain()
    (details,) = broken.iterdir()
    for text in (done.output, done.stderr, details.read_text()):
        assert TOKEN not in text and "s3cret" not in text and "<HF_TOKEN>" in text


def test_a_program_reads_a_fault_as_a_finding(broken: Path) -> None:
    done = explain("--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["exit_code"], answer["verdict"], answer["command"]) == (1, 1, "failed", "explain")
    assert [finding["rule"] for finding in answer["findings"]] == [faults.RULE]
    assert str(next(broken.iterdir())) in answer["findings"][0]["why"]


@pytest.mark.usefixtures("broken")
def test_the_traceback_is_shown_to_whom_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert "Traceback (most recent call last)" in explain().stderr


def test_where_no_file_can_be_written_the_report_says_so(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(broken / "none"))
    assert "details:   could not be written" in explain().stderr


@pytest.mark.parametrize("words", [["export", "env", "-o"], ["new", "bundle", "mine", "-C"]], ids=["export", "new"])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_path_that_is_too_long_is_a_usage_error_in_one_sentence(
    words: list[str], as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*words, "x" * 5000, *["--json"][: int(as_json)]])
    assert done.exit_code == 2 and "Traceback" not in done.output and not any(tmp_path.iterdir())
    assert "File name too long" in done.output or "does not exist" in done.output or "no directory" in done.output
    if as_json:
        assert json.loads(done.stdout)["verdict"] == "usage error"


def test_what_fails_in_a_file_of_the_user_keeps_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(name: str) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr("hydra_overlap.reference.explain.explain", theirs)
    assert isinstance(explain().exception, ZeroDivisionError)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_place_that_cannot_be_used_is_a_usage_error_that_names_it(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable(name: str) -> None:
        raise OSError(code, "no", "/there/\x1b" + "x" * 5000)

    monkeypatch.setattr("hydra_overlap.reference.explain.explain", unusable)
    done = explain()
    assert done.exit_code == 2 and len(done.stderr) < 500 and "\x1b" not in done.stderr
    assert "/there/" in done.stderr and "cannot be read or written: no." in done.stderr
