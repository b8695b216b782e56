"""The `hydra-overlap` command as a person or a program uses it."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hydra_overlap import dotted
from hydra_overlap.cli import main
from hydra_overlap.machine import transformer_engine
from hydra_overlap.reference import examples
from hydra_overlap.reference.examples import PLANS, decisions, example
from hydra_overlap.rules import DERIVATIONS, RULES, env_conflicts
from hydra_overlap.rules.tp import LEGAL
from tests.each import each


@pytest.fixture
def run(monkeypatch):
    """`run(*arguments)` -> (exit code, output)."""
    monkeypatch.setattr(sys, "argv", ["hydra-overlap"])

    def invoke(*arguments):
        done = CliRunner().invoke(main, arguments)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return invoke


@pytest.mark.parametrize("command", [name for name in main.commands if name != "train"])  # whose help is Hydra's
def test_every_command_says_what_it_does(run, command):
    code, text = run(command, "--help")
    assert code == 0
    assert main.commands[command].help.partition("\n")[0] in " ".join(text.split())


@each("rule", RULES, ids=lambda rule: rule.__name__)
def test_explains_every_rule_with_its_fixes_and_source(run, rule):
    code, text = run("explain", rule.__name__)
    assert code == 0
    assert text.startswith(f"{rule.__name__}  {rule.title()}")
    assert " ".join(rule.source.split()) in " ".join(text.split())
    for fix in getattr(example(rule), "fixes", ()):
        assert fix.override in text


@each("derivation", DERIVATIONS, ids=lambda derivation: derivation.id)
def test_explains_every_derivation(run, derivation):
    code, text = run("explain", derivation.id)
    assert code == 0 and derivation.key in text and derivation.source in " ".join(text.split())


def test_a_derivation_says_what_it_becomes_for_which_requests_and_why(run):
    code, text = run("explain", "TP105")
    assert code == 0
    lines = (
        "becomes, for example",
        "  false: tp_comm_overlap is off",
        "      with nothing set",
        "  false: megatron-core's default",
        f"      {' '.join(LEGAL)}",
        "  true: the userbuffers dictionary names dgrads that are not bulk (UB008)",
        f"      {' '.join(LEGAL)} userbuffers.layers.qkv_dgrad={{method:pipeline}}",
    )
    assert "\n".join(lines) in text


def test_every_plan_that_shows_derivations_has_a_decision_of_its_own():
    shown = {decision.plan for derivation in DERIVATIONS for decision in decisions(derivation)}
    assert [" ".join(plan) for plan in PLANS if plan not in shown] == []


def test_explains_a_field_with_the_rules_that_read_it(run):
    code, text = run("explain", "comm_overlap.dp.bucket_size")
    assert code == 0
    assert "parameters (not bytes)" in text and "DP105" in text and "DP009" in text


def test_explains_what_a_field_may_hold_and_which_megatron_core_brought_it(run):
    assert (
        "holds\n  one of deepep, hybridep, ncclep, or null\n" in run("explain", "model.moe_flex_dispatcher_backend")[1]
    )
    assert "since\n  megatron-core 0.16.0\n" in run("explain", "model.moe_flex_dispatcher_backend")[1]
    assert "since" not in run("explain", "optimizer.adam_beta1")[1]


def test_an_unknown_name_is_a_usage_error_with_a_near_one(run):
    code, text = run("explain", "comm_overlap.dp.bucket_sise")
    assert code == 2
    assert "Did you mean comm_overlap.dp.bucket_size?" in text


def test_lists_the_rules_of_a_family(run):
    code, text = run("rules", "--family", "tp")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == [
        rule.__name__ for rule in RULES if rule.__name__.startswith("TP")
    ]


def test_lists_all_rules_for_programs(run):
    _, text = run("rules", "--json")
    assert [row["id"] for row in json.loads(text)["result"]] == [rule.__name__ for rule in RULES]


def test_a_family_that_does_not_exist_is_a_usage_error(run):
    assert run("rules", "--family", "XX")[0] == 2


def test_check_says_the_verdict_and_the_layout_in_its_first_line(run):
    code, text = run("check", "comm_overlap=tp4_h100")
    assert code == 0
    first = "accepted: TP4 SP, 4 H100, TP overlap by userbuffers (10 of 12 GEMMs), 1 note"
    assert text.splitlines()[0] == first
    assert run("check", "parallelism=pp2_vpp2_dp2")[1].splitlines()[0] == (
        "accepted: PP2 VPP2 DP2, 4 ranks on CPU, PP overlap, DP overlap (gradients, parameters)"
    )
    assert run("check", "comm_overlap=none")[1].splitlines()[0] == "accepted: DP2, 2 ranks on CPU, no overlap"


def test_check_shows_only_what_is_not_as_megatron_core_has_it_and_all_of_it_with_verbose(run):
    _, text = run("check", "comm_overlap=tp4_h100")
    assert "tp_comm_overlap=true" in text and "CUDA_DEVICE_MAX_CONNECTIONS=1" in text
    assert "tp_comm_bulk_dgrad" not in text and "batch_p2p_comm" not in text
    assert "20 other overlap fields are as megatron-core has them" in text
    _, text = run("check", "comm_overlap=tp4_h100", "--verbose")
    assert "tp_comm_bulk_dgrad=true" in text and "batch_p2p_comm=false" in text and "other overlap fields" not in text
    _, text = run("check", "comm_overlap=tp4_h100", "comm_overlap.tp.tp_comm_bulk_dgrad=true")
    assert "tp_comm_bulk_dgrad=true" in text, "what was typed is shown, default or not"


def test_check_shows_what_was_asked_for_and_is_not_in_effect(run):
    code, text = run("check", "gating=bridge", "comm_overlap=tp4_h100", "parallelism=tp1")
    assert code == 0 and "asked for, and not in effect" in text
    assert "tp_comm_overlap=false" in text and "asked: true" in text


def test_check_refuses_with_every_rule_and_where_values_came_from(run):
    code, text = run("check", "comm_overlap=tp4_h100", "parallelism=tp1", "comm_overlap.pp.overlap_p2p_comm=true")
    assert code == 1
    assert "TP001" in text and "PP001" in text
    assert "parallelism/tp1.yaml" in text and "command line" in text


def test_check_tells_programs_the_same(run):
    code, text = run("check", "comm_overlap=tp4_h100", "parallelism=tp1", "--json")
    answer = json.loads(text)
    assert code == 1 and answer["verdict"] == "refused"
    assert [finding["rule"] for finding in answer["findings"] if finding["severity"] == "error"] == ["TP001"]
    code, text = run("check", "comm_overlap=tp4_h100", "--json")
    answer = json.loads(text)
    assert code == 0 and answer["verdict"] == "accepted"
    assert answer["result"]["transformer_config"]["tp_comm_overlap"] is True
    assert answer["result"]["env"] == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


@pytest.mark.parametrize(
    ("override", "code", "text"),
    [
        ("comm_overlap=tp4_h10", 1, "comm_overlap=tp4_h100   did you mean this?"),
        ("comm_overlap.dp.bucket_sise=4", 1, "bucket_size"),
        ("comm_overlap=[", 2, "An override does not have the form KEY=VALUE"),
    ],
)
def test_check_explains_mistakes_of_the_command_line(run, override, code, text):
    got, output = run("check", override)
    assert got == code and text in output


def test_doctor_says_what_is_missing_and_what_that_forbids(run, monkeypatch):
    monkeypatch.setattr(
        transformer_engine,
        "transformer_engine",
        lambda: transformer_engine.Probe(state="absent", detail="not installed"),
    )
    code, text = run("doctor")
    assert code == 0
    assert "megatron-core" in text and "Transformer Engine" in text and "TP overlap" in text


def test_doctor_finds_a_broken_transformer_engine(run, monkeypatch):
    broken = transformer_engine.Probe(
        state="broken", detail="ImportError: no", installed=("transformer-engine 2.11.0",)
    )
    monkeypatch.setattr(transformer_engine, "transformer_engine", lambda: broken)
    code, text = run("doctor")
    assert code == 1 and "pip uninstall transformer-engine" in " ".join(text.split())


@pytest.fixture
def without_te(monkeypatch):
    """No Transformer Engine, and none of the variables that a plan or its contraries name."""
    monkeypatch.setattr(
        transformer_engine,
        "transformer_engine",
        lambda: transformer_engine.Probe(state="absent", detail="not installed"),
    )
    for name in ("CUDA_DEVICE_MAX_CONNECTIONS", *env_conflicts.NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("value", "code", "word"), [("8", 1, "contradict"), ("1", 0, "ok"), (None, 0, "unset")])
@pytest.mark.usefixtures("without_te")
def test_doctor_compares_the_environment_in_force_with_a_plan(run, monkeypatch, value, code, word):
    if value is not None:
        monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", value)
    got, text = run("doctor", "comm_overlap=tp4_h100")
    line = next(line for line in text.splitlines() if line.startswith("CUDA_DEVICE_MAX_CONNECTIONS"))
    assert got == code and word in line and "missing" not in line


@pytest.mark.parametrize(
    ("name", "value", "plan", "code", "state"),
    [
        ("CUDA_LAUNCH_BLOCKING", "1", "comm_overlap=tp4_h100", 1, "wrong"),
        ("CUDA_LAUNCH_BLOCKING", "0", "comm_overlap=tp4_h100", 0, None),
        ("CUDA_LAUNCH_BLOCKING", "1", "platform=cpu", 0, None),
        ("UB_SKIPMC", "1", "comm_overlap=tp4_h100", 0, "note"),
        ("NVTE_DEBUG", "1", "comm_overlap=tp4_h100", 0, None),  # logs attention backends, and switches nothing off
    ],
)
@pytest.mark.usefixtures("without_te")
def test_doctor_names_variables_that_hurt_a_plan(run, monkeypatch, name, value, plan, code, state):
    monkeypatch.setenv(name, value)
    got, text = run("doctor", plan, "--json")
    answer = json.loads(text)
    assert got == code and answer["verdict"] == ("wrong" if code else "ok")
    assert [row["state"] for row in answer["result"] if row["what"] == name] == ([state] if state else [])
    got, text = run("doctor", plan)
    lines = [line for line in text.splitlines() if line.startswith(name)]
    assert got == code and [state in line for line in lines] == ([True] if state else [])


@pytest.mark.usefixtures("without_te")
def test_doctor_tells_programs_the_same(run):
    code, text = run("doctor", "--json")
    answer = json.loads(text)
    assert code == 0 and answer["verdict"] == "ok"
    assert [row["what"] for row in answer["result"]][-3:] == ["torch", "megatron-core", "Transformer Engine"]
    code, text = run("doctor", "--json", "comm_overlap=tp4_h100", "parallelism=tp1")
    answer = json.loads(text)
    assert code == 1 and answer["verdict"] == "refused"
    assert [finding["rule"] for finding in answer["findings"] if finding["severity"] == "error"] == ["TP001"]


def test_the_command_line_loads_no_torch():
    command = "import sys; from hydra_overlap.cli import main; main(['check'], standalone_mode=False)"
    script = f"try:\n {command}\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'megatron' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_examples_are_read_as_hydra_reads_them():
    """Most without Hydra's grammar, which takes longer to import than all else that a page needs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    texts = {*(text for rule in RULES for text in rule.refused), *(text for plan in examples.PLANS for text in plan)}
    texts |= {f"a.b={text}" for text in ("-0", "007", "1.5", "1e3", "Null", "TRUE", "inf", "infinite", "[inf]", "[]", "[a,1,true]", "{a:b,c:null}", "{}", "a b", "a-b", "'x'", "", "_a", "x1")}  # fmt: skip
    for text in sorted(texts):
        override = OverridesParser.create().parse_overrides([text])[0]
        assert examples._request((text,)) == dotted.nested({override.get_key_element(): override.value()}), text


def test_explaining_a_rule_needs_no_hydra():
    code = (
        "import sys\nfrom hydra_overlap.reference.explain import explain\nexplain('TP002')\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'hydra', 'omegaconf', 'rich', 'torch', 'cattrs'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
