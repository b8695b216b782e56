"""The manifest of a run: the commit of its script."""

import subprocess

from hydra_overlap.run.manifest import commit


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
