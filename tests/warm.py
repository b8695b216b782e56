"""`python SCRIPT ARGUMENTS` without the seconds that its imports take: forked from an interpreter that has done them.

A test whose subject is what a script does, and not how a process comes to be, calls `run` or `Process`. The script gets a
process of its own, with its own `__main__`, arguments, environment, directory and output, and ends as any script does. Ranks
of a rehearsal are forked from the script in turn, as ever. Each pytest process has one such parent for Hydra's
apps and one that knows torch and megatron-core too; they start when they are first asked and end with it.

What differs from a new process: modules are loaded already, and what libraries read from the environment while they load is
read from that of pytest. Tests of imports, of installed packages and of who is whose parent start real processes.
`pytest --cold` does so everywhere.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
HYDRA = (
    "hydra.main", "hydra._internal.hydra", "hydra._internal.utils", "hydra.core.override_parser.overrides_parser",
    "hydra._internal.core_plugins.basic_launcher", "hydra._internal.core_plugins.basic_sweeper",
    "hydra_overlap.compose.app", "hydra_overlap.compose.enforce", "hydra_overlap.resolver.ledger_table",
    "hydra_plugins.hydra_overlap_plugin.searchpath", "hydra_plugins.hydra_overlap_plugin.sweeper",
)  # fmt: skip
TRAINER = (
    *HYDRA, "psutil", "torch._dynamo", "torch.onnx", "numpy",
    "hydra_overlap.dry_run.report", "hydra_overlap.launch.local", "hydra_overlap.megatron.build",
    "hydra_overlap.megatron.checkpoint", "hydra_overlap.megatron.configs", "hydra_overlap.megatron.data",
    "hydra_overlap.megatron.evaluate", "hydra_overlap.megatron.readback", "hydra_overlap.megatron.rehearsal",
    "hydra_overlap.megatron.step", "hydra_overlap.megatron.userbuffers", "hydra_overlap.run.report",
    "hydra_overlap.run.record", "torch.utils.tensorboard", "megatron.core.datasets.blended_megatron_dataset_builder",
    "megatron.core.datasets.gpt_dataset", "megatron.core.dist_checkpointing", "megatron.core.distributed",
    "megatron.core.models.gpt.gpt_layer_specs", "megatron.core.models.gpt.gpt_model", "megatron.core.optimizer",
    "megatron.core.optimizer_param_scheduler", "megatron.core.pipeline_parallel.schedules",
)  # fmt: skip
cold = False
"""Whether `run` and `Process` start new interpreters; set by `pytest --cold`."""


class Done(subprocess.CompletedProcess[str]):
    """What a script came to. cpu_s: seconds of processor time that it took, without ranks."""

    cpu_s: float


class Process:
    """A script in a process forked from the warm parent; the part of subprocess.Popen that its callers use."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path,
        env: Mapping[str, str],
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
        address: str = "",
        start_new_session: bool = False,
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        asked = {"argv": list(command), "cwd": str(cwd), "env": dict(env), "session": start_new_session}
        text = json.dumps(asked).encode()
        socket.send_fds(self._connection, [len(text).to_bytes(8, "big")], [stdin, stdout, stderr])
        self._connection.sendall(text)
        self.pid = int.from_bytes(_received(self._connection, 8), "big")
        self.returncode: int | None = None
        self.cpu_s = 0.0  # of the script, once it has ended

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it has ended. Raises subprocess.TimeoutExpired after timeout seconds."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("warm script", timeout or 0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def _ended(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int.from_bytes(_received(self._connection, 8), "big"))
        self.cpu_s = int.from_bytes(_received(self._connection, 8), "big") / 1e6
        self._connection.close()

    def send_signal(self, number: int) -> None:
        """Send the signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str | Path],
    *,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
    input: str = "",
    modules: Sequence[str] = HYDRA,
) -> Done:
    """`subprocess.run([sys.executable, *command], capture_output=True, text=True)`, warm; command: script, arguments.

    modules: what the parent has imported, HYDRA or TRAINER. timeout: seconds; a wide bound, for what would never end. Raises
    subprocess.TimeoutExpired with what was printed so far.
    """
    words, environment = [str(word) for word in command], dict(os.environ if env is None else env)
    if cold:
        before, command = os.times(), [sys.executable, *words]
        ended = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, input=input
        )
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return _done(ended.returncode, words, ended.stdout, ended.stderr, used)
    with _file(input) as given, _file() as out, _file() as err:
        files = {"stdin": given.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        started = Process(words, cwd=cwd, env=environment, address=_parent(tuple(modules)), **files)
        try:
            code = started.wait(timeout)
        except subprocess.TimeoutExpired as late:
            started.kill()
            started.wait()
            raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err)) from late
        return _done(code, words, _text(out), _text(err), started.cpu_s)


def _done(code: int, words: Sequence[str], out: str, err: str, cpu_s: float) -> Done:
    done = Done([sys.executable, *words], code, out, err)
    done.cpu_s = cpu_s
    return done


def _file(text: str = "") -> IO[str]:
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by whoever asks
    file.write(text)
    file.flush()
    file.seek(0)
    return file


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@cache
def _parent(modules: tuple[str, ...]) -> str:
    """Address of the parent that has imported these; started when first asked. It ends when its standard input does."""
    folder = tempfile.TemporaryDirectory(prefix="warm")
    address = f"{folder.name}/socket"
    started = subprocess.Popen(
        [sys.executable, __file__, address, *modules], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # what has threads is not forked
    )  # fmt: skip
    assert started.stdout is not None and started.stdout.readline() == b"warm\n"

    def end() -> None:
        assert started.stdin is not None
        started.stdin.close()
        started.wait()
        folder.cleanup()

    atexit.register(end)
    return address


def _received(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ConnectionError("the warm parent has ended")
        found += part
    return found


# The parent's side


def _serve(address: str) -> list[str]:
    """Fork for everyone who asks; returns in the fork, with the script and its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    os.write(1, b"warm\n")
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _watched(connection)
        connection.close()


