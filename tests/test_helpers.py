"""The tests' own tools: what a warm script gets and gives back, and what a test over many cases says."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests import warm
from tests.each import each

SCRIPT = """
import os, sys
assert __name__ == "__main__" and sys.modules["__main__"].__file__ == __file__
assert sys.path[0] == os.path.dirname(__file__)
print(sys.argv[1:], os.getcwd(), os.environ["SAID"], sys.stdin.read(), "torch" in sys.modules)
"""


@pytest.fixture
def script(tmp_path: Path):
    """`script(text, *arguments)`: what the warm script came to."""

    def run(text: str, *arguments: str, **options) -> warm.Done:
        file = tmp_path / "script.py"
        file.write_text(text)
        return warm.run([file, *arguments], cwd=tmp_path, **options)

    return run


def test_a_warm_script_has_arguments_folder_environment_and_input_of_its_own(script, tmp_path: Path) -> None:
    done = script(SCRIPT, "a", "b", env={"SAID": "so"}, input="given")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"['a', 'b'] {tmp_path} so given False\n"
    assert done.cpu_s > 0


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_a_warm_script_ends_as_any_other(script, text: str, code: int, said: str) -> None:
    done = script(text)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.endswith(said)


def test_nothing_that_a_warm_script_does_reaches_the_next(script) -> None:
    assert script("import hydra, os; hydra.changed = True; os.environ['CHANGED'] = '1'").returncode == 0
    done = script("import hydra, os; print(hasattr(hydra, 'changed'), 'CHANGED' in os.environ)")
    assert done.stdout == "False False\n"


def test_a_warm_script_that_does_not_end_is_ended(script) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as late:
        script("import time; print('begun', flush=True); time.sleep(600)", timeout=2)
    assert late.value.output in ("begun\n", "")  # a machine may be busy for that long


def test_a_test_over_many_cases_names_all_that_fail() -> None:
    @each("number, limit", [(1, 2), (5, 2), (1, 1), (2, 1)], ids=lambda case: f"case {case}")
    def below(number: int, limit: int) -> None:
        assert number <= limit

    with pytest.raises(pytest.fail.Exception) as failure:
        below()
    text = str(failure.value)
    assert (
        text.startswith("2 of 4 cases:\n") and "case (5, 2)" in text and "case (2, 1)" in text and "(1, 1)" not in text
    )


def test_a_test_over_no_case_fails() -> None:
    with pytest.raises(AssertionError, match="no case"):
        each("number", [])(lambda number: None)()
