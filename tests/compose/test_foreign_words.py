"""A mistake in somebody else's app: told from its composed config where we can help, else in Hydra's own words."""

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest

from hydra_overlap.compose import app

FILES = {
    "config.yaml": "defaults: [{dataset: pile}, _self_]\nmodel: {net: {d_model: 8}}\nsteps: 3\n",
    "dataset/pile.yaml": "path: /pile\n",
    "dataset/books.yaml": "path: /books\n",
}
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`guest(*arguments)` -> exit code and stderr of an app with its own model, its own group and a word of ours at most."""
    for name, text in FILES.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    monkeypatch.chdir(tmp_path)

    @hydra.main(version_base=None, config_path=str(tmp_path / "conf"), config_name="config")
    def main(cfg: object) -> None: ...

    def start(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["theirs.py", *arguments, "hydra.run.dir=.", "hydra.output_subdir=null"])
        code = 0
        try:
            app.cli(main)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return start


def test_a_slip_in_a_key_of_theirs_is_answered_with_their_key(guest: Command) -> None:
    code, message = guest("model.net.dmodel=3")
    assert code == 1
    assert "fix model.net.d_model=3 in place of model.net.dmodel=3: did you mean this?" in " ".join(message.split())
    assert "hidden_size" not in message and "gating" not in message


@pytest.mark.parametrize(
    "argument", ["model.net.width=3", "colour=red", "tp_comm_overlap=true", "dataset=bookz3", "seed=3"]
)
def test_what_is_none_of_our_business_is_said_in_hydras_own_words(guest: Command, argument: str) -> None:
    code, message = guest(argument)
    assert code == 1
    assert message.startswith(("Could not override '", "In 'config': Could not find 'dataset/bookz3'")), message
    assert message.rstrip().endswith("Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.")
    assert "Traceback" not in message and "CFG" not in message


@pytest.mark.parametrize(("typed", "fix"), [
    ("+comm_overlap=TP4_H100", "+comm_overlap=tp4_h100"), ("+comm_overlap=dpp", "+comm_overlap=dp"),
    ("comm_overlp=dp", "+comm_overlap=dp"),
])  # fmt: skip
def test_a_fix_keeps_the_plus_that_their_app_needs(guest: Command, typed: str, fix: str) -> None:
    code, message = guest(typed)
    assert code == 1
    assert f"fix {fix} in place of {typed}: did you mean this?" in " ".join(message.split())


def test_a_flag_of_megatron_lm_is_explained_after_the_usage(guest: Command) -> None:
    code, message = guest("--tp-comm-overlap")
    assert code == 2
    usage, _, told = message.partition("unrecognized arguments")
    assert usage.startswith("usage: ")
    assert "comm_overlap.tp.tp_comm_overlap=true in place of --tp-comm-overlap: did you mean this?" in " ".join(
        told.split()
    )


def test_another_unknown_flag_is_left_to_argparse(guest: Command) -> None:
    code, message = guest("--colour")
    assert code == 2 and "USE" not in message
