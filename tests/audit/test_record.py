"""A script run with recorders in the place of its launchers: nothing starts, everything else runs, each launch is judged."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap.audit.record import Recording, record
from hydra_overlap.cli import main
from tests.audit.test_audit import MODEL, TP4

SPLIT = f'ARGS=({MODEL} {TP4})\nRUN="torchrun --nproc-per-node 8 pretrain_gpt.py"\n'


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recording]:
    """Record a script in a folder that has launchers of its own, in `bin` and in `other`: each says that it was started."""
    monkeypatch.chdir(tmp_path)
    for folder in ("bin", "other"):
        (tmp_path / folder).mkdir()
        for name in ("torchrun", "srun", "python3"):
            file = tmp_path / folder / name
            real = f'case "$*" in *pretrain*) ;; *) exec {sys.executable} "$@" ;; esac\n' if name == "python3" else ""
            file.write_text(f"#!/bin/sh\n{real}echo {name} >> {tmp_path}/started\n")
            file.chmod(0o755)

    def run(script: str, *words: str, **variables: str) -> Recording:
        (tmp_path / "run.sh").write_text("#!/bin/bash\n" + script)
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), **variables}
        found = record(["bash", "run.sh", *words], environment)
        assert not (tmp_path / "started").exists()
        return found

    return run


def words(recording: Recording) -> list[list[str]]:
    return [list(launch.words) for launch in recording.launches]


def test_words_are_those_that_bash_passes(recorded: Callable[..., Recording]) -> None:
    found = recorded(
        'N=$((2 * 4))\nA=(--x "a b" "$1")\nif [ $N -gt 4 ]; then A+=(--y); fi\n'
        'torchrun --nproc-per-node $N p.py "${A[@]}" \\\n  # a comment\n  --never\ntorchrun other.py > log 2>&1 | cat\n',
        "first word",
    )
    assert words(found) == [
        ["torchrun", "--nproc-per-node", "8", "p.py", "--x", "a b", "first word", "--y"], ["torchrun", "other.py"],
    ]  # fmt: skip


def test_the_environment_and_the_folder_are_those_of_the_launch(
    recorded: Callable[..., Recording], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    found = recorded("export A=1\nB=2\ncd sub\nC=3 torchrun p.py\n", D="4")
    (launch,) = found.launches
    assert {name: launch.environment.get(name) for name in "ABCD"} == {"A": "1", "B": None, "C": "3", "D": "4"}
    assert launch.folder == tmp_path / "sub" and launch.environment["PATH"].startswith(f"{tmp_path}/bin")
    assert not any(name.startswith("HYDRA_OVERLAP") or name == "BASH_ENV" for name in launch.environment)


def test_other_commands_and_other_python_programs_run(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    found = recorded(
        "set -e\ntouch made\npython3 -c 'open(\"too\", \"w\")'\nif ! python3 -c 'exit(4)'; then touch kept; fi\n"
        "python3 pretrain_gpt.py --num-layers 2\npython3 -m torch.distributed.run p.py\n"
    )
    assert [launch[:2] for launch in words(found)] == [["python3", "pretrain_gpt.py"], ["python3", "-m"]]
    assert all((tmp_path / name).exists() for name in ("made", "too", "kept")) and found.exit_code == 0


@pytest.mark.parametrize(
    "call",
    [
        'PATH="$PWD/other:$PATH"\ntorchrun p.py --x',
        'PATH="$PWD/other:$PATH"\n(exec torchrun p.py --x)',
        'PATH="$PWD/other:$PATH"\nnohup torchrun p.py --x | cat',
        "$PWD/other/torchrun p.py --x",
        '"${PWD}/other/torchrun" p.py --x | cat > log',
        "A=1 ./other/torchrun p.py --x &\nwait",
        'f() { ./other/torchrun "$@"; }\nf p.py --x',
        "X=$(./other/torchrun p.py --x)",
        "bash -c './other/torchrun p.py --x'",
    ],
)
def test_no_launcher_gets_past_its_recorder(recorded: Callable[..., Recording], call: str) -> None:
    assert words(recorded(call + "\n")) == [["torchrun", "p.py", "--x"]]


def test_an_interpreter_called_by_its_path_runs_unless_it_would_train(recorded: Callable[..., Recording]) -> None:
    found = recorded(
        "PY=$PWD/other/python3\n$PY -c 'open(\"too\", \"w\")'\n$PY pretrain_gpt.py --x\n$PY -c 'exit(3)'\n"
    )
    assert words(found) == [["python3", "pretrain_gpt.py", "--x"]] and found.exit_code == 3


def test_a_shell_that_a_launcher_starts_is_followed(recorded: Callable[..., Recording]) -> None:
    found = recorded("srun -N 2 --export=ALL,A=1 bash -c 'torchrun --nnodes 2 p.py'\n")
    (launch,) = found.launches
    assert launch.words == ("srun", "-N", "2", "--export=ALL,A=1", "torchrun", "--nnodes", "2", "p.py")
    assert launch.environment["A"] == "1"


def test_a_job_has_the_numbers_that_its_script_asks_for(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#SBATCH --ntasks-per-node=8\nsrun python3 pretrain_gpt.py $SLURM_NNODES $1\n")
    found = recorded("#SBATCH -N 3\nsbatch -N 4 job.sh x\ntorchrun --nnodes $SLURM_NNODES p.py\n")
    assert words(found) == [["srun", "python3", "pretrain_gpt.py", "4", "x"], ["torchrun", "--nnodes", "3", "p.py"]]
    assert found.launches[0].environment["SLURM_NTASKS"] == "32"
    inside = recorded("#SBATCH -N 3\ntorchrun --nnodes $SLURM_NNODES p.py\n", SLURM_JOB_ID="1", SLURM_NNODES="5")
    assert words(inside)[-1] == ["torchrun", "--nnodes", "5", "p.py"] and inside.job == {}


def test_the_command_judges_each_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "run.sh"
    script.write_text(
        f"export CUDA_DEVICE_MAX_CONNECTIONS=1\ntorchrun --nproc-per-node 8 pretrain_gpt.py {MODEL} {TP4}\n"
        f"echo of the script\ntorchrun --nproc-per-node 2 pretrain_gpt.py {MODEL} {TP4}\ntorchrun other.py\nexit 3\n"
    )
    call = ["record", "platform=h100"]
    done = CliRunner().invoke(main, [*call, "--", "bash", "run.sh"])
    assert done.exit_code == 1
    for text in (
        "3 launches were recorded and none was started",
        "exit code 3",
        "PAR001",
        "launch 2: torchrun",
        "not judged",
    ):
        assert text in done.stdout
    assert "all its other commands run" in done.stderr
    told = json.loads(CliRunner().invoke(main, [*call, "--json", "--", "bash", "run.sh"]).stdout)
    assert (told["verdict"], len(told["result"]["launches"]), len(told["result"]["commands"])) == ("refused", 3, 2)
    script.write_text("echo nothing\n")
    assert CliRunner().invoke(main, [*call, "--", "bash", "run.sh"]).exit_code == 2
    assert CliRunner().invoke(main, [*call, "--", "./nowhere.sh"]).exit_code == 2