def _watched(connection: socket.socket) -> list[str]:
    """Fork once more: the watcher tells whoever asked what became of the script, which goes on from here with its words."""
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    size += _received(connection, 8 - len(size))
    asked = json.loads(_received(connection, int.from_bytes(size, "big")))
    child = os.fork()
    if child == 0:
        connection.close()
        _become(asked, files)
        return list(asked["argv"])
    for file in files:
        os.close(file)
    with suppress(OSError):
        connection.sendall(child.to_bytes(8, "big"))
    closing = select.poll()
    closing.register(connection, select.POLLHUP | select.POLLERR)
    watcher = threading.Thread(target=lambda: closing.poll() and os._exit(0), daemon=True)  # nobody is left to tell
    watcher.start()
    _, status, used = os.wait4(child, 0)
    taken = int((used.ru_utime + used.ru_stime) * 1e6)
    with suppress(OSError):
        connection.sendall(status.to_bytes(8, "big") + taken.to_bytes(8, "big"))
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> None:
    """Directory, environment and output of the script."""
    if asked["session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])


def _prepare_torch() -> None:
    """What ranks and dry runs do before megatron-core is imported, in the order that a dry run needs."""
    import torch

    from hydra_overlap.megatron import cpu

    with torch.device("meta"):  # the factories that a device context redirects, before they are wrapped
        torch.empty(0)
    cpu.install()


def main() -> None:
    """Serve as `warm.py ADDRESS MODULE...`."""
    address, *modules = sys.argv[1:]
    sys.path[0] = str(ROOT)  # not tests/, whose folders are named like packages
    trainer = any(module.startswith("torch") for module in modules)
    if trainer:
        _prepare_torch()
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    words = _serve(address)
    if trainer:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.argv = words
    sys.path[:1] = [str(Path(words[0]).resolve().parent), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
