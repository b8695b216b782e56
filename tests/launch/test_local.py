"""Ranks on this machine, forked or begun afresh: they get the plan and the environment, and a failure names its rank."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from hydra_overlap.launch import local, processes
from hydra_overlap.launch import plan as plans
from tests import needs, ranks
from tests.plans import plan_of

SCRIPT = """
import json, os, signal, subprocess, sys, time
from hydra_overlap.launch import local

rank = int(os.environ["RANK"])
{early}

def train(plan):
    {body}

if __name__ == "__main__":
    local.as_rank(train, local.plan_of_this_rank())
"""

# A process of its own that starts ranks, as train.py is: one that runs tests has threads, and may not fork.
STARTER = """
import contextlib, json, logging, os, sys, threading, time
from hydra_overlap.launch import local, plan
local._store = lambda *_: contextlib.nullcontext()  # these ranks do not meet; torch need not be imported
if {threads}:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
sys.modules["imported_before"] = json
try:
    local.start(plan.load({plan!r}), {script!r}, {environment!r}, fork={fork})
except local.RankError as error:
    print(json.dumps({{"error": str(error)}}), file=sys.stderr)
"""


@pytest.fixture(params=["forked", "fresh"])
def begin(request, tmp_path):
    """`begin(body)`: a process that starts two ranks which run `body`, which sees rank and plan. early: what they do at first."""

    def run(body, environment=None, *, threads=False, early=""):
        script = tmp_path / "ranks.py"
        script.write_text(SCRIPT.format(body=body, early=early))
        starter = STARTER.format(
            plan=str(plans.save(plan_of(output_dir=tmp_path))), script=str(script), environment=environment or {},
            fork=request.param == "forked", threads=threads,
        )  # fmt: skip
        command = [sys.executable, "-c", starter]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    run.forks = request.param == "forked"
    return run


@pytest.fixture
def start(begin):
    """The same, once it has ended: its exit code, output and the text of a RankError, None if there was none."""

    def run(*args, **kwargs):
        process = begin(*args, **kwargs)
        out, err = process.communicate(timeout=120)
        told = [json.loads(line)["error"] for line in err.splitlines() if line.startswith('{"error"')]
        return SimpleNamespace(code=process.returncode, out=out, err=err, error=told[0] if told else None)

    return run


def seen(folder, rank):
    return json.loads((folder / f"seen{rank}").read_text())


def noting(folder, value):
    """Body of a rank that leaves a value behind."""
    return f"open({str(folder)!r} + f'/seen{{rank}}', 'w').write(json.dumps({value}))"


def test_every_rank_gets_the_plan_and_the_environment(start, tmp_path):
    names = "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'PROMISED')"
    value = f"[[os.environ[name] for name in {names}], plan.request.model.name, os.getsid(0) == os.getpid()]"
    assert start(noting(tmp_path, value), {"PROMISED": "1"}).error is None
    for rank in (0, 1):
        assert seen(tmp_path, rank) == [[str(rank), str(rank), "2", "2", "1"], "tiny", True]


def test_a_forked_rank_has_what_was_imported_and_nothing_of_the_application_that_started_it(begin, start, tmp_path):
    value = "['imported_before' in sys.modules, sys.argv, __file__, bool(__import__('logging').root.handlers)]"
    start(noting(tmp_path, value))
    script = str(tmp_path / "ranks.py")
    assert seen(tmp_path, 1) == [begin.forks, [script], script, False]


def test_a_process_with_threads_begins_its_ranks_afresh(start, tmp_path):
    start(noting(tmp_path, "'imported_before' in sys.modules"), threads=True)
    assert [seen(tmp_path, rank) for rank in (0, 1)] == [False, False]


def test_rank_0_writes_to_the_terminal_and_all_else_goes_to_files(start, tmp_path):
    done = start(
        "print(f'said by {rank}'); print(f'warned by {rank}', file=sys.stderr); os.system('echo written by C')"
    )
    assert done.out.splitlines() == ["said by 0", "written by C"] and done.err == ""
    streams = {path.relative_to(tmp_path / "ranks"): path.read_text() for path in tmp_path.glob("ranks/*/*.log")}
    assert streams == {
        Path("0/stderr.log"): "[rank 0] warned by 0\n",
        Path("1/stdout.log"): "[rank 1] said by 1\nwritten by C\n",
        Path("1/stderr.log"): "[rank 1] warned by 1\n",
    }


def test_an_exception_names_its_rank_and_stops_the_others(start, tmp_path):
    error = start("time.sleep(60) if rank == 0 else 1 / 0").error
    assert error.startswith("Rank 1 failed first (exit code 1)")
    assert "ZeroDivisionError: division by zero" in error and "Traceback" not in error
    log = (tmp_path / "ranks/1/stderr.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError" in log


def test_a_rank_that_finds_no_room_on_the_disk_says_so(start):
    limit = "import pathlib, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    body = f"{limit}; pathlib.Path(plan.output_dir, 'big').write_text('x' * 20000)"
    error = start(body).error
    assert "OSError: [Errno 27] File too large" in error and "Traceback" not in error


def test_the_first_of_two_exceptions_is_named(start):
    error = start("time.sleep(0.5 * (1 - rank)); 1 / 0 if rank else [][0]").error
    assert error.startswith("Rank 1 failed first") and "ZeroDivisionError" in error


def test_a_killed_rank_is_named_with_its_signal_before_those_that_miss_it(start):
    error = start("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(0.2) or [][0]").error
    assert error.startswith("Rank 1 failed first (signal 9)") and "SIGKILL ended it." in error


def test_a_rank_that_ends_the_interpreter_is_named_with_its_exit_code(start):
    error = start("sys.exit(3) if rank == 1 else time.sleep(60)").error
    assert error.startswith("Rank 1 failed first (exit code 3)") and "It ended without an exception." in error


def test_nothing_that_a_killed_rank_started_is_left(start, tmp_path):
    child = "process = subprocess.Popen(['sleep', '600'])"
    noted = f"{noting(tmp_path, 'process.pid')}; other = {str(tmp_path)!r} + f'/seen{{1 - rank}}'"
    ends = "[time.sleep(0.05) for _ in iter(lambda: os.path.exists(other), True)]; os.kill(os.getpid(), signal.SIGKILL)"
    start(f"{child}; {noted}; {ends}")
    deadline = time.monotonic() + 60
    while any(runs(seen(tmp_path, rank)) for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid):
    """Whether a process is there and not merely waiting to be reaped."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until_seen(process, folder):
    deadline = time.monotonic() + 120
    while not all((folder / f"seen{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("asked", "told"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGTERM"), (signal.SIGHUP, "SIGTERM")]
)
def test_being_asked_to_stop_is_handed_on_to_the_ranks(begin, tmp_path, asked, told):
    noted = f"signal.signal(signal.SIGTERM, lambda number, _: sys.exit(open({str(tmp_path)!r} + f'/told{{rank}}', 'w').write('SIGTERM') and 75))"
    process = begin(f"{noted}; {noting(tmp_path, 1)}; time.sleep(60)")
    wait_until_seen(process, tmp_path)
    process.send_signal(asked)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "The run was asked to stop" in err
    assert [(tmp_path / f"told{rank}").read_text() for rank in (0, 1)] == [told, told]


