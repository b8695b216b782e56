import signal
from pathlib import Path

import pytest

from tests.sweep.commands import RANKS, Sweeps, end_with, results, statuses


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def test_kill_9_in_the_middle_then_resume_completes_every_point_and_runs_none_twice(sweeps: Sweeps) -> None:
    arguments = ("layers=1,2,3,4", "seconds=0.5")
    killed = sweeps.start(*arguments)
    sweeps.wait_for(3)
    end_with(killed, signal.SIGKILL)
    folder = sweeps.sweep_folder()
    assert sweeps.ran() == [1, 2, 3]

    other = sweeps.run("layers=1,2", "width=5")  # newer, in the same place, and not the one to go on with
    done = sweeps.run(*arguments, "hydra.sweeper.resume=true")

    assert (other.returncode, done.returncode) == (0, 0), done.stderr
    assert "resuming: 2 of 4 jobs are finished, 2 left" in done.stdout
    assert sweeps.ran() == [1, 2, 3, 1, 2, 3, 4]  # of the first sweep, only 3 began twice: it was killed
    assert statuses(folder) == ["completed"] * 4
    assert results(folder)["best"] == 0


def test_ctrl_c_keeps_what_was_found_and_resume_runs_the_rest(sweeps: Sweeps) -> None:
    arguments = ("layers=1,2,3", "seconds=0.5", f"hydra.sweep.dir={sweeps.folder}/s")
    interrupted = sweeps.start(*arguments)
    sweeps.wait_for(2)
    printed = end_with(interrupted, signal.SIGINT)

    assert interrupted.returncode == 130, printed
    assert statuses(sweeps.folder / "s") == ["completed", "stopped", "not run"]
    assert "Traceback" not in printed
    assert (sweeps.folder / "s" / "report.html").exists()

    assert sweeps.run(*arguments, "hydra.sweeper.resume=true").returncode == 0
    assert sweeps.ran() == [1, 2, 2, 3]
    assert statuses(sweeps.folder / "s") == ["completed"] * 3


def test_a_job_that_fails_marks_itself_and_leaves_the_others(sweeps: Sweeps) -> None:
    deeds = ("deeds.n1=raises", "deeds.n2=refuses", "deeds.n3=exits")
    done = sweeps.run("layers=1,2,3,4", *deeds, "hydra.sweep.dir=s")
    rows = results(sweeps.folder / "s")["rows"]

    assert done.returncode == 1
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "completed"]
    assert [row["reason"] for row in rows] == [
        "RuntimeError: no room for 1 layers",
        "This machine is too small",
        "The job ended with exit code 3.",
        "",
    ]
    assert "layers=1   fits" in rows[1]["error"]
    assert "nothing was started" not in done.stdout + done.stderr
    assert 'raise RuntimeError(f"no room for' in done.stdout  # the traceback of a bug
    assert "basic_launcher" not in done.stdout


def test_a_run_that_was_asked_to_stop_ends_the_sweep_with_code_75(sweeps: Sweeps) -> None:
    done = sweeps.run("layers=1,2,3", "deeds.n2='is asked to stop'", "hydra.sweep.dir=s")
    assert done.returncode == 75, done.stderr
    assert statuses(sweeps.folder / "s") == ["completed", "stopped", "not run"]


