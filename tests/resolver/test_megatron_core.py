"""Our answers against the megatron-core that is installed: its config classes built for real.

Two directions: what we accept it accepts, field by field; and what we say it refuses while a config is built it refuses.
"""

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from hydra_overlap import ApplyError, GatingError, Resolution, dotted, resolve
from hydra_overlap.launch.plan import make
from hydra_overlap.megatron import configs
from hydra_overlap.resolver.resolve import _complete
from hydra_overlap.rules import DERIVATIONS, RULES
from hydra_overlap.rules.cp import CP003
from hydra_overlap.rules.ep import EP006, EP013
from hydra_overlap.rules.layout import SPLIT
from hydra_overlap.rules.pipeline_layout import LayoutError, stages_of, text_of
from hydra_overlap.rules.prec import PREC004
from hydra_overlap.rules.tp import TP009, TP011, TP016
from hydra_overlap.schema.targets import TRANSFORMER_FIELDS
from tests import needs
from tests.each import each
from tests.overrides import flat_of, refusing, request_of
from tests.strategies import SCENARIOS, nest, plausible

pytestmark = [needs.MEGATRON, needs.IN_PROCESS]

DRAWN = int(os.environ.get("PROMISE_EXAMPLES", "0"))
"""More requests than CI draws, other ones each time: `PROMISE_EXAMPLES=20000 pytest tests/resolver/test_megatron_core.py`."""
BUILT_WITH = "0.16.1"  # the version whose lines the rules cite
Request = dict[str, Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """megatron-core warns about Transformer Engine and about choices that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def transformer_config(request: Request, overlap: Request) -> Any:
    """TransformerConfig of a complete request; sizes that were not said take values that fit the layout."""
    import torch
    from megatron.core.transformer.transformer_config import TransformerConfig

    layout, model, precision = request["parallelism"], request["model"], request["precision"]
    known = {field.name for field in fields(TransformerConfig)}
    values = {
        name: value for name, value in (layout | model | precision).items() if name in known and value is not None
    }
    values.pop("activation_func")
    if model["num_layers"] is None:  # nothing is judged of uneven stages then, and the number below would not fit them
        values = {name: value for name, value in values.items() if f"model.{name}" not in SPLIT}
    if model["num_moe_experts"] is None:
        values = {name: value for name, value in values.items() if not name.startswith("moe_") or "overlap" in name}
        values["moe_token_dispatcher_type"] = (
            "alltoall"  # a dense model has none, and the default refuses some settings
        )
    if values.pop("cuda_graph_scope"):
        from megatron.core.transformer.enums import CudaGraphScope

        values["cuda_graph_impl"] = "transformer_engine"
        values["cuda_graph_scope"] = [CudaGraphScope[name] for name in model["cuda_graph_scope"]]
    heads = 8 * layout["tensor_model_parallel_size"]
    stages = layout["pipeline_model_parallel_size"] * (layout["virtual_pipeline_model_parallel_size"] or 1)
    defaults = {"num_layers": 4 * stages, "hidden_size": 16 * heads, "num_attention_heads": heads}
    needed = {
        "pipeline_dtype": torch.bfloat16,
        "fp8_param": precision["fp8_param_gather"],
        "bias_activation_fusion": False,
    }
    return TransformerConfig(**{**defaults, **values, **needed, **overlap})


def said(node: Request, kind: Any) -> Request:
    """The fields of a node that are fields of the config class `kind` and have a value."""
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in node.items() if name in known and value is not None}


def objects(request: Request) -> tuple[Any, Any, Any]:
    """megatron-core's three configs before any overlap is set."""
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig

    return transformer_config(request, {}), OptimizerConfig(), DistributedDataParallelConfig()


def accepted_by_megatron_core(resolution: Resolution) -> None:
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig

    planned = Version(resolution.request["software"]["transformer_engine"] or "2.11.0")  # none is installed here
    with mock.patch("megatron.core.utils.get_te_version", return_value=planned):
        built = transformer_config(resolution.request, resolution.transformer_config)
    assert {name: getattr(built, name) for name in resolution.transformer_config} == resolution.transformer_config
    gathered = {"fp8_param_gather": resolution.request["precision"]["fp8_param_gather"]}
    of_ddp = said(resolution.request["ddp"], DistributedDataParallelConfig)
    ddp = DistributedDataParallelConfig(**of_ddp | gathered | resolution.ddp_config)
    optimizer = OptimizerConfig(**said(resolution.request["optimizer"], OptimizerConfig) | resolution.optimizer_config)
    for row in resolution.ledger:
        node, _, name = row.field.rpartition(".")
        if node.startswith("comm_overlap."):
            owner = {"dp": ddp, "tp": built, "pp": built, "ep": built}[node.rpartition(".")[2]]
            found = getattr(owner, name) if hasattr(owner, name) else getattr(optimizer, name)
            assert found == row.effective, row.field


@pytest.mark.parametrize("name", SCENARIOS)
def test_megatron_core_takes_every_scenario(name: str) -> None:
    accepted_by_megatron_core(resolve(nest(SCENARIOS[name])))


@settings(max_examples=DRAWN or 500, deadline=None, derandomize=not DRAWN, suppress_health_check=list(HealthCheck))
@given(plausible())
def test_megatron_core_takes_whatever_we_take(request: Request) -> None:
    request.setdefault("software", {})["megatron_core"] = BUILT_WITH
    request.setdefault("model", {})["cuda_graph_scope"] = []  # asks for a Transformer Engine that is not here
    try:
        resolution = resolve(request)
    except GatingError:
        event("refused")
        return
    event("accepted")
    accepted_by_megatron_core(resolution)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([*"EtmL|(),x", "*2", "*0", "*13", "tt", "|)*3"]), max_size=14).map("".join))
