"""A folder belongs to one run: the second is refused with the owner named, and a dead owner's claim blocks nobody."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import claims, requeue
from tests import warm
from tests.plans import plan_of

OWNER = """
import os, sys, time
from hydra_overlap.launch import claims
with claims.held(sys.argv[1], "hydra.run.dir"):
    child = os.fork() if len(sys.argv) > 2 else -1
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """`owner()`: a process that has `tmp_path/run`; `owner("fork")` -> (it, the pid of a copy of it)."""
    begun, copies = [], []

    def begin(*words):
        process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "run", *words], stdout=subprocess.PIPE)
        begun.append(process)
        copy = int(process.stdout.readline())
        if copy > 0:
            copies.append(copy)
        return process, copy

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
    for copy in copies:
        if copy_runs(copy):
            os.kill(copy, signal.SIGKILL)


def copy_runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def take(folder):
    with claims.held(folder, "checkpoint.save"):
        return json.loads((folder / claims.FILE_NAME).read_text())


def test_a_second_run_is_refused_with_the_owner_named_until_the_owner_is_killed(owner, tmp_path):
    process, _ = owner()
    with pytest.raises(LaunchError, match="Another run is writing into this folder") as refusal:
        take(tmp_path / "run")
    said = str(refusal.value)
    assert f"process {process.pid} on {socket.gethostname()}" in said and "checkpoint.save=ANOTHER" in said
    process.kill()
    process.wait()
    assert take(tmp_path / "run")["pid"] == os.getpid()
    assert not (tmp_path / "run" / claims.FILE_NAME).exists(), "nothing is left of a run that ended"


def test_what_a_killed_run_left_behind_has_the_folder_until_it_ends(owner, tmp_path, monkeypatch, capfd):
    process, copy = owner("fork")
    process.kill()
    process.wait()
    monkeypatch.setattr(claims, "LEFT_S", 0.3)
    with pytest.raises(LaunchError, match="Another run"):
        take(tmp_path / "run")
    assert "waiting for the ranks that a killed run left" in capfd.readouterr().err
    os.kill(copy, signal.SIGKILL)
    monkeypatch.setattr(claims, "LEFT_S", 60)
    assert take(tmp_path / "run")["pid"] == os.getpid()


def test_two_runs_do_not_share_the_folder_of_checkpoints(owner, tmp_path):
    process, _ = owner()
    plan = plan_of(f"checkpoint.save={tmp_path}/run", output_dir=tmp_path / "second")
    with pytest.raises(LaunchError, match=f"checkpoint.save={tmp_path}/run") as refusal, claims.of_plan(plan):
        pass
    assert f"process {process.pid}" in str(refusal.value) and not list((tmp_path / "second").iterdir())


def test_a_run_has_its_folder_once_more_and_may_hand_it_over(tmp_path):
    with claims.held(tmp_path, "hydra.run.dir"), claims.held(tmp_path, "hydra.run.dir"):
        assert len(claims.descriptors()) == 1
        claims.hand_over(tmp_path)
        assert not claims.descriptors() and not (tmp_path / claims.FILE_NAME).exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="cannot be written"):
        take(tmp_path / "file" / "run")


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_without_locks_a_living_owner_is_known_on_its_own_machine(tmp_path, monkeypatch, capfd, host):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    said = {"pid": os.getpid(), "host": socket.gethostname() if host == "here" else host, "began": "today"}
    (tmp_path / claims.FILE_NAME).write_text(json.dumps(said))
    if host == "here":
        with pytest.raises(LaunchError, match="Another run"):
            take(tmp_path)
        (tmp_path / claims.FILE_NAME).write_text(json.dumps({**said, "pid": 2**22 + 1}))
    assert take(tmp_path)["pid"] == os.getpid()
    assert ("on elsewhere, since today may still write here" in capfd.readouterr().err) == (host == "elsewhere")


APP = """
import sys
import hydra
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from hydra_overlap.compose import app, run_folder
from hydra_overlap.errors import LaunchError

@hydra.main(version_base=None)
def main(cfg):
    Path(HydraConfig.get().runtime.output_dir, "seen").write_text(str(cfg))
    if cfg.get("refuse"):
        raise LaunchError("no")

with run_folder.claimed_first():
    app.cli(main)
"""


@pytest.fixture
def app(tmp_path):
    """`app(*overrides)`: a Hydra app whose runs claim their folders."""
    script = tmp_path / "app.py"
    script.write_text(APP)
    return lambda *overrides: warm.run([script, *overrides], cwd=tmp_path)


def test_runs_of_one_moment_get_a_folder_each_and_a_folder_that_was_named_is_gone_on_in(app, tmp_path):
    for number in range(3):
        done = app("hydra.run.dir='outputs/${now:%Y}'", f"+number={number}")
        assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "outputs").iterdir())
    assert [folder.name.partition("_")[2] for folder in folders] == ["", "2", "3"]
    assert [(folder / "seen").read_text() for folder in folders] == [str({"number": n}) for n in range(3)]
    assert [(folder / ".hydra/overrides.yaml").read_text() for folder in folders] == [
        f"- +number={n}\n" for n in range(3)
    ]
    for number in range(2):
        assert app("hydra.run.dir=mine", f"+number={number}").returncode == 0
    assert (tmp_path / "mine/seen").read_text() == "{'number': 1}"


def test_a_named_folder_that_another_run_has_stays_as_it_is(app, owner, tmp_path):
    process, _ = owner()
    before = sorted((tmp_path / "run").iterdir())
    done = app(f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1 and f"process {process.pid}" in done.stderr and "Traceback" not in done.stderr
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_refused_run_leaves_no_folder(app, tmp_path):
    (tmp_path / "app.py").write_text(APP.replace("Path(Hydra", "0 and Path(Hydra"))
    done = app("hydra.run.dir='outputs/${now:%Y}/${now:%d}'", "+refuse=true")
    assert done.returncode == 1 and not (tmp_path / "outputs").exists()


def test_a_full_disk_ends_in_a_sentence_wherever_it_is_found(app, tmp_path):
    full = "import errno, os\n        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'metrics.jsonl')"
    (tmp_path / "app.py").write_text(APP.replace('raise LaunchError("no")', full))
    done = app("+refuse=true")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "metrics.jsonl: No space left on device" in done.stderr and "hydra.run.dir=ANOTHER" in done.stderr
    limited = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"  # Hydra cannot write its config
    )
    (tmp_path / "app.py").write_text(limited + APP)
    done = app("+text=" + "x" * 200)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "File too large" in done.stderr


def test_a_restart_count_that_is_no_number_is_refused_in_a_sentence(monkeypatch):
    for said in ("junk", "²", "-1", "1.5"):
        monkeypatch.setenv(requeue.RESTARTS, said)
        with pytest.raises(LaunchError, match="SLURM_RESTART_COUNT is no number"):
            requeue.resumed(plan_of())
