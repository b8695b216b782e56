"""Step times, and what is not reported as one; the commit of a run."""

import subprocess

from hydra_overlap.run.report import commit, step_time


def test_reports_median_quartiles_and_what_was_counted():
    text = step_time([1000.0] * 5 + [100.0] * 10 + [120.0] * 5, rehearsal=False)
    assert text.startswith("step time: median 100 ms")
    assert "15 steps, 5 discarded" in text


def test_labels_a_rehearsal():
    assert "says nothing about a GPU" in step_time([100.0] * 20, rehearsal=True)


def test_reports_no_time_from_too_few_steps():
    assert step_time([100.0] * 14, rehearsal=False).startswith("step time: not reported, 9 steps after 5 of warm-up")


def test_the_commit_is_of_the_repository_that_tracks_the_script(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    script = tmp_path / "train.py"
    script.write_text("1\n")
    assert commit(script) is None  # no repository, or one above that does not know the script
    git("init")
    assert commit(script) is None
    git("add", "train.py")
    git("commit", "-m", "a script")
    assert commit(script) == git("rev-parse", "HEAD").strip()
    script.write_text("2\n")
    assert commit(script).endswith("-dirty")
