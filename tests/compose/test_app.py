"""How a command ends: exit codes, tracebacks where they belong, and nothing left of a run that never started."""

import subprocess
import sys
from pathlib import Path

from tests.compose.commands import APPS, JOB, Run

FAULTY = APPS / "faulty.py"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_refusal_in_the_job_prints_its_message_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    done = run(FAULTY, "+end=refused")
    assert done.returncode == 1
    assert "RUN  Four ranks fit this machine" in done.stderr
    assert "parallelism=tp4   fits" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_in_the_job_never_takes_a_users_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.txt").write_text("mine")
    (tmp_path / "mine" / ".hydra").mkdir()
    (tmp_path / "mine" / ".hydra" / "remarks.txt").write_text("mine")
    assert run(FAULTY, "+end=refused_notes", "hydra.run.dir=mine").returncode == 1
    assert names(tmp_path) == ["mine/.hydra/remarks.txt", "mine/notes.txt", "mine/results.txt"]


def test_a_run_that_failed_after_it_started_keeps_its_record(run: Run, tmp_path: Path) -> None:
    assert run(FAULTY, "+end=refused_started", "hydra.run.dir=run").returncode == 1
    assert {"run/.hydra/config.yaml", "run/.hydra/overrides.yaml", "run/plan.json"} <= set(names(tmp_path))


def test_a_refused_job_of_a_sweep_leaves_the_others_alone(run: Run, tmp_path: Path) -> None:
    done = run(FAULTY, "-m", "+end=refused,refused_started", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert "Four ranks fit this machine" in done.stdout
    assert '"failed"' in (tmp_path / "sweep" / "0" / "job.json").read_text()
    assert (tmp_path / "sweep" / "1" / ".hydra" / "config.yaml").exists()
    assert (tmp_path / "sweep" / "multirun.yaml").exists()


def test_a_refused_sweep_leaves_earlier_jobs_in_its_folder_alone(run: Run, tmp_path: Path) -> None:
    run(JOB, "-m", "parallelism=dp2", "hydra.sweep.dir=sweep")
    assert run(JOB, "-m", "parallelism=dp2,tp99", "hydra.sweep.dir=sweep").returncode == 1
    assert (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").exists()


def test_a_bug_in_the_job_keeps_its_traceback_from_the_job_on(run: Run, tmp_path: Path) -> None:
    done = run(FAULTY, "+end=bug", "hydra.run.dir=run")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug of the job" in done.stderr
    assert "run_job" not in done.stderr
    assert "run/.hydra/config.yaml" in names(tmp_path)


def test_an_interrupted_job_exits_with_130_and_no_traceback(run: Run) -> None:
    done = run(FAULTY, "+end=interrupted")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_an_exit_code_of_the_job_is_passed_on(run: Run) -> None:
    assert run(FAULTY, "+end=exit").returncode == 7


def test_hydra_full_error_shows_the_traceback_of_a_refusal_and_the_message(run: Run) -> None:
    done = run(JOB, "comm_overlap=tp4_h100", "parallelism=tp1", env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "\n  source  " in done.stderr.rpartition("refused by 1 rule")[2]


def test_jobs_do_not_inherit_how_we_make_hydra_raise(run: Run) -> None:
    assert '"full_error": null' in run(JOB).stdout
    assert '"full_error": "1"' in run(JOB, env={"HYDRA_FULL_ERROR": "1"}).stdout


def test_a_reader_that_leaves_early_is_no_mistake(tmp_path: Path) -> None:
    command = f"{sys.executable} {JOB} --cfg job | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
