"""The verdict on every point, and the table people read."""

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from hydra_overlap.sweep import judge
from hydra_overlap.sweep.judge import Judged, judge_all
from hydra_overlap.sweep.plan_table import print_plan
from hydra_overlap.sweep.points import points
from tests import warm
from tests.compose.commands import JOB
from tests.sweep.conftest import Sweeps, started

GRID = (
    "comm_overlap=none,default,dp,tp4_h100",
    "parallelism=dp2,tp1,tp4,tp99",
    "comm_overlap.dp.bucket_size=null,51200",
)


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    with started(None, "config", GRID) as composer:
        return judge_all(points(GRID), composer)


def table(judged: list[Judged], width: int = 100) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        print_plan(judged, console)
    return captured.get()


def of(judged: list[Judged], *overrides: str) -> Judged:
    (found,) = [verdict for verdict in judged if verdict.point.overrides == overrides]
    return found


def test_every_point_is_legal_or_refused_with_all_that_a_single_run_would_say(judged: list[Judged]) -> None:
    assert [verdict.point.number for verdict in judged] == list(range(32))
    legal = of(judged, "comm_overlap=dp", "parallelism=dp2", "comm_overlap.dp.bucket_size=51200")
    assert (legal.refusal, legal.rules, legal.ranks) == (None, (), 2)
    assert legal.launcher["_target_"].endswith("BasicLauncher")
    refused = of(judged, "comm_overlap=tp4_h100", "parallelism=tp1", "comm_overlap.dp.bucket_size=51200")
    assert refused.identity is None and refused.rules == ("TP001", "DP009")
    assert "comm_overlap/tp/userbuffers.yaml" in refused.refusal  # where the value came from, as in a single run
    assert refused.reason.startswith("TP001 TP overlap is on with a single tensor-parallel rank; DP009 ")


def test_a_mistake_in_one_arm_refuses_that_arm_alone(judged: list[Judged]) -> None:
    wrong = [verdict for verdict in judged if verdict.point.swept["parallelism"] == "tp99"]
    assert len(wrong) == 8
    for verdict in wrong:
        assert verdict.rules == () and "parallelism has no option 'tp99'" in verdict.refusal
        assert "fix     parallelism.tensor_model_parallel_size=99 parallelism.sequence_parallel=true" in verdict.refusal


def test_a_point_that_is_the_same_run_names_the_first_of_them(judged: list[Judged]) -> None:
    default = of(judged, "comm_overlap=default", "parallelism=dp2", "comm_overlap.dp.bucket_size=null")
    asked = of(judged, "comm_overlap=dp", "parallelism=dp2", "comm_overlap.dp.bucket_size=null")
    assert asked.identity == default.identity and asked.same_as == default.point.number and default.same_as is None
    assert default.effective["comm_overlap.dp.overlap_grad_reduce"] is True  # what the rules decided
    assert "comm_overlap.dp.overlap_grad_reduce" not in asked.effective


def test_points_are_judged_alike_in_whatever_order(
    judged: list[Judged], sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "WINDOW", 3)
    assert judge_all(points(GRID), sweep(*GRID)) == judged


def test_a_bug_is_no_refused_point(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    composer = sweep()
    monkeypatch.setattr(composer, "judge", lambda overrides: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge_all(points(["training.seed=1,2"]), composer)


def test_the_table_says_of_every_point_what_becomes_of_it(judged: list[Judged]) -> None:
    text = table(judged)
    lines = text.splitlines()
    assert lines[0].startswith("32 points: ")
    assert lines[1].split() == ["#", "comm_overlap", "parallelism", "bucket_size", "ranks"]
    rows = {int(line.split()[0]): line for line in lines[2:34]}
    assert set(rows) == set(range(32))
    for verdict in judged:
        said = rows[verdict.point.number].rstrip()
        if verdict.refusal is not None:
            assert "refused" in said and all(rule in said for rule in verdict.rules)
        else:
            assert said.endswith("runs" if verdict.same_as is None else f"same as #{verdict.same_as}")
    assert "TP001 TP overlap is on with a single tensor-parallel rank" in text
    assert "always comm_overlap=tp4_h100\n" in text
    assert max(map(len, lines)) <= 110


@pytest.mark.slow
def test_a_thousand_points_stay_readable(sweep: Sweeps) -> None:
    grid = (*GRID, "training.seed=range(0,32)")
    judged = judge_all(points(grid), sweep(*grid))
    assert len(judged) == 1024
    text = table(judged)
    assert len(text.splitlines()) < 60
    assert "256 points: #" in text and "always parallelism=tp99" in text
    assert "more that run" in text
    assert "the same run under another name" in text
    runs = sum(verdict.refusal is None and verdict.same_as is None for verdict in judged)
    assert f"1,024 points: {runs:,} run, " in text


def test_names_of_named_points_are_in_the_table(sweep: Sweeps) -> None:
    named = {"base": ["comm_overlap=none"], "other": ["comm_overlap=dp"]}
    text = table(judge_all(points([], named=named), sweep()))
    assert text.splitlines()[1].split()[:3] == ["#", "name", "comm_overlap"] and "other" in text


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run([JOB, "-m", *arguments], cwd=folder)


def test_plan_only_starts_and_writes_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "comm_overlap=none,dp", "hydra.sweeper.plan_only=true")
    assert done.returncode == 0, done.stderr
    assert "2 points: 2 run." in done.stdout and "TASK RAN" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_with_nothing_left_is_an_error_that_names_why(tmp_path: Path) -> None:
    done = command(tmp_path, "comm_overlap=tp4_h100", "parallelism=tp1,tp2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "No point of this sweep can run" in done.stderr and "\nerror TP001  " in done.stderr
    assert "UB001 The userbuffers preset was tuned for another TP size: 1 of 2 points" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_settings_written_in_yaml_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "defaults: [config, _self_]\n"
        "hydra:\n  sweeper:\n    plan_only: true\n    zip: [[parallelism, training.seed]]\n"
        "    params: {parallelism: 'dp2,dp4', training.seed: '1,2'}\n"
        "    points: {base: [comm_overlap=none], dp: [comm_overlap=dp]}\n"
    )
    done = command(tmp_path, f"--config-dir={tmp_path}", "--config-name=mine")
    assert "4 points: 4 run." in done.stdout, done.stderr
    assert [line.split()[:5] for line in done.stdout.splitlines() if line[:1].isdigit()][1:] == [
        ["0", "base", "dp2", "1", "none"],
        ["1", "base", "dp4", "2", "none"],
        ["2", "dp", "dp2", "1", "dp"],
        ["3", "dp", "dp4", "2", "dp"],
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("hydra/launcher=basic,joblib",), 2, "hydra/launcher=basic"),
        (("hydra.launcher.n_jobs=1,2",), 2, "+hydra.sweeper.params={hydra.launcher.n_jobs:'1,2'}"),
        (("hydra.sweeper.on_invalid=ignore", "training.seed=1,2"), 1, "skip, refuse"),
    ],
)
def test_a_sweep_that_makes_no_sense_says_what_to_write(tmp_path: Path, arguments: tuple, code: int, said: str) -> None:
    done = command(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (code, "") and said in done.stderr and "Traceback" not in done.stderr


def test_without_a_swept_key_one_point_runs_and_that_is_said(tmp_path: Path) -> None:
    done = command(tmp_path, "comm_overlap=none")
    assert done.returncode == 0, done.stderr
    assert "Nothing is swept: one point." in done.stdout and done.stdout.count("TASK RAN") == 1
