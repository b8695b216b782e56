"""The dictionary and the environment by themselves, and the command that writes files."""

import shlex
import sys

import pytest
import yaml
from click.testing import CliRunner

from hydra_overlap import resolve
from hydra_overlap.cli import main
from hydra_overlap.export import TARGETS, ExportError, export
from tests.overrides import request_of

TP4 = (
    "platform=h100", "parallelism=tp4", "comm_overlap.tp.tp_comm_overlap=true", "software=reference", "precision=bf16",
    "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192",
)  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])
    return lambda *arguments: CliRunner().invoke(main, ["export", *arguments])


def test_te_gets_the_dictionary_itself() -> None:
    resolution = resolve(request_of(*TP4))
    (text,) = export("te", resolution).values()
    assert yaml.safe_load(text) == resolution.userbuffers


@pytest.mark.parametrize("override", ["comm_overlap.tp.tp_comm_overlap=false", "userbuffers=none"])
def test_te_is_refused_where_there_is_no_dictionary(override: str) -> None:
    with pytest.raises(ExportError):
        export("te", resolve(request_of(*TP4, override)))


def test_env_exports_what_every_rank_must_find() -> None:
    resolution = resolve(request_of(*TP4, "launch.layernorm_sm_margin=16"))
    (text,) = export("env", resolution).values()
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    exported = dict(words[1].split("=") for words in lines if words)
    assert exported == resolution.env and len(exported) == 3


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_prints_every_target(run, target: str) -> None:
    done = run(target, "comm_overlap=tp4_h100")
    assert done.exit_code == 0, done.output
    assert f"# command: hydra-overlap export {target} comm_overlap=tp4_h100" in done.output


def test_the_command_writes_the_files_it_names(run, tmp_path) -> None:
    done = run("megatron-lm", "comm_overlap=tp4_h100", "-o", str(tmp_path / "out"))
    assert done.output.split() == [
        str(path)
        for path in map((tmp_path / "out").joinpath, ("megatron_lm_flags.txt", "tp_comm_overlap_cfg.yaml", "env.sh"))
    ]
    assert all(
        (tmp_path / "out" / name).read_text().startswith("# For ") for name in ("megatron_lm_flags.txt", "env.sh")
    )


def test_a_refused_plan_exports_nothing(run, tmp_path) -> None:
    done = run("megatron-lm", "comm_overlap=tp4_h100", "parallelism=tp1", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1 and "TP001" in done.output
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_say_the_plan_writes_nothing(run, tmp_path) -> None:
    done = run("te", "comm_overlap=dp", "platform=h100", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1 and done.output.startswith("te cannot express this plan; nothing was written")
    assert not (tmp_path / "out").exists()
