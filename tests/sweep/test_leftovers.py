"""What a killed sweep left in temporary folders goes when the next one starts; what is anybody else's stays."""

import json
import subprocess
import sys

import pytest

from hydra_overlap.sweep import leftovers

KILLED = """
import os, signal, tempfile
from pathlib import Path
from hydra_overlap.sweep import leftovers
leftovers.SHARED = Path(tempfile.gettempdir())
with leftovers.noted():
    here = Path(tempfile.gettempdir())
    (here / f"joblib_memmapping_folder_{os.getpid()}_a_b").mkdir()
    (here / f"joblib_memmapping_folder_{os.getpid()}_a_b" / "array.pkl").touch()
    (here / f"sem.loky-{os.getpid()}-x").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "SHARED", tmp_path)
    return tmp_path


def kill_a_sweep(folder):
    killed = subprocess.run([sys.executable, "-c", KILLED], env={"TMPDIR": str(folder), "PATH": ""})
    assert killed.returncode == -9


def names(folder):
    return {path.name.rstrip("0123456789") for path in folder.iterdir() if path.name != leftovers._notes().name}


def test_what_a_killed_sweep_left_goes_and_what_others_have_stays(temporary):
    kill_a_sweep(temporary)
    (temporary / "joblib_memmapping_folder_1_a_b").mkdir()
    (temporary / "sem.loky-4194305-x").touch()  # nobody has that number, and no sweep of ours had it
    before = len(list(temporary.iterdir()))
    with leftovers.noted():
        assert len(list(leftovers._notes().iterdir())) == 1, "this sweep's own note"
    assert names(temporary) == {"joblib_memmapping_folder_1_a_b", "sem.loky-4194305-x"} and before == 5
    assert not list(leftovers._notes().iterdir())


def test_a_number_of_another_container_or_boot_is_not_ours_to_judge(temporary):
    kill_a_sweep(temporary)
    (note,) = leftovers._notes().iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "processes": "pid:[1]"}))
    before = names(temporary)
    with leftovers.noted():
        pass
    assert names(temporary) == before and note.exists()
