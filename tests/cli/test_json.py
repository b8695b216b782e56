"""What `--json` prints: one shape, whatever the command and however it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydra_overlap import answers
from hydra_overlap.cli import main, presets
from hydra_overlap.findings import Finding, Place, typed, yaml_value

KEYS = ["format", "version", "command", "verdict", "exit_code", "findings", "result"]
SCRIPT = "torchrun pretrain_gpt.py --tensor-model-parallel-size {tp} --sequence-parallel --tp-comm-overlap\n"
COMMANDS = [
    ("check comm_overlap=tp4_h100", "check", "accepted"),
    ("check comm_overlap=tp4_h100 parallelism=tp1", "check", "refused"),
    ("check comm_overlap=tp4_h10", "check", "refused"),
    ("check comm_overlap=[", "check", "usage error"),
    ("check --config-name mine", "check", "usage error"),
    ("doctor parallelism.world_size=3 parallelism=tp2", "doctor", "refused"),
    ("explain TP002", "explain", "ok"),
    ("explain DP105", "explain", "ok"),
    ("explain comm_overlap.dp.bucket_size", "explain", "ok"),
    ("explain nonsense", "explain", "usage error"),
    ("explain", "explain", "usage error"),
    ("rules --family UB", "rules", "ok"),
    ("rules --family XX", "rules", "usage error"),
    ("presets --gpu h100", "presets", "ok"),
    ("presets --tp many", "presets", "usage error"),
    ("presets show bf16_h100_h8192_tp4_mbs1_seq8192", "presets show", "ok"),
    ("presets diff bf16_h100_h8192_tp4_mbs1_seq8192 fp8_h100_h8192_tp4_mbs1_seq8192", "presets diff", "ok"),
    ("presets nearest model=llama3_70b parallelism=tp4 platform=h100", "presets nearest", "ok"),
    ("presets nearest comm_overlap=tp4_h100 parallelism=tp1", "presets nearest", "refused"),
    ("export env comm_overlap=tp4_h100", "export", "ok"),
    ("export nowhere", "export", "usage error"),
    ("audit good.sh platform=h100", "audit", "accepted"),
    ("audit bad.sh platform=h100", "audit", "refused"),
    ("audit good.sh H100", "audit", "usage error"),
    ("audit good.sh --platform h100", "audit", "usage error"),
    ("audit good.sh platform=h1000", "audit", "refused"),
    ("audit none.sh", "audit", "usage error"),
    ("gate --print platform=h100 -- sh good.sh", "gate", "usage error"),
    ("gate --print platform=h100", "gate", "usage error"),
    ("gate --print platform=h100 -- ./" + SCRIPT.format(tp=4).strip(), "gate", "refused"),
    ("record platform=h100 -- sh good.sh", "record", "refused"),
    ("record platform=h100", "record", "usage error"),
    ("report .", "report", "usage error"),
    ("new bundle mine -C nowhere", "new", "usage error"),
    ("new bundle mine -C conf", "new", "ok"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["hydra-overlap"])
    (tmp_path / "conf").mkdir()
    (tmp_path / "good.sh").write_text(SCRIPT.format(tp=4))
    (tmp_path / "bad.sh").write_text(SCRIPT.format(tp=1))
    return tmp_path


@pytest.mark.parametrize(("words", "command", "verdict"), COMMANDS, ids=[row[0] for row in COMMANDS])
@pytest.mark.usefixtures("folder")
def test_every_answer_has_the_same_keys_and_says_what_the_exit_code_means(
    words: str, command: str, verdict: str
) -> None:
    own, dashes, launcher = words.partition(" -- ")
    done = CliRunner().invoke(main, [*own.split(), "--json", *dashes.split(), *launcher.split()])
    answer = json.loads(done.stdout)
    assert list(answer) == KEYS and answer["format"] == answers.FORMAT
    assert answer["command"] in (command, command.partition(" ")[0]) and answer["verdict"] == verdict
    meant = {"accepted": 0, "ok": 0, "refused": 1, "usage error": 2}[verdict]
    assert (done.exit_code, answer["exit_code"]) == (meant, meant)
    assert (answer["result"] is None) == (
        (meant > 0 and words.partition(" ")[0] not in ("audit", "gate", "record"))
        or verdict == "usage error"
        or "h1000" in words
    )
    assert any(finding["severity"] == "error" for finding in answer["findings"]) == (meant > 0)


def test_every_command_that_reports_something_has_it() -> None:
    without = {"train", "schema"}  # Hydra's own command line; a schema is JSON already
    for name, command in [*main.commands.items(), *presets.commands.items()]:
        assert any(option.name == "as_json" for option in command.params) != (name in without), name


def test_help_beside_json_is_help() -> None:
    done = CliRunner().invoke(main, ["check", "--json", "--help"])
    assert done.exit_code == 0 and done.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        8192,
        -1,
        0.5,
        1e-08,
        "h100",
        "2.11.0",
        "",
        "1e",
        ["a", 1, None],
        {"method": "bulk", "num_sm": 4},
        {},
    ],
)
def test_values_of_findings_are_typed(value: object) -> None:
    assert typed(yaml_value(value)) == value
    found = Finding(rule="X", severity="error", title="x", where=(Place("key", yaml_value(value), "here"),))
    assert found.to_dict()["where"] == [{"key": "key", "value": value, "origin": "here"}]


def test_numbers_that_only_look_like_something_else_in_yaml_stay_text() -> None:
    for text in ("12:30", "1_000", "0x10", "2026-01-01", "on", "~"):
        assert typed(text) == text