@example("Et|(tt|)*30L")
@example("(t|(t|)*2)*2")
def test_a_layout_is_written_out_as_megatron_core_does(text: str) -> None:
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    try:
        theirs = text_of(
            [[kind.name for kind in stage] for stage in PipelineParallelLayerLayout.parse_str_to_list(text)]
        )
    except AssertionError:
        with pytest.raises(LayoutError):
            stages_of(text)
    else:
        assert "|".join(stages_of(text)) == theirs


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    stages=st.lists(st.sampled_from(["t", "tt", "", "m", "tm", "L", "E"]), max_size=6), ends=st.sampled_from(["EL", "E", "LE"]),
    pp=st.sampled_from([1, 2, 3]), vpp=st.sampled_from([None, None, 2, 3]), predicting=st.sampled_from([None, 0, 1, 2]),
)  # fmt: skip
def test_a_layout_is_refused_exactly_where_megatron_core_refuses_it(
    stages: list[str], ends: str, pp: int, vpp: int | None, predicting: int | None
) -> None:
    """But for VPP without a pipeline, and VPP = 1, which fail only where process groups are made (PAR005)."""
    text = ends[0] + "|".join(stages) + ends[1:]
    request = {
        "parallelism": {"pipeline_model_parallel_size": pp, "virtual_pipeline_model_parallel_size": vpp},
        "model": {
            "pipeline_model_parallel_layout": text, "num_layers": text.count("t") or 1, "mtp_num_layers": predicting,
            "hidden_size": 16, "num_attention_heads": 1,
        },
    }  # fmt: skip
    try:
        resolution = resolve(request)
    except GatingError as refusal:
        rules = {finding.rule for finding in refusal.findings}
        assert rules <= {"PAR021", "PAR022", "PAR023", "PAR024", "PAR025", "PAR005"}, rules
        if pp == 1:
            return
        complete = dotted.nested(_complete(flat_of(request)).flat)
        with pytest.raises(AssertionError):
            transformer_config(complete, {})
    else:
        accepted_by_megatron_core(resolution)


@settings(max_examples=DRAWN or 250, deadline=None, derandomize=not DRAWN, suppress_health_check=list(HealthCheck))
@given(plausible(), st.sampled_from(["gelu", "silu"]), st.booleans(), st.booleans())
def test_the_configuration_that_a_gpu_would_train_with_is_built(
    request: Request, activation: str, gated: bool, bias: bool
) -> None:
    """With the fusions that train.py switches on there; a configuration can be built without a GPU."""
    model = request.setdefault("model", {})
    model |= {
        "activation_func": activation,
        "gated_linear_unit": gated,
        "add_bias_linear": bias,
        "cuda_graph_scope": [],
    }
    model |= {"hidden_size": 1024, "num_attention_heads": 8, "num_query_groups": None}
    request.setdefault("software", {})["megatron_core"] = BUILT_WITH
    request["platform"] = {"name": "h100", "sm": 90}
    try:
        resolution = resolve(request)
    except GatingError:
        return
    planned = resolution.request["software"]["transformer_engine"]
    if resolution.request["model"]["num_layers"] is None:  # only judged: train.py needs a number (TRN001)
        return
    fused = mock.Mock() if planned else None
    rope = "megatron.core.models.common.embeddings.rope_utils.fused_apply_rotary_pos_emb"
    plan = make(resolution, overrides=[], config="", output_dir=Path())
    with (
        mock.patch(rope, fused),
        mock.patch(f"{rope}_thd", fused),
        mock.patch("megatron.core.utils.get_te_version", return_value=Version(planned or "2.11.0")),
    ):
        built = configs.transformer_config(plan, on_gpu=True)
    event("built")
    assert built.bias_activation_fusion == (gated or (activation == "gelu" and bias))
    assert not built.apply_rope_fusion or planned


