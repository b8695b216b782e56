"""What a user gets wrong on the command line or in an option file ends in the usual message, never in a traceback."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hydra_overlap.compose import app
from tests.compose.commands import JOB, Run

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`command(*arguments)` -> exit code and what stood on stderr; the app runs in this process."""
    spec = importlib.util.spec_from_file_location("job_app", JOB)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["job.py", *arguments])
        code = 0
        try:
            app.cli(module.main)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return start


MISTAKES = [
    # arguments, exit code, rule, what else stands in the message
    ("comm_overlap=tp4_h10", 1, "CFG003", ["comm_overlap=tp4_h100   did you mean this?", "tp8_b200"]),
    ("userbuffers=bf16_h100_h8192_tp4_mbs1_seq8129", 1, "CFG003", ["userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192   did you"]),
    ("model=llama3_7b", 1, "CFG003", ["model=llama3_70b", "qwen3_30b_a3b"]),
    ("hydra/launcher=slurm", 1, "CFG003", ["has: basic, "]),
    ("comm_overlap=null", 1, "CFG003", ["comm_overlap=none", "tp4_h100"]),
    ("comm_overlap=3", 1, "CFG003", ["comm_overlap=3", "comm_overlap=none"]),
    ("parallelism=true", 1, "CFG003", ["tp4"]),
    ("gating=lenient", 1, "CFG003", ["gating=strict"]),
    ("comm_overlap.dp.bucket_sise=4", 1, "CFG001", ["comm_overlap.dp.bucket_size=4   in place of comm_overlap.dp.bucket_sise=4: did you mean this?"]),
    ("comm_overlap.dpp.bucket_sise=4", 1, "CFG001", ["comm_overlap.dp.bucket_size=4   in place of"]),
    ("paralelism=tp4", 1, "CFG001", ["Known keys: gating, parallelism, comm_overlap"]),
    ("nonsense=3", 1, "CFG001", ["There is no nonsense", "launch"]),
    ("comm_overlap/tpp=none", 1, "CFG001", ["comm_overlap/tp=none   in place of comm_overlap/tpp=none: did", "comm_overlap/ep"]),
    ("comm_overlap@train=none", 1, "CFG001", ["comm_overlap=none   in place of comm_overlap@train=none"]),
    ("comm_overlap={a:1}", 1, "CFG001", ["comm_overlap.a=1", "tp, pp, dp, ep"]),
    ("overlap.effective.world_size=3", 1, "CFG001", ["overlap.* holds the answer of the rules"]),
    ("comm_overlap.dp.bucket_size=abc", 1, "CFG002", ["comm_overlap.dp.bucket_size=null", "counts parameters, not bytes"]),
    ("comm_overlap.dp.bucket_size=true", 1, "CFG002", ["a whole number, or null"]),
    ("comm_overlap.dp.overlap_grad_reduce=2", 1, "CFG002", ["true or false, or null"]),
    ("+comm_overlap@train.comm_overlap=dp", 1, "CFG007", ["comm_overlap=dp   in place of"]),
    ("~comm_overlap.dp.bucket_size", 1, "CFG001", ["++comm_overlap.dp.bucket_size=null"]),
    ("training.train_iters=${no.such}", 1, "CFG002", ["training.train_iters=${no.such}", "training.train_iters=100"]),
    ("data.files=/texts", 1, "CFG002", ["data.files=[/texts]   in place of data.files=/texts: a list with this one item"]),
    ("training.seed=4294967296", 1, "CFG005", ["has to be below 4,294,967,296."]),
    ("parallelism.sequence_parallel=maybe", 1, "CFG002", ["true or false"]),
    ("model.hidden_size=1.5", 1, "CFG002", ["a whole number"]),
    ("comm_overlap.tp=none", 1, "CFG002", ["comm_overlap/tp=none   a slash, not a dot"]),
    ("comm_overlap.tp=userbufers", 1, "CFG002", ["comm_overlap/tp=userbuffers   a slash, not a dot"]),
    ("comm_overlap.dp.bucket_size=-1", 1, "CFG005", ["comm_overlap.dp.bucket_size=null"]),
    ("+comm_overlap=dp", 1, "CFG008", ["comm_overlap=dp   without the +"]),
    ("+comm_overlap=default", 1, "CFG008", ["comm_overlap=default   without the +"]),
    ("+parallelism=tp8", 1, "CFG008", ["parallelism=tp8   without the +"]),
    ("+comm_overlap@train.comm_overlap=none", 1, "CFG007", ["comm_overlap=none   in place of"]),
    ("comm_overlap=[none,dp]", 1, "CFG008", ["comm_overlap=none   one of them"]),
    ("comm_overlap=tp4_h100 userbuffers.layers.qkv_fpropp.num_smm=4", 1, "CFG001", ["++userbuffers.layers.qkv_fprop.num_sm=4"]),
    ("-m parallelism=tp99,tp4 hydra.sweeper.on_invalid=refuse", 1, "CFG003", ["parallelism=tp99   command line"]),
    ("-m parallelism=range(1,3)", 1, "CFG003", ["parallelism=1   command line"]),
    ("-m comm_overlap.dp.bucket_sise=4,5", 1, "CFG001", ["comm_overlap.dp.bucket_size=4   in place of"]),
    ("~overlap", 1, "CFG001", ["removed it"]),
    ("overlap=null", 1, "CFG001", ["removed it"]),
    ("+comm_overlap.tp=null", 1, "HYDRA", ["An item is already at"]),
    ("~hydra.job.env_copy", 1, "CFG002", ["hydra.job.env_copy"]),
    ("hydra.job.env_set=null", 1, "CFG002", ["hydra.job.env_set"]),
    ("--config-name=nope", 1, "FILE", ["nope"]),
    ("--config-path=nope", 1, "FILE", ["nope"]),
    ("--config-dir=nope", 1, "HYDRA", ["nope"]),
    ("~nonsense", 1, "HYDRA", ["Could not delete"]),
    ("hydra.run.dir=${nope}", 1, "HYDRA", ["Interpolation key 'nope' not found", "hydra.run.dir"]),
    ("hydra.run.dir=/proc/nothing/here", 1, "FILE", ["/proc/nothing"]),
    ("comm_overlap.dp.bucket_size=[4", 2, "USE", ["KEY=VALUE"]),
    ("comm_overlap.dp.bucket_size", 2, "USE", ["KEY=VALUE"]),
    ("=3", 2, "USE", ["KEY=VALUE", "=3", "There is no key before the value."]),
    ("=tp4", 2, "USE", ["KEY=VALUE"]),
    ("+=3", 2, "USE", ["KEY=VALUE"]),
    ("++=3", 2, "USE", ["KEY=VALUE"]),
    ("~=3", 2, "USE", ["KEY=VALUE"]),
    ("parallelism=tp4,tp8", 2, "USE", ["-m parallelism=tp4,tp8"]),
    ("--resolve", 2, "USE", ["--cfg"]),
    ("--run --cfg=job", 2, "USE", ["Only one of"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "rule", "said"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_on_the_command_line_is_told_in_the_usual_form(
    command: Command, tmp_path: Path, arguments: str, code: int, rule: str, said: list[str]
) -> None:
    found, message = command(*arguments.split())
    assert found == code, message
    assert f"\nerror {rule}  " in message
    assert "; nothing was started." in message.splitlines()[0]
    assert "Traceback" not in message
    for text in said:
        assert " ".join(text.split()) in " ".join(message.split()), message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_exits_with_2_and_the_usage(command: Command) -> None:
    code, message = command("--nonsense")
    assert code == 2
    assert message.startswith("usage: ")


def test_the_real_command_exits_with_1_for_a_mistake_and_2_for_usage(script: Path, run: Run) -> None:
    assert run(script, "comm_overlap=tp4_h10").returncode == 1
    assert run(script, "comm_overlap.dp.bucket_size=[4").returncode == 2


FILES = [
    # name, text, arguments, rule, what else stands in the message
    ("model/mine.yaml", "defaults: [/_overlap/schema/model@_here_, _self_]\nhiden_size: 3\n", "model=mine", "CFG001", ["model.hiden_size", "model/mine.yaml", "Did you mean hidden_size?"]),
    ("model/mine.yaml", "defaults: [/_overlap/schema/model@_here_, _self_]\nhidden_size: wide\n", "model=mine", "CFG002", ["model.hidden_size", "model/mine.yaml"]),
    ("model/mine.yaml", "hidden_size: [3\n", "model=mine", "FILE", ["mine.yaml line 2"]),
    ("comm_overlap/dp/mine.yaml", "bucket_sise: 3\n", "comm_overlap/dp=mine", "CFG001", ["comm_overlap.dp.bucket_sise", "Did you mean bucket_size?"]),
    ("model/mine.yaml", "defaults: [tinny]\n", "model=mine", "CFG003", ["tinny"]),
    ("experiment/mine.yaml", "# @package _global_\ndefaults: [{override /comm_overlap: tp4_h10}]\n", "experiment=mine", "CFG003", ["comm_overlap=tp4_h100", "did you mean"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "arguments", "rule", "said"), FILES, ids=[f"{row[0]}-{row[3]}" for row in FILES]
)
def test_a_mistake_in_an_option_file_names_the_file(
    command: Command, tmp_path: Path, name: str, text: str, arguments: str, rule: str, said: list[str]
) -> None:
    file = tmp_path / "options" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    code, message = command(f"--config-dir={tmp_path / 'options'}", *arguments.split())
    assert code == 1, message
    assert f"\nerror {rule}  " in message, message
    assert "Traceback" not in message
    for part in said:
        assert " ".join(part.split()) in " ".join(message.split()), message


def test_a_failure_of_our_own_inside_the_check_is_not_taken_for_a_mistake(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes wrapped by omegaconf, like a user's bad interpolation; the traceback has to stay."""

    def fails(*_: object, **__: object) -> None:
        raise KeyError("a bug of ours")

    monkeypatch.setattr("hydra_overlap.compose.enforce.resolve", fails)
    code, message = command("comm_overlap=none")
    assert code == 1
    assert "Traceback" in message
    assert "a bug of ours" in message
