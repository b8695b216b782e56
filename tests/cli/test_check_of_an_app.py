"""`hydra-overlap check` of somebody's app: Hydra's own --config-dir, --config-name and --config-module say which config is meant."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap.cli import main

TRAIN = """\
defaults: [comm_overlap: mine, _self_]
net: {d_model: 8192, heads: 64}
overlap: {reads: {model: {hidden_size: net.d_model, num_attention_heads: net.heads}}}
"""
MINE = "defaults: [tp4_h100, _self_]\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration directory of an app, which is also the package `settings`; the shell stands above it."""
    folder = tmp_path / "settings"
    (folder / "comm_overlap").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "train.yaml").write_text(TRAIN)
    (folder / "bare.yaml").write_text("lr: 0.1\n")
    (folder / "comm_overlap" / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "settings", raising=False)
    return folder


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


IN_A_FOLDER = ("-C", "settings", "--config-name", "train")
WAYS = [IN_A_FOLDER, ("--config-dir", "settings", "--config-name", "train.yaml"), ("--config-module", "settings", "--config-name", "train")]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_an_apps_config_is_judged_in_its_own_words(app: Path, way: tuple[str, ...]) -> None:
    code, text = run("check", *way, "--json")
    assert code == 0 and json.loads(text)["result"]["transformer_config"]["tp_comm_overlap"] is True
    code, text = run("check", *way, "net.heads=6")
    assert code == 1 and "PAR006" in text and "net.heads (overlap.reads)" in text


def test_a_folder_alone_adds_its_options_to_our_own_config(app: Path) -> None:
    assert run("check", "-C", "settings", "comm_overlap=mine")[0] == 0
    assert run("check", "comm_overlap=mine")[0] == 1
    code, text = run("check", "-C", "settings", "comm_overlap=mine", "data=text")  # what our trainer needs is judged
    assert code == 1 and "TRN" in text


def test_a_folder_with_signs_in_its_name_is_read(app: Path) -> None:
    odd = app.rename(app.with_name("it's [mine], ok"))
    assert run("check", "-C", str(odd), "comm_overlap=mine")[0] == 0


@pytest.mark.parametrize(
    "command", [("doctor",), ("presets", "nearest"), ("export", "env")], ids=lambda words: " ".join(words)
)
def test_every_command_that_takes_overrides_takes_an_apps_config(app: Path, command: tuple[str, ...]) -> None:
    code, text = run(*command, *IN_A_FOLDER, "net.heads=6")
    assert code == 1 and "PAR006" in text


def test_our_trainers_needs_are_not_judged_in_an_app(app: Path) -> None:
    code, text = run("check", *IN_A_FOLDER, "--json")
    assert code == 0 and "TRN" not in text


def test_a_config_without_overlap_is_told_that_nothing_judged_it(app: Path) -> None:
    code, text = run("check", "-C", "settings", "--config-name", "bare")
    assert code == 1 and "CFG006" in text and "+comm_overlap=none" in text


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("-C", "settings", "--config-name", "trian"), 1, "trian"),
        (("--config-module", "setings", "--config-name", "train"), 1, "setings"),
        (("-C", "nowhere", "--config-name", "train"), 2, "nowhere"),
        (("--config-name", "train"), 2, "--config-dir"),
        (("--config-module", "settings"), 2, "--config-name"),
        (("-C", "settings", "--config-module", "settings"), 2, "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_config_that_is_not_there_is_named(app: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    found, text = run("check", *arguments)
    assert found == code and told in " ".join(text.split()) and "Traceback" not in text