@pytest.mark.parametrize("name", SCENARIOS)
def test_apply_sets_every_field_on_the_real_objects_and_they_stay(name: str) -> None:
    resolution = resolve(nest(SCENARIOS[name]))
    transformer, optimizer, ddp = objects(resolution.request)
    resolution.apply(transformer, optimizer, ddp)
    targets = (transformer, optimizer, ddp)
    for target, values in zip(
        targets, (resolution.transformer_config, resolution.optimizer_config, resolution.ddp_config), strict=True
    ):
        assert values
        assert {field: getattr(target, field) for field in values} == values


def test_apply_takes_bridges_answer_but_for_bridges_own_field() -> None:
    asked = {"comm_overlap": {"tp": {"tp_comm_overlap": False}}, "userbuffers": {"layers": {"qkv_fprop": {}}}}
    resolution = resolve({"gating": "bridge", **asked})
    transformer, optimizer, ddp = objects(resolution.request)
    resolution.apply(transformer, optimizer, ddp)
    assert not hasattr(transformer, "tp_comm_overlap_cfg")
    assert transformer.wgrad_deferral_limit == -1


def test_apply_sets_nothing_on_an_object_that_lacks_a_field() -> None:
    resolution = resolve({"parallelism": {"world_size": 2}})
    transformer, optimizer, _ = objects(resolution.request)
    before = vars(transformer).copy()
    with pytest.raises(ApplyError, match=r"object\.overlap_grad_reduce"):
        resolution.apply(transformer, optimizer, object())
    assert vars(transformer) == before


AT_CONSTRUCTION = {
    "PAR003": "sequence parallelism without tensor parallelism",
    "PAR006": "num_attention_heads .* must be a multiple",
    "PAR007": "num_query_groups .* must be a multiple or divisor",
    "PAR011": "num_moe_experts must be non None",
    "PAR018": "does not support variable sequence length",
    "PREC001": "Delayed scaling does not support first / last layer in BF16",
    "PREC002": "num_layers_at_start_in_bf16 .* must be between",
    "PAR014": "Only one of self.fp16",
    "PAR015": "fp8_param must be used together with fp8",
    "PAR016": "recompute_method must be",
    "PAR017": "number of middle layers: 5 must be divisible",
    "PP004": "warmup and flush is only",
    "PP005": "when pipeline model parallel is not used",
    "PP006": "when gradient accumulation fusion is not used",
    "PP007": "limit should be greater than or equal to 0",
    "EP001": "only supported with expert model parallelism",
    "EP002": "alltoall/flex token dispatcher",
    "EP003": "only supported with bf16 or fp16",
    "EP005": "virtual_pipeline_model_parallel_size must be specified",
    "EP006": "disable full recomputation",
    "EP008": "disable moe_shared_expert_overlap",
    "EP009": "MTP layernum only supports 1",
    "EP010": "must be enabled when enabling delay_wgrad_compute",
    "EP013": "CUDA graph scope on moe and mlp",
    "EP014": "only works with alltoall",
    "EP016": "shared_experts recompute cannot work",
    "EP019": "must be enabled when enabling ep_overlap_early_attn_memory_release",
}
EXAMPLES = {
    "PAR016": ("model.recompute_granularity=full", "model.recompute_num_layers=1"),
    "EP006": (
        *EP006.refused, "model.recompute_granularity=full", "model.recompute_num_layers=1",
    ),
    "EP013": tuple(override.replace("[moe]", "[mlp]") for override in EP013.refused),
    "EP014": (
        "model.moe_shared_expert_overlap=true", "model.num_moe_experts=4", "model.moe_shared_expert_intermediate_size=64",
    ),
}  # fmt: skip
"""Where another rule would refuse the declared example first, or megatron-core would not look at it."""


