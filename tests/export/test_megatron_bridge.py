"""What Bridge's ConfigContainer gets: fields that exist there, every overlap said aloud."""

import ast
import json
from pathlib import Path

import pytest
import yaml

from hydra_overlap import resolve
from hydra_overlap.export import ExportError, export
from hydra_overlap.export.megatron_bridge import CLASSES, LAYERS, path
from hydra_overlap.schema.fields import FIELDS
from tests.each import each
from tests.overrides import request_of
from tests.strategies import SCENARIOS, nest

BRIDGE_FIELDS = json.loads((Path(__file__).parents[1] / "reference" / "bridge_fields.json").read_text())["fields"]
PRESET = "bf16_h100_h8192_tp4_mbs1_seq8192"
TP4 = (
    "platform=h100", "parallelism=tp4", "comm_overlap.tp.tp_comm_overlap=true", "software=reference", "precision=bf16",
    f"userbuffers={PRESET}",
)  # fmt: skip


def files(*overrides: str) -> dict[str, str]:
    return export("megatron-bridge", resolve(request_of(*overrides)))


def without_targets(node):
    return {name: value for name, value in node.items() if name != "_target_"}


@each("key", FIELDS)
def test_every_field_has_a_place_that_exists_in_bridge(key: str) -> None:
    """A field added to the schema fails here until export/megatron_bridge.py says where it goes."""
    place = path(key)
    if place is not None:
        node, name = place.split(".")
        assert name in BRIDGE_FIELDS[node], f"ConfigContainer.{node} of v0.6.0 has no {name}"
        assert node in BRIDGE_FIELDS[""]


def test_the_classes_of_the_dictionary_have_the_fields_we_write() -> None:
    for name, arguments in CLASSES.values():
        assert set(arguments) == set(BRIDGE_FIELDS[name]) - {"method"}
    assert set(LAYERS) == set(BRIDGE_FIELDS["TransformerLayerTPOverlapCfg"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_overlap_that_bridge_would_derive_is_said(name: str) -> None:
    resolution = resolve(nest(SCENARIOS[name]))
    content = yaml.safe_load(export("megatron-bridge", resolution)["megatron_bridge.yaml"])
    said = content["comm_overlap"]
    for field in ("tp_comm_overlap", "overlap_p2p_comm", "batch_p2p_comm", "defer_embedding_wgrad_compute",
                  "overlap_moe_expert_parallel_comm", "delay_wgrad_compute"):  # fmt: skip
        assert said[field] == resolution.transformer_config[field]
    distributed = resolution.request["ddp"]["use_distributed_optimizer"]
    where = said if distributed else content["ddp"]
    for field in ("overlap_grad_reduce", "overlap_param_gather", "align_param_gather"):
        assert where[field] == resolution.ddp_config[field]


def test_the_yaml_and_the_snippet_say_the_same_dictionary() -> None:
    made = files(*TP4)
    said = yaml.safe_load(made["megatron_bridge.yaml"])["comm_overlap"]["tp_comm_overlap_cfg"]
    calls = {
        keyword.arg: {argument.arg: ast.literal_eval(argument.value) for argument in keyword.value.keywords}
        for node in ast.walk(ast.parse(made["megatron_bridge_overlap.py"]))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TransformerLayerTPOverlapCfg"
        for keyword in node.keywords
    }
    assert calls == {gemm: without_targets(entry) for gemm, entry in without_targets(said).items()}
    preset = request_of(f"userbuffers={PRESET}")["userbuffers"]["layers"]
    for gemm, entry in preset.items():
        assert calls[gemm] == {name: value for name, value in entry.items() if name != "method"}


def test_fp8_buf_is_a_boolean_where_bridges_own_default_is_a_true_tuple() -> None:
    said = yaml.safe_load(files(*TP4)["megatron_bridge.yaml"])["comm_overlap"]["tp_comm_overlap_cfg"]
    assert said["proj_fprop"]["fp8_buf"] is False


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("userbuffers.layers.proj_wgrad.method=external",), "userbuffers.layers.proj_wgrad"),
        (("userbuffers.layers.qkv_fprop.use_ce=true",), "userbuffers.layers.qkv_fprop"),
        (("launch.vboost=true",), "launch.vboost"),
    ],
)
def test_what_bridge_cannot_say_is_refused(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ExportError) as error:
        files(*TP4, *overrides)
    assert key in [finding.where[0].key for finding in error.value.findings]


def test_the_snippet_sets_fields_of_the_container() -> None:
    tree = ast.parse(files(*TP4)["megatron_bridge_overlap.py"])
    targets = [node.targets[0] for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    set_on = {
        (t.value.attr, t.attr) for t in targets if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Attribute)
    }
    assert len(set_on) > 30
    assert [pair for pair in set_on if pair[1] not in BRIDGE_FIELDS[pair[0]]] == []


@pytest.mark.parametrize(("said", "impl", "modules"), [
    ("model.cuda_graph_scope=[attn]", "transformer_engine", ["attn"]),
    ("model.cuda_graph_impl=local", "local", []),
    ("model.cuda_graph_scope=[full_iteration]", "full_iteration", []),
    ("model.enable_cuda_graph=true", "local", []),
])  # fmt: skip
def test_graphs_are_said_in_the_words_of_the_megatron_core_that_bridge_carries(
    said: str, impl: str, modules: list[str]
) -> None:
    nodes = yaml.safe_load(files("parallelism.world_size=2", said)["megatron_bridge.yaml"])
    assert nodes["model"]["cuda_graph_impl"] == impl
    assert nodes["model"]["cuda_graph_modules"] == modules
    assert "enable_cuda_graph" not in nodes["model"]