def test_ranks_whose_parent_is_killed_before_they_can_look_for_it_end(begin, tmp_path):
    orphaned = "[time.sleep(0.05) for _ in iter(lambda: os.getppid() == int(os.environ[local.RANK_PARENT]), False)]"
    process = begin("time.sleep(600)", early=f"{noting(tmp_path, 'os.getpid()')}; {orphaned}")
    wait_until_seen(process, tmp_path)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(runs(seen(tmp_path, rank)) for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


LISTENING = """
import json, os, psutil, torch, torch.distributed as dist
from hydra_overlap.launch import local

def train(plan):
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    mine = [psutil.Process(), psutil.Process(os.getppid())]
    listening = [[one.pid, *found.laddr] for one in mine for found in one.net_connections("inet") if found.status == "LISTEN"]
    dist.barrier()
    said = {"listening": listening, "device": os.environ["GLOO_SOCKET_IFNAME"], "parent": os.getppid()}
    open(f"{plan.output_dir}/listening" + os.environ["RANK"], "w").write(json.dumps(said))
    dist.destroy_process_group()

local.as_rank(train, local.plan_of_this_rank())
"""


@needs.TORCH
def test_nothing_of_a_run_on_this_machine_listens_where_another_machine_could_connect(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(LISTENING)
    ranks.start(plan_of(output_dir=tmp_path), str(script), {})
    for rank in (0, 1):
        said = json.loads((tmp_path / f"listening{rank}").read_text())
        assert said["device"] == "lo"
        assert {address for _, address, _ in said["listening"]} == {"127.0.0.1"}
        assert said["parent"] in [pid for pid, *_ in said["listening"]], "the store that ranks meet in"


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_many_requests_to_stop_are_one(begin, tmp_path, asked):
    body = """
    from hydra_overlap.launch import stopping
    with stopping.Requests() as requests:
        open(plan.output_dir + f"/seen{rank}", "w").write(str(os.getpid()))
        while not requests._received:
            time.sleep(0.02)
    time.sleep(1)  # it saves, and its handlers are taken back
    raise stopping.Stopped("asked")
"""
    process = begin(body)
    wait_until_seen(process, tmp_path)
    pids = [process.pid, *(int((tmp_path / f"seen{rank}").read_text()) for rank in (0, 1))]
    while process.poll() is None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, asked)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "The run was asked to stop" in err and "Traceback" not in err


def test_an_interrupt_reaches_the_ranks_as_one(begin, tmp_path):
    process = begin(f"{noting(tmp_path, 1)}; time.sleep(60)")
    wait_until_seen(process, tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
    assert "KeyboardInterrupt" in (tmp_path / "ranks/1/stderr.log").read_text()


def test_ranks_that_ignore_it_are_killed_after_a_time(tmp_path):
    begun = processes.begin(1, str(_sleeper(tmp_path)), {}, tmp_path / "1", fork=False)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    processes.end([begun], signal.SIGTERM, patience_s=0.2)
    deadline = time.monotonic() + 60
    while begun.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert begun.poll() == -signal.SIGKILL


def _sleeper(folder):
    script = folder / "sleeper.py"
    script.write_text(
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(folder / 'ready')!r}).touch()\ntime.sleep(600)\n"
    )
    return script


def test_a_process_in_which_nothing_was_started_is_no_rank():
    assert "RANK" not in os.environ and local.plan_of_this_rank() is None


def test_the_variables_of_ranks_are_taken_back(monkeypatch):
    monkeypatch.setenv("SAID", "before")
    with local.exported({"SAID": "within", "NEW": "1"}):
        assert (os.environ["SAID"], os.environ["NEW"]) == ("within", "1")
    assert os.environ["SAID"] == "before" and "NEW" not in os.environ
