"""`hydra-overlap presets` as a person or a program uses it."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from hydra_overlap.cli import main, presets
from hydra_overlap.presets.catalogue import preset

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*arguments)` -> (exit code, output)."""
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])

    def invoke(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, arguments)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return invoke


@pytest.mark.parametrize("command", presets.commands)
def test_every_command_says_what_it_does(run: Run, command: str) -> None:
    code, text = run("presets", command, "--help")
    assert code == 0
    assert str(presets.commands[command].help).partition("\n")[0] in " ".join(text.split())


def test_lists_all_of_them(run: Run) -> None:
    code, text = run("presets")
    assert code == 0
    assert text.splitlines()[-1] == "116 of 116 presets"
    assert len(text.splitlines()) == 118  # a heading, and each on one line


def test_lists_those_that_were_tuned_for_a_shape(run: Run) -> None:
    _, text = run(
        "presets", "--gpu", "h100", "--tp", "8", "--cp", "2", "--hidden", "16384", "--precision", "bf16", "--json"
    )
    rows = json.loads(text)["result"]
    assert [row["name"] for row in rows] == [
        "bf16_h100_h16384_tp8_cp2_mbs1_seq8192", "launcher_bf16_h100_h16384_tp8_cp2_mbs1_seq8192",
    ]  # fmt: skip
    assert rows[0]["tuned_for"]["cp"] == 2
    assert rows[0]["refused_by"] == []


def test_shows_source_memory_and_what_each_gemm_hides(run: Run) -> None:
    code, text = run("presets", "show", "bf16_h100_h8192_tp4_mbs1_seq8192")
    assert code == 0
    assert "source: Megatron-Bridge v0.6.0" in text
    assert "memory: 1536 MiB per rank" in text
    assert "proj_fprop  reduce-scatter by pipeline; num_sm 24, cga_size 2, num_splits 4, set_sm_margin\n" in text
    assert "fc2_wgrad   hides nothing: dgrad already gathered for it" in text


def test_shows_the_rules_that_refuse_a_preset(run: Run) -> None:
    _, text = run("presets", "show", "mlperf41_gpt3_h100_tp8_mbs1")
    assert "refused by: UB006" in text
    _, text = run("presets", "show", "mlperf41_gpt3_h100_tp8_mbs1", "--json")
    shown = json.loads(text)["result"]
    assert shown["refused_by"] == ["UB006"] and len(shown["gemms"]) == 12


def test_an_unknown_preset_is_a_usage_error_with_a_near_one(run: Run) -> None:
    code, text = run("presets", "show", "bf16_h100_h8192_tp4_mbs1_seq8129")
    assert code == 2
    assert "did you mean bf16_h100_h8192_tp4_mbs1_seq8192" in " ".join(text.split())


def test_compares_two(run: Run) -> None:
    code, text = run("presets", "diff", "bf16_h100_h8192_tp4_mbs1_seq8192", "fp8_h100_h8192_tp4_mbs1_seq8192")
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert ["tuned_for.precision", "bf16", "fp8"] in lines
    assert ["proj_fprop.num_sm", "24", "1"] in lines
    assert not any(line[0].startswith("qkv_") for line in lines)


def test_says_so_where_two_are_the_same(run: Run) -> None:
    name = "bf16_h100_h8192_tp4_mbs1_seq8192"
    assert run("presets", "diff", name, name) == (0, "The two presets have the same values.\n")


def test_finds_the_nearest_to_a_plan_with_every_difference(run: Run) -> None:
    plan = ("model=llama3_70b", "parallelism=tp4", "platform=h100", "training.micro_batch_size=1")
    code, text = run("presets", "nearest", *plan, "--count", "2", "--json")
    assert code == 0
    first, second = json.loads(text)["result"]
    assert (first["preset"], first["distance"], first["differences"]) == ("bf16_h100_h8192_tp4_mbs1_seq8192", 0.0, [])
    assert second["distance"] > 0 and second["differences"]
    _, table = run("presets", "nearest", *plan, "--count", "1")
    assert "bf16_h100_h8192_tp4_mbs1_seq8192" in table


def test_a_plan_that_is_refused_has_no_nearest(run: Run) -> None:
    code, text = run("presets", "nearest", "comm_overlap=tp4_h100", "parallelism.sequence_parallel=false")
    assert code == 1
    assert "TP002" in text


def test_check_says_how_many_gemms_hide_communication_and_on_request_which_and_in_how_much_memory(run: Run) -> None:
    plan = ("comm_overlap=tp4_h100", "model=llama3_70b", "training.micro_batch_size=1")
    assert "TP overlap by userbuffers (10 of 12 GEMMs)" in run("check", *plan)[1].splitlines()[0]
    _, text = run("check", *plan, "--verbose")
    assert "GEMMs that hide communication: 10 of 12; buffers: 1536 MiB per rank (computed)" in text
    assert "pipeline       proj_fprop, fc2_fprop" in text
    _, answer = run("check", *plan, "--json")
    assert json.loads(answer)["result"]["userbuffers_plan"]["memory_mib"] == 1536
    assert "GEMMs" not in run("check", "--verbose")[1]


def test_listing_imports_neither_torch_nor_hydra() -> None:
    code = "import sys; from hydra_overlap.cli import main; main(['presets', '--json'], standalone_mode=False); print(sorted(set(sys.modules) & {'torch', 'hydra'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_preset_that_a_rule_refuses_is_never_nearer_than_one_that_works(run: Run) -> None:
    plan = ("comm_overlap=tp4_h100", "userbuffers=none", "model=gpt3_175b", "platform=h100")
    code, text = run("presets", "nearest", *plan, "--count", "40", "--json")
    assert code == 0
    refused = [bool(preset(row["preset"]).refusals()) for row in json.loads(text)["result"]]
    assert refused == sorted(refused) and True in refused and False in refused
