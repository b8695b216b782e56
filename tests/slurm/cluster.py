"""A Slurm of two nodes on this machine, on loopback, without a service manager: munge, accounting, controller, nodes.

Everything lies in one folder and listens on ports that were free. Both nodes are this host: their names must not resolve
to it (Slurm takes them for one node twice), so they resolve to nothing, as in no real cluster.
"""

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
NODES = ("n1", "n2")
START_S = 60  # for any daemon to answer; they take a second
STOP_S = 10

SLURM_CONF = """
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
FirstJobId={first_job}
ReturnToService=2
KillWait=5
MinJobAge=300
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)} on PATH (tests/slurm/install.sh installs them)"
    return None if os.getuid() == 0 else "slurmd starts tasks as root only"


class Cluster:
    """A running Slurm. environment: what its commands, and those that submit to it, start with."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def run(self, *command: str, timeout: float = 120, **options: object) -> "subprocess.CompletedProcess[str]":
        """A command to its end, output captured."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, **options
        )

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints; it must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """State of a job as the accounting has it, such as COMPLETED; empty before it is known there."""
        lines = self.ask("sacct", "-X", "-n", "-P", "-D", "-j", job, "-o", "State").splitlines()
        return lines[-1].split()[0] if lines and lines[-1] else ""

    def wait_for(self, job: str, *states: str, timeout: float = 60) -> str:
        """Wait until a job is in one of the states; -> that state."""
        return wait(
            lambda: self.state(job), lambda state: state in states, f"job {job} is {' or '.join(states)}", timeout
        )


def wait(look, until, what: str, timeout: float = START_S, every: float = 0.1):  # type: ignore[no-untyped-def]
    """Call `look` until `until` says that its answer will do; -> the answer."""
    end = time.monotonic() + timeout
    while True:
        answer = look()
        if until(answer):
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout} s still not: {what}; last: {answer!r}")
        time.sleep(every)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster whose files lie in `folder`, and stop all of it on the way out, also if it did not come up."""
    controller, dbd, sql, *ports = free_ports(3 + len(NODES))
    host, user = socket.gethostname(), getpass.getuser()
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Gres=gpu:2 RealMemory=1000 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    values = {
        "folder": folder, "host": host, "user": user, "nodes": nodes, "controller_port": controller, "dbd_port": dbd,
        "sql_port": sql,
        "first_job": random.randint(1, 60) * 1000,  # ranks meet on a port made of the job's id: other than beside us
    }  # fmt: skip
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    _write_private(folder / "slurmdbd.conf", DBD_CONF.format(**values).encode())
    # Two GPUs that Slurm believes in and no driver knows: what a node with a dead GPU looks like to a rank.
    for number in (0, 1):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    _write_private(folder / "munge.key", random.randbytes(1024))
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))
    }
    cluster = Cluster(
        folder,
        {
            **kept,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
        },
    )
    with ExitStack() as stack:
        _start_munge(cluster, stack)
        _start_database(cluster, stack, sql)
        _start(cluster, stack, "slurmdbd", "-D")
        wait(
            lambda: cluster.run("sacctmgr", "-n", "show", "cluster").returncode,
            lambda code: code == 0,
            "slurmdbd answers",
        )
        cluster.run("sacctmgr", "-i", "add", "cluster", "loop")
        _start(cluster, stack, "slurmctld", "-D")
        for node in NODES:
            _start(cluster, stack, "slurmd", "-D", "-N", node)
        idle = ["idle"] * len(NODES)
        wait(lambda: cluster.run("sinfo", "-h", "-N", "-o", "%t").stdout.split(), lambda s: s == idle, "nodes are idle")
        # Jobs first, on the way out: a job left behind is a process left behind.
        stack.callback(_end_jobs, cluster)
        yield cluster


def _end_jobs(cluster: Cluster) -> None:
    cluster.run("scancel", "--user", getpass.getuser())
    cluster.run("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
    wait(lambda: cluster.run("squeue", "-h", "-o", "%i %T").stdout.split(), lambda s: s == [], "no job is left", 30)


def _start_munge(cluster: Cluster, stack: ExitStack) -> None:
    folder = cluster.folder
    names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}  # fmt: skip
    options = [f"--{option}={folder / name}" for option, name in names.items()]
    _start(cluster, stack, "munged", "--foreground", "--force", *options)
    wait((folder / "munge.socket").exists, bool, "munged listens")


def _start_database(cluster: Cluster, stack: ExitStack, port: int) -> None:
    """MariaDB with one user for slurmdbd. As root it must be told a user; data of root is read by root."""
    folder = cluster.folder
    common = ["--no-defaults", f"--datadir={folder / 'db'}", f"--user={getpass.getuser()}"]
    done = cluster.run("mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db")
    assert done.returncode == 0, done.stdout + done.stderr
    first = folder / "first.sql"
    first.write_text(
        "CREATE DATABASE slurm_acct_db;\nCREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';\n"
        "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
    )
    memory = ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=16M"]
    network = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'db.socket'}", "--skip-name-resolve"]
    _start(
        cluster,
        stack,
        "mariadbd",
        *common,
        *network,
        *memory,
        f"--init-file={first}",
        f"--pid-file={folder / 'db.pid'}",
    )
    wait(lambda: socket.socket().connect_ex(("127.0.0.1", port)), lambda error: error == 0, "mariadbd listens")


def _start(cluster: Cluster, stack: ExitStack, *command: str) -> None:
    """A daemon in the foreground, in a process group of its own, ended when the stack unwinds."""
    with (cluster.folder / f"{'.'.join(command[:1] + command[3:4])}.out".replace("/", "_")).open("w") as log:
        daemon = subprocess.Popen(
            command, env=cluster.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    stack.callback(_stop, daemon)


def _stop(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(content)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, told by the kernel; held together until all are known."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