def test_jobs_that_return_nothing_are_completed_and_the_report_says_there_is_nothing_to_compare(sweeps: Sweeps) -> None:
    done = sweeps.run("layers=1,2", "deeds.n1='returns nothing'", "deeds.n2='returns nothing'", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert [row["reason"] for row in results(sweeps.folder / "s")["rows"]] == ["returned nothing to compare"] * 2
    assert "nothing was measured" in done.stdout


def test_the_one_number_that_jobs_return_is_compared_in_the_direction_asked_for(sweeps: Sweeps) -> None:
    deeds = ("deeds.n1='returns a number'", "deeds.n2='returns a number'")
    done = sweeps.run("layers=1,2", *deeds, "hydra.sweeper.direction=maximize", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert results(sweeps.folder / "s")["best"] == 1
    wrong = sweeps.run("layers=1,2", "hydra.sweeper.direction=up", "hydra.sweep.dir=t")
    assert wrong.returncode == 1
    assert "hydra.sweeper.direction=minimize" in wrong.stderr


@pytest.mark.slow
def test_a_worker_of_joblib_that_dies_takes_no_other_job_with_it(sweeps: Sweeps) -> None:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = sweeps.run("layers=1,2,3,4", "seconds=0.2", "deeds.n2=dies", *joblib, "hydra.sweep.dir=s")
    rows = results(sweeps.folder / "s")["rows"]

    assert done.returncode == 1
    assert [row["status"] for row in rows] == ["completed", "failed", "completed", "completed"]
    assert "SIGKILL" in rows[1]["reason"]
    numbers = {tuple(line.split(",")) for line in sweeps.runs.read_text().splitlines()}
    assert numbers == {("1", "0"), ("2", "1"), ("3", "2"), ("4", "3")}  # hydra.job.num is the point's, in every launch
    assert set((sweeps.folder / "s/2/output.log").read_text().splitlines()) == {"job says layers=3"}
    assert "job says" not in done.stdout  # it would be written over the sweep's own line


@pytest.mark.slow  # submitit waits 15 s for a result that does not come
def test_a_job_of_submitit_that_dies_loses_no_result(sweeps: Sweeps) -> None:
    done = sweeps.run("layers=1,2", "deeds.n1=dies", "hydra/launcher=submitit_local", "hydra.sweep.dir=s")
    assert done.returncode == 1, done.stderr
    assert statuses(sweeps.folder / "s") == ["failed", "completed"]


@pytest.mark.slow
def test_joblib_never_runs_more_ranks_at_once_than_the_machine_holds(sweeps: Sweeps) -> None:
    file = sweeps.folder / "times"
    done = sweeps.run(
        "parallelism=tp1,tp2,tp4",
        "training.seed=1,2,3",
        "launch.max_ranks=4",
        f"data.cache_dir={file}",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=8",
        "hydra.sweep.dir=s",
        app=RANKS,
    )
    assert done.returncode == 0, done.stderr
    times = [tuple(map(float, line.split())) for line in file.read_text().splitlines()]
    at_once = [sum(ranks for began, ended, ranks in times if began <= moment < ended) for moment, _, _ in times]
    assert len(times) == 9
    assert max(at_once) <= 4
    assert len({moment for moment, count in zip(times, at_once, strict=True) if count == 4}) > 2  # and it does fill it
    assert "3 jobs, 2 at once, of 2 ranks each: launch.max_ranks" in done.stdout


def test_points_with_other_launcher_settings_get_a_launcher_of_their_own(sweeps: Sweeps) -> None:
    submitit = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node='${layers}'")
    done = sweeps.run("layers=1,2", "deeds.n1=raises", *submitit, "hydra.sweep.dir=s")
    assert done.stdout.count("LocalLauncher: 1 job") == 2, done.stderr
    assert sweeps.ran() == [
        1,
        2,
        2,
    ]  # Hydra's own sweeper would start one task for each: layers=1 of the sweep's config
    assert statuses(sweeps.folder / "s") == ["failed", "completed"]


def test_two_sweeps_in_one_folder_at_once_is_refused_and_the_first_goes_on(sweeps: Sweeps) -> None:
    arguments = ("layers=1,2", "seconds=1.5", f"hydra.sweep.dir={sweeps.folder}/s")
    first = sweeps.start(*arguments)
    sweeps.wait_for(1)
    second = sweeps.run(*arguments, "hydra.sweeper.resume=true")

    assert second.returncode == 1
    assert "Another sweep is running in this folder" in second.stderr
    assert first.wait(60) == 0
    assert sweeps.ran() == [1, 2]


def test_a_folder_that_holds_results_or_cannot_be_written_is_refused_before_anything_starts(sweeps: Sweeps) -> None:
    assert sweeps.run("layers=1,2", "hydra.sweep.dir=s").returncode == 0
    again = sweeps.run("layers=1,2", "hydra.sweep.dir=s")
    other = sweeps.run("layers=3,4", "hydra.sweep.dir=s", "hydra.sweeper.resume=true")
    blocked = sweeps.run("layers=3,4", f"hydra.sweep.dir={sweeps.runs}/s")

    assert [done.returncode for done in (again, other, blocked)] == [1, 1, 1]
    assert "This folder holds the results of a sweep" in again.stderr
    assert "hydra.sweeper.resume=true" in again.stderr
    assert "This folder holds another sweep" in other.stderr
    assert "layers=1,2" in other.stderr
    assert "cannot be written" in blocked.stderr
    assert sweeps.ran() == [1, 2]


def test_jobs_keep_their_folder_whatever_names_it_and_two_never_share_one(sweeps: Sweeps) -> None:
    subdir = "hydra.sweep.subdir='${hydra.job.num}_layers=${layers}'"
    done = sweeps.run("layers=1,2", "deeds.n1=raises", subdir, "hydra.sweep.dir=s")
    assert done.returncode == 1, done.stderr
    assert [row["folder"] for row in results(sweeps.folder / "s")["rows"]] == ["0_layers=1", "1_layers=2"]
    resumed = sweeps.run("layers=1,2", "deeds.n1=raises", subdir, "hydra.sweep.dir=s", "hydra.sweeper.resume=true")
    assert statuses(sweeps.folder / "s") == ["failed", "completed"], resumed.stderr
    assert sweeps.ran() == [1, 2, 1]

    shared = sweeps.run("layers=1,2", "hydra.sweep.subdir=same", "hydra.sweep.dir=t")
    assert shared.returncode == 1
    assert "Two jobs of the sweep would share a folder" in shared.stderr
