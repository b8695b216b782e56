"""A launch judged where it stands, and started as if nothing had been in front of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap.audit import UnreadableError, gate
from hydra_overlap.cli import main
from tests.audit.test_audit import MODEL, TP4

GOOD = f"torchrun --nproc-per-node 8 pretrain_gpt.py {MODEL} {TP4}".split()
BAD = [word for word in GOOD if word != "--sequence-parallel"]
ONE = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


def test_words_and_environment_are_judged_as_they_are() -> None:
    found = gate.judge(GOOD, ONE, ["platform=h100"])
    assert found.verdict == "accepted" and found.request["parallelism"]["world_size"] == 8
    assert [finding.rule for finding in gate.judge(BAD, ONE, ["platform=h100"]).errors] == ["TP002"]
    wrong = gate.judge(GOOD, {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}, ["platform=h100"])
    assert [finding.rule for finding in wrong.errors] == ["ENV002"]


def test_overrides_of_bridge_are_judged_with_the_ranks_of_the_launcher() -> None:
    words = "torchrun --nproc-per-node 4 run.py comm_overlap.tp_comm_overlap=true model.tensor_model_parallel_size=1"
    found = gate.judge([*words.split(), "mixed_precision=bf16_mixed"], {}, ["platform=h100"])
    assert found.kind.startswith("Megatron-Bridge") and found.request["parallelism"]["world_size"] == 4
    assert "TP001" in [finding.rule for finding in found.errors]


def test_formats_of_other_programs_are_judged_as_an_audit_reads_them() -> None:
    megatron = "actor_rollout_ref.actor.megatron"
    words = f"python3 -m verl.trainer.main_ppo --config-name=ppo_megatron_trainer.yaml {megatron}.tensor_model_parallel_size=4".split()
    overlap = f"+{megatron}.override_transformer_config."
    words += [f"{overlap}overlap_moe_expert_parallel_comm=True", f"{overlap}moe_shared_expert_overlap=True"]
    found = gate.judge(words, ONE, ["platform=h100"])
    assert (
        found.kind.startswith("verl") and found.verdict == "undecided"
    )  # the experts are the model's, which is not said
    assert found.request["parallelism"]["tensor_model_parallel_size"] == 4


def test_the_version_is_that_of_the_checkout_the_program_lies_in(tmp_path: Path) -> None:
    core = tmp_path / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "package_info.py").write_text("MAJOR = 0\nMINOR = 17\nPATCH = 1\nPRE_RELEASE = ''\n")
    (tmp_path / "pretrain_gpt.py").touch()
    software = gate.judge(GOOD, ONE, ["platform=h100"], folder=tmp_path).request["software"]
    assert software["megatron_core"] == "0.17.1"
    inside = ["docker", "run", "img", *GOOD]
    assert gate.judge(inside, ONE, ["platform=h100"], folder=tmp_path).request["software"]["megatron_core"] == "0.16.1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["srun", "bash", "run.sh"], "hydra-overlap record -- bash run.sh"),
        (["torchrun", "other.py", "--epochs", "3"], "no arguments that can be judged"),
        (["srun", "-N", "2"], "No program is started"),
    ],
)
def test_what_cannot_be_judged_is_said(words: list[str], says: str) -> None:
    with pytest.raises(UnreadableError, match=says):
        gate.judge(words, {})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Launchers that the command would have become."""
    found: list[tuple[str, ...]] = []

    def become(words: tuple[str, ...]) -> None:
        found.append(words)
        raise SystemExit(0)

    monkeypatch.setattr(gate, "become", become)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    for name in gate.RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return found


def run(*words: str):
    return CliRunner().invoke(main, ["gate", "platform=h100", *words])


def test_a_refused_launch_does_not_start(started: list[tuple[str, ...]]) -> None:
    done = run("--", *BAD)
    assert (done.exit_code, started, done.stdout) == (1, [], "")
    assert "refused by 1 rule" in done.stderr and "Nothing was started" in done.stderr


def test_any_other_launch_starts_with_its_own_words(started: list[tuple[str, ...]]) -> None:
    done = run("--", *GOOD)
    assert (done.exit_code, started, done.stdout) == (0, [tuple(GOOD)], "")
    assert done.stderr.startswith("accepted: ")


def test_report_only_starts_what_is_refused_and_what_cannot_be_judged(started: list[tuple[str, ...]]) -> None:
    assert "refused by 1 rule" in run("--report-only", "--", *BAD).stderr
    assert "nothing was judged" in run("--report-only", "--", "torchrun", "other.py").stderr
    assert started == [tuple(BAD), ("torchrun", "other.py")]


def test_print_starts_nothing(started: list[tuple[str, ...]]) -> None:
    good, bad = run("--print", "--", *GOOD), run("--print", "--", *BAD)
    assert (good.exit_code, bad.exit_code, started) == (0, 1, [])
    assert good.stdout.startswith("accepted: ") and bad.stdout.startswith("refused by 1 rule")


def test_json_stands_where_the_verdict_stands_and_says_what_becomes_of_the_launch(
    started: list[tuple[str, ...]],
) -> None:
    told = json.loads(run("--json", "--print", "--", *BAD).stdout)
    assert (told["verdict"], told["exit_code"], told["result"]["starts"]) == ("refused", 1, False)
    told = json.loads(run("--json", "--", *GOOD).stderr)
    assert (told["verdict"], told["exit_code"], told["result"]["starts"]) == ("accepted", 0, True)


def test_one_rank_alone_speaks(started: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    done = run("--", *BAD)
    assert (done.exit_code, done.stderr, started) == (1, "", [])


@pytest.mark.parametrize(
    "words", [[], ["--"], ["torchrun", "p.py"], ["--print", "--report-only", "--", *GOOD], ["--", "srun"], ["H100", "--", *GOOD]]
)  # fmt: skip
@pytest.mark.usefixtures("started")
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    done = run(*words)
    assert done.exit_code == 2 and (done.stderr or done.stdout)


def test_the_launcher_gets_words_environment_input_and_signals_as_they_were(tmp_path: Path) -> None:
    """Started for real: Python alone would add LC_CTYPE where the locale is C, and would hand on that SIGPIPE is ignored."""
    program = tmp_path / "pretrain_gpt.py"
    program.write_text(
        "import json, os, sys\n"
        "status = open('/proc/self/status').read().split('SigIgn:')[1].split()[0] if os.path.exists('/proc/self/status') else '0'\n"
        "print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), sys.stdin.read(), status]))\n"
        "sys.exit(7)\n"
    )
    words = [sys.executable, "-S", str(program), *MODEL.split(), "--save", "a b"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "", "WORLD_SIZE": "8", "X": "ä b"}
    gated = [sys.executable, "-m", "hydra_overlap.cli", "gate", "platform=h100", "--", *words]
    plain, under = (
        subprocess.run(call, cwd=tmp_path, env=environment, input="in", capture_output=True, text=True, timeout=120)
        for call in (words, gated)
    )
    assert (under.returncode, under.stdout) == (7, plain.stdout)
    assert under.stderr.startswith("accepted: ")


def test_a_launcher_that_does_not_exist_ends_as_in_a_shell(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "hydra_overlap.cli", "gate", "platform=h100", "--", "./torchrun", *GOOD[1:]]
    done = subprocess.run(
        call, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **ONE, "PYTHONPATH": ""}, timeout=120
    )
    assert done.returncode == 127 and "there is no program ./torchrun" in done.stderr
