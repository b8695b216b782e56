"""`hydra-overlap train`: train.py's command for those who have the package and no repository; hints name what they have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap import commands
from hydra_overlap.cli import main
from tests import warm
from tests.cli.test_completion import NO_TORCH
from tests.docs.blocks import ROOT


@pytest.fixture
def train(monkeypatch, tmp_path):
    """`train(*arguments)` -> (exit code, what was printed), in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{sys.prefix}/bin/hydra-overlap"])

    def invoke(*arguments):
        GlobalHydra.instance().clear()
        done = CliRunner().invoke(main, ["train", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    yield invoke
    GlobalHydra.instance().clear()


def test_a_plan_is_shown_from_any_directory(train, tmp_path):
    code, text = train("comm_overlap=tp4_h100", "--cfg", "job", "-p", "overlap.effective")
    assert code == 0 and "tp_comm_overlap: true" in text
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_refused_as_train_py_refuses_it(train, tmp_path):
    refused = ("comm_overlap=tp4_h100", "parallelism=tp1")
    code, text = train(*refused)
    assert code == 1 and "Traceback" not in text
    assert text == warm.run([ROOT / "train.py", *refused], cwd=tmp_path).stderr


def test_its_help_is_hydras_and_names_the_command_that_was_typed(train, tmp_path):
    code, text = train("--help")
    assert code == 0 and text.startswith("hydra-overlap train trains with megatron-core.")
    by_script = warm.run([ROOT / "train.py", "--help"], cwd=tmp_path).stdout
    assert by_script == text.replace("hydra-overlap train", "python train.py")


def test_a_sweep_is_judged_and_records_nothing_with_plan_only(train, tmp_path):
    code, text = train("-m", "comm_overlap=none,dp", "hydra.sweeper.plan_only=true")
    assert code == 0 and "2 points" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/venv/bin/hydra-overlap", ["hydra-overlap", "train"]),
        ("/site-packages/hydra_overlap/train/__main__.py", ["python", "-m", "hydra_overlap.train"]),
        ("/repository/train.py", ["train.py"]),
    ],
)
def test_a_sweep_records_a_command_that_exists(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program, "-m", "comm_overlap=none,dp"])
    assert commands.typed() == [*words, "-m", "comm_overlap=none,dp"]


def test_the_hint_that_installs_an_extra_names_every_package_of_it():
    tomllib = pytest.importorskip("tomllib")  # new in Python 3.11
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in declared.items():
        words = commands.install(extra).replace("'", "").split()
        assert words[:2] == ["pip", "install"] and len(words) == 2 + len(packages), extra
        named = {name.rstrip("0123456789.<>=,") for name in packages}
        assert {word.rstrip("0123456789.<>=,") for word in words[2:]} == named


def test_without_torch_it_composes_and_says_what_to_install(tmp_path):
    """In a process of its own: what it must not import may be imported here."""
    script = f"{NO_TORCH}\nimport sys\nsys.argv = ['hydra-overlap', 'train', '--cfg', 'job']\nfrom hydra_overlap.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "comm_overlap:" in done.stdout


def test_a_launcher_that_starts_modules_starts_it(tmp_path):
    """As `torchrun -m hydra_overlap.train`; a run of two ranks, begun far from the repository."""
    script = tmp_path / "module.py"
    script.write_text("import runpy\nrunpy.run_module('hydra_overlap.train', run_name='__main__', alter_sys=True)\n")
    done = warm.run([script, "training=smoke", "data=mock", "hydra.run.dir=run"], cwd=tmp_path, modules=warm.TRAINER)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["command"][:2] == ["hydra-overlap", "train"]
    assert Path(tmp_path, "run", "metrics.jsonl").read_text().count("\n") == 5
