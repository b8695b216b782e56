"""Names nearly right, values that cannot be used, and YAML that is broken or has no bounds."""

import json
import time
from pathlib import Path

import pytest

from hydra_overlap.audit import UnreadableError, audit, megatron_bridge, megatron_lm, nemo

MODEL = "pretrain_gpt.py --num-layers 8 --hidden-size 1024 --num-attention-heads 16 --micro-batch-size 1 --bf16"
BRIDGE_FIELDS = json.loads((Path(__file__).parents[1] / "reference" / "bridge_fields.json").read_text())["fields"]
BRIDGE = "model: {{tensor_model_parallel_size: {}, sequence_parallel: {}}}\ncomm_overlap: {{tp_comm_overlap: {}}}\n"
NEMO = "model: {{tensor_model_parallel_size: {}, sequence_parallel: {}, ub_tp_comm_overlap: {}, optim: {{overlap_grad_sync: true}}}}\n"


def rules(found) -> list[str]:
    return [finding.rule for finding in found.errors]


# names


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"{MODEL} --tp-comm-overla", "--tp-comm-overlap"),  # argparse would take it; Megatron-LM tells it not to
        (f"{MODEL} --tensor-model-paralel-size 4", "--tensor-model-parallel-size 4"),
        (f"{MODEL} --seq-len=2048", "--seq-length=2048"),
        ("comm_overlap.tp_comm_overlpa=true", "comm_overlap.tp_comm_overlap=true"),
        ("comm_overlap: {overlap_grad_redcue: true}", "comm_overlap.overlap_grad_reduce=true"),
        ("comm_overlp: {tp_comm_overlap: true}\nmodel: {}", "comm_overlap"),
        ("model: {ub_tp_comm_overlp: true, optim: {}}", "ub_tp_comm_overlap=true"),
        ("model: {optim: {overlap_grad_syn: true}}", "overlap_grad_sync=true"),
    ],
)
def test_a_name_that_is_nearly_known_is_refused_with_what_was_meant(text: str, meant: str) -> None:
    found = audit(text, ["platform=h100"])
    assert rules(found) == ["CFG001"] and found.exit_code == 1 and found.resolution is None
    assert found.errors[0].fixes[0].override.endswith(meant) and "did you mean" in found.errors[0].why


@pytest.mark.parametrize(
    "text", [f"{MODEL} --my-overlap-trick", f"{MODEL} --wandb-projekt x", "model: {overlap: true, optim: {}}"]
)
def test_another_name_is_left_alone(text: str) -> None:
    assert rules(audit(text)) == []


@pytest.mark.parametrize("node", [node for node in BRIDGE_FIELDS if node in megatron_bridge.NODES])
def test_no_field_of_bridge_is_taken_for_another_one_misspelt(node: str) -> None:
    nested = {node: dict.fromkeys(BRIDGE_FIELDS[node], 1)}
    assert megatron_bridge.read(megatron_bridge.Content(nested)).findings == []


# values