def complete(overrides: tuple[str, ...]) -> tuple[Request, Request]:
    """The complete request, refused or not, and its overlap fields."""
    flat = _complete(flat_of(request_of(*overrides))).flat
    return dotted.nested(flat), {name: flat[key] for name, key in TRANSFORMER_FIELDS.items()}


@pytest.mark.parametrize("name", AT_CONSTRUCTION)
def test_megatron_core_refuses_the_example_of_a_rule_it_shares(name: str) -> None:
    rule = next(rule for rule in RULES if rule.__name__ == name)
    overrides = EXAMPLES.get(name, rule.refused)
    assert name in refusing(*overrides)
    request, overlap = complete(overrides)
    overlap["moe_layer_freq"] = 2  # a dense layer in between, so that an MLP in a CUDA graph is looked at
    with pytest.raises((ValueError, AssertionError), match=AT_CONSTRUCTION[name]):
        transformer_config(request, overlap)


def test_megatron_core_refuses_another_distributed_optimizer_than_adam() -> None:
    """DP013; megatron-core finds it while the optimizer is built."""
    import torch
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    chunk = SimpleNamespace(ddp_config=DistributedDataParallelConfig(use_distributed_optimizer=True))
    base = mock.patch("megatron.core.optimizer.distrib_optimizer.MixedPrecisionOptimizer.__init__")  # asks for CUDA
    with base, pytest.raises(AssertionError, match="Only Adam and HybridDeviceOptimizer currently supported"):
        DistributedOptimizer(sgd, OptimizerConfig(optimizer="sgd"), None, None, [chunk], {}, None, None, 0, 0)


def test_megatron_core_asserts_that_only_fp8_parameters_pass_through_the_gradient_buffer() -> None:
    from megatron.core.distributed import DistributedDataParallelConfig

    assert refusing(*PREC004.refused) == ["PREC004"]
    with pytest.raises(AssertionError, match="Reuse grad buffer only when keeping params in MXFP8"):
        DistributedDataParallelConfig(reuse_grad_buf_for_mxfp8_param_ag=True)


SILENT = {
    "PP001": ("comm_overlap.pp.overlap_p2p_comm=true",),
    "DP002": ("comm_overlap.dp.overlap_param_gather=true",),
    "TP001": ("comm_overlap.tp.tp_comm_overlap=true",),
    "TP009": TP009.refused,
    "TP011": TP011.refused,
    "TP016": TP016.refused,
    "CP003": CP003.refused,
    "PAR005": ("parallelism.virtual_pipeline_model_parallel_size=2",),
}


@pytest.mark.parametrize("rule", SILENT)
def test_megatron_core_alone_would_build_what_we_refuse(rule: str) -> None:
    """The reason for these rules: nothing is said while the config is built."""
    assert rule in refusing(*SILENT[rule])
    request, overlap = complete(SILENT[rule])
    built = transformer_config(request, overlap)
    assert {name: getattr(built, name) for name in overlap} == overlap


def cited(source: str) -> Iterator[tuple[str, str]]:
    """(path, lines) of every place in the megatron-core that is tested with; a citation names its release before the path."""
    release = BUILT_WITH
    for said, path, lines in re.findall(r"core_v([\d.]+)|(megatron/core/[\w/]+\.py):(\d[\d, -]*)", source):
        release = said or release
        if path and release == BUILT_WITH:
            yield path, lines


CITED = [
    (getattr(item, "__name__", None) or getattr(item, "id", ""), path, lines)
    for item in (*RULES, *DERIVATIONS)
    for path, lines in cited(item.source)
]


@each("name, path, lines", CITED)
def test_a_cited_line_of_megatron_core_exists(name: str, path: str, lines: str) -> None:
    if metadata.version("megatron-core") != BUILT_WITH:
        pytest.skip(f"the lines cited are those of {BUILT_WITH}")
    spec = util.find_spec("megatron.core")
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent.parent.parent / path).read_text().splitlines()
    for last in re.findall(r"(\d+)(?!\d*-)", lines):
        assert int(last) <= len(text), f"{name}: {path} has {len(text)} lines"