@pytest.mark.parametrize(
    ("text", "undecided"),
    [
        (BRIDGE.format("four", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (BRIDGE.format(4, "true", "'true'"), "comm_overlap.tp.tp_comm_overlap"),
        (BRIDGE.format(4, "maybe", "true"), "parallelism.sequence_parallel"),
        (BRIDGE.format(0, "true", "true"), "parallelism.tensor_model_parallel_size"),
        (BRIDGE.format("'${oc.env:TP}'", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (BRIDGE.format("'???'", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (BRIDGE.format("4, cp_comm_type: ring", "true", "true"), "model.cp_comm_type"),
        (NEMO.format("four", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (NEMO.format(4, "'${oc.env:SP,False}'", "true"), "parallelism.sequence_parallel"),  # text, and so true
        (NEMO.format("'${oc.decode:${oc.env:TP}}'", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (NEMO.format("'${resolver.of.yours:1}'", "true", "true"), "parallelism.tensor_model_parallel_size"),
        (f"{MODEL} --tensor-model-parallel-size $TP --tp-comm-overlap", "parallelism.tensor_model_parallel_size"),
        (f"{MODEL} --seq-length --enable-zero-bubble", "model.seq_length"),
    ],
)  # fmt: skip
def test_a_known_name_without_a_usable_value_leaves_it_undecided(text: str, undecided: str) -> None:
    found = audit(text, ["platform=h100"])
    assert (found.verdict, found.undecided, found.exit_code) == ("undecided", (undecided,), 1)
    assert f"{undecided}=..." in str(found)


@pytest.mark.parametrize(
    "flag", ["--tensor-model-parallel-size four", "--seq-length", "--fp8-format e5m2", "--tp-comm-overlap=true"]
)
def test_a_flag_that_no_release_of_megatron_lm_can_read_is_refused(flag: str) -> None:
    found = audit(f"{MODEL} {flag}", ["platform=h100"])
    assert [finding.rule for finding in found.errors] == ["MEGATRON"] and flag in str(found)


def test_a_value_said_behind_the_file_name_decides() -> None:
    text = BRIDGE.format("four", "true", "'true'")
    said = ["platform=h100", "parallelism.tensor_model_parallel_size=4", "comm_overlap.tp.tp_comm_overlap=true"]
    assert audit(text, said).verdict == "accepted"
    assert audit(text, [said[0], said[1].replace("4", "1"), said[2]]).verdict == "refused"


def test_text_in_the_place_of_a_value_is_shown_as_text() -> None:
    notes = audit(BRIDGE.format(4, "true", "'true'")).notes
    assert "not usable: comm_overlap.tp_comm_overlap='true', where true or false, or null is needed" in notes


def test_a_misspelt_name_is_refused_beside_an_undecided_value() -> None:
    found = audit("model: {tensor_model_parallel_size: four}\ncomm_overlap: {tp_comm_overlpa: true}")
    assert (found.verdict, rules(found)) == ("refused", ["CFG001"])
    assert str(found).startswith("refused by 1 rule, the rest undecided: Megatron-Bridge configuration")


def test_unusable_values_on_which_no_verdict_hangs_are_counted() -> None:
    found = audit(f"{MODEL} --lr-decay-style WSD")
    assert found.verdict == "accepted" and found.ignored == 1
    assert audit("model: {layernorm_epsilon: small, bf16: true}").verdict == "accepted"


@pytest.mark.parametrize("size", ["1e9", "1000000000"])
def test_numbers_are_those_of_omegaconf(size: str) -> None:
    found = audit(f"model: {{bf16: true}}\ncomm_overlap: {{overlap_grad_reduce: true, bucket_size: {size}}}")
    assert found.request["comm_overlap"]["dp"]["bucket_size"] == 10**9


def test_text_that_begins_like_a_number_is_text() -> None:
    assert audit("model: {bf16: true, revision: 8e9fa9e2aaf4d89538b0c0ff15bb837d14b2af47}").verdict == "accepted"


# interpolations


def test_interpolations_are_followed_where_they_lead_somewhere() -> None:
    text = """
trainer: {devices: "${oc.decode:${oc.env:GPUS,${oc.env:ALL,8}}}", num_nodes: 2, precision: bf16}
model:
  hidden_size: 1024
  ffn_hidden_size: "${multiply:4, ${.hidden_size}}"
  num_layers: "${floor_div:${trainer.devices},2}"
  tensor_model_parallel_size: "${model.nested.tp}"
  nested: {tp: "${...trainer.num_nodes}", list: [1, "${..tp}"]}
  encoder_seq_length: "${.nested.list[1]}"
  optim: {}
"""
    request = audit(text).request
    assert request["parallelism"] == {"tensor_model_parallel_size": 2, "world_size": 16}
    assert request["model"] == {"hidden_size": 1024, "ffn_hidden_size": 4096, "num_layers": 4, "seq_length": 2}


# broken and endless


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("model: [1,2\n", "line 2, column 1: while parsing a flow sequence, expected"),
        ("model: {a: 1}\n---\nmodel: {}", "line 2, column 1: expected a single document"),
        ("model: {a: 1}\ntrain: {}\nmodel: {}", "line 3, column 1: duplicate key model"),
        ("model:\n\ttp: 1", "line 2, column 1: "),
    ],
)
def test_broken_yaml_is_located(text: str, where: str) -> None:
    with pytest.raises(UnreadableError, match=f"It is not valid YAML: {where}"):
        audit(text)


def bomb(levels: int, wrap: str) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([wrap.format(i - 1)] * 9)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"model: {{tensor_model_parallel_size: 1, q: {wrap.format(levels - 1)}}}"])


@pytest.mark.parametrize(
    "text",
    [
        bomb(8, "*a{}"),
        bomb(60, "*a{}"),
        bomb(8, "'${{a{}}}'"),
        "model: &m {tensor_model_parallel_size: 1, self: *m}",
        "model: {tensor_model_parallel_size: 1, optim: {x: '${.y} ${.y}', y: '${.x} ${.x}'}}",
        "model: " + "[" * 5000,
        "model: " + "{a: " * 5000,
    ],
)
def test_yaml_without_bounds_is_refused_at_once(text: str) -> None:
    start = time.process_time()  # of this process alone, however busy the machine is
    try:
        audit(text)
    except UnreadableError:
        pass
    else:
        assert "optim" in text
    assert time.process_time() - start < 60


def test_a_legal_alias_is_followed() -> None:
    text = "a: &tp 4\nmodel: {tensor_model_parallel_size: *tp, sequence_parallel: true}\ncomm_overlap: {tp_comm_overlap: true}"
    assert audit(text, ["platform=h100"]).verdict == "accepted"


# words


def test_fixes_for_a_nemo_yaml_are_in_its_words() -> None:
    found = audit(NEMO.format(4, "false", "true"), ["platform=h100"])
    assert rules(found) == ["TP002"]
    assert {fix.override for fix in found.errors[0].fixes} == {
        "model.sequence_parallel=true", "model.ub_tp_comm_overlap=false",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "megatron_lm_s", "bridge_s", "nemo_s"),
    [
        ("userbuffers=none", "without --tp-comm-overlap-cfg", "comm_overlap.tp_comm_overlap_cfg=null", "model.ub_tp_comm_overlap_cfg=null"),
        ("~userbuffers.layers.qkv_fprop.num_sm", "without qkv_fprop.num_sm", "without comm_overlap.tp_comm_overlap_cfg.qkv_fprop.num_sm", "without model.ub_tp_comm_overlap_cfg.qkv_fprop.num_sm"),
        ("userbuffers.layers.qkv_fprop.num_sm=4", "qkv_fprop.num_sm=4", "comm_overlap.tp_comm_overlap_cfg.qkv_fprop.num_sm=4", "model.ub_tp_comm_overlap_cfg.qkv_fprop.num_sm=4"),
        ("parallelism.world_size=8", "8 ranks", "parallelism.world_size=8", "8 ranks"),
        ("comm_overlap.dp.overlap_grad_reduce=false", "without --overlap-grad-reduce", "comm_overlap.overlap_grad_reduce=false", "model.optim.overlap_grad_sync=false"),
        ("software.torch=2.9.0", "software.torch=2.9.0", "software.torch=2.9.0", "software.torch=2.9.0"),
    ],
)  # fmt: skip
def test_an_override_has_words_in_each_format(ours: str, megatron_lm_s: str, bridge_s: str, nemo_s: str) -> None:
    assert (megatron_lm.say(ours), megatron_bridge.say(ours), nemo.say(ours)) == (megatron_lm_s, bridge_s, nemo_s)
