"""Every option of every group: its header, that it composes or is refused as documented, and that its values are right."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from hydra_overlap import option_files
from hydra_overlap.compose.enforce import refusal_in
from hydra_overlap.machine import local
from hydra_overlap.schema.nodes import Request
from tests.each import each

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
OPTIONS = [path for path in FILES if path.parent != Path() and path.parts[0] != "_overlap"]
RECIPES = [f"recipe/{name}" for name in option_files.options("comm_overlap/recipe")]
BUNDLE_FILES = [*option_files.options("comm_overlap"), *RECIPES]
BUNDLED = ("comm_overlap", "parallelism", "userbuffers", "platform", "software")
TYPED = [path for path in OPTIONS if path.parts[0] not in (*BUNDLED, "experiment", "hydra")]
USED = {
    f"{key.removeprefix('override /')}/{name}"
    for file in (CONF / "experiment").glob("*.yaml")
    for entry in yaml.safe_load(file.read_text())["defaults"]
    if isinstance(entry, dict)
    for key, name in entry.items()
}
MADE_FOR_EXPERIMENTS = ("comm_overlap", "parallelism", "training", "ddp")
# Presets are values that tests/presets judges one by one without composing; experiments are composed there, and with
# them the options that are made for one of them.
COMPOSED = [
    path
    for path in OPTIONS
    if path.parts[0] not in ("userbuffers", "experiment", "hydra")
    and not (path.parts[0] in MADE_FOR_EXPERIMENTS and path.with_suffix("").as_posix() in USED)
]
COMPOSED += [Path("userbuffers", f"{name}.yaml") for name in ("none", "auto", "bf16_h100_h8192_tp4_mbs1_seq8192")]

# Options that ask for more than the default job has: by which rule they are refused there, and what they go with.
NEEDS = {
    "comm_overlap/tp/userbuffers": ("TP001", "parallelism=tp2 platform=h100"),
    "comm_overlap/pp/interleaved": ("PP001", "parallelism=pp2_vpp2"),
    "comm_overlap/ep/a2a": ("EP001", "parallelism=ep8 model=qwen3_30b_a3b training.global_batch_size=64"),
    "comm_overlap/ep/a2a_delay_wgrad": (
        "EP001",
        "parallelism=ep8 model=qwen3_30b_a3b platform=h100 training.global_batch_size=64",
    ),
    "parallelism/ep2": ("PAR011", "model=qwen3_30b_a3b"),
    "parallelism/ep8": ("PAR011", "model=qwen3_30b_a3b"),
    "data/text": ("TRN007", "data.files=[a.txt]"),
    "model/deepseek_v3": ("TRN017", "launch.trainer=other"),
    "comm_overlap/dp/bucket_128m": ("DP014", "model=llama3_8b"),
    "comm_overlap/dp/bucket_128m_grad_reduce": ("DP014", "model=llama3_8b"),
    "comm_overlap/dp/bucket_128m_gather_with_step": ("DP005", "model=llama3_8b parallelism=pp2_vpp2_dp2"),
    "ddp/replicated": ("DP011", "optimizer=adam_replicated"),
    "optimizer/adam_replicated": ("DP011", "ddp=replicated"),
}

# The model each bundle's preset is nearest to.
BUNDLES = {
    "tp2_h100": "model=llama3_8b", "tp4_h100": "model=llama3_70b", "tp8_h100": "model=llama31_405b",
    "tp2_b200": "model=llama3_70b", "tp4_b200": "model=gpt3_175b", "tp8_b200": "model=llama31_405b",
    "tp4_a100": "model=gpt3_175b", "tp2_gb200": "model=llama31_405b", "tp4_gb200": "model=llama31_405b",
    "tp2_h100_fp8": "model=llama3_70b precision=fp8_delayed", "tp4_h100_fp8": "model=llama3_70b precision=fp8_delayed",
    "tp8_h100_fp8": "model=llama31_405b precision=fp8_delayed", "tp2_b200_fp8": "model=llama3_70b precision=fp8_delayed",
    "tp4_b200_fp8": "model=llama3_70b precision=fp8_delayed", "tp8_b200_fp8": "model=llama31_405b precision=fp8_delayed",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(local, "gpu_names", lambda: ())  # plans for a GPU are for another machine
    local.local_platform.cache_clear()
    GlobalHydra.instance().clear()
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        yield


def override(option: Path) -> str:
    return f"{option.parent.as_posix()}={option.stem}"


def loaded(group: str, name: str) -> dict[str, Any]:
    values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    values.pop("defaults", None)
    return values


def refused(*overrides: str) -> list[str]:
    with pytest.raises(ConfigCompositionException) as error:
        compose("config", list(overrides))
    refusal = refusal_in(error.value)
    assert refusal is not None, error.value
    return [finding.rule for finding in refusal.findings]


# headers


@each("file", FILES, ids=str)
def test_an_option_file_opens_with_one_line_that_describes_it(file: Path) -> None:
    lines = (CONF / file).read_text().splitlines()
    if lines[0].startswith("# @package"):
        lines = lines[1:]  # Hydra 1.3 reads it on the first line alone
    assert re.fullmatch(r"# \S.{8,130}\.", lines[0]), lines[0]
    assert not any(line.startswith("# @package") for line in lines)


@pytest.mark.parametrize("group", ["comm_overlap", "userbuffers", "model", "platform", "software"])
def test_options_with_values_of_others_say_where_they_are_from(group: str) -> None:
    for name in option_files.options(group):
        if (group, name) == ("userbuffers", "none"):
            continue
        lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
        second = lines[2 if lines[0].startswith("# @package") else 1]
        assert second.startswith("# source: "), f"{group}/{name}.yaml"
        if group in ("comm_overlap", "userbuffers"):
            assert second.endswith(("measured by us: no", "measured by us: yes")), f"{group}/{name}.yaml"


def test_no_option_name_is_a_yaml_boolean() -> None:
    """In a defaults list `- tp: off` is a boolean, and Hydra fails."""
    assert [path for path in OPTIONS if not isinstance(yaml.safe_load(path.stem), str)] == []


@each("file", TYPED, ids=str)
def test_every_option_outside_a_bundle_is_typed_by_its_groups_schema(file: Path) -> None:
    """What a bundle brings is typed by `_overlap/enforce`, once for all of it."""
    defaults = yaml.safe_load((CONF / file).read_text())["defaults"]
    extended = defaults[0] in option_files.options(file.parts[0])  # which is typed itself
    assert extended or defaults[0] == f"/_overlap/schema/{file.parts[0]}@_here_"
    assert defaults[-1] == "_self_"


@each("name", BUNDLE_FILES)
def test_every_bundle_is_typed_and_enforced_and_brings_its_nodes(name: str) -> None:
    defaults = yaml.safe_load((CONF / "comm_overlap" / f"{name}.yaml").read_text())["defaults"]
    assert (CONF / "comm_overlap" / f"{name}.yaml").read_text().startswith("# @package _global_\n")
    assert defaults[0] == "/_overlap/enforce@_global_"
    assert defaults[-1] == "_self_"
    groups = [next(iter(entry)) for entry in defaults if isinstance(entry, dict)]
    dimensions = [f"/comm_overlap/{one}@_global_.comm_overlap.{one}" for one in ("tp", "pp", "dp", "ep")]
    brought = [f"/{node}@_global_.{node}" for node in ("parallelism", "userbuffers", "platform", "software")]
    assert groups == [*dimensions, *brought]


# composing


@pytest.mark.parametrize("option", COMPOSED, ids=lambda path: path.with_suffix("").as_posix())
def test_every_option_composes_or_is_refused_as_documented(option: Path) -> None:
    rule, company = NEEDS.get(option.with_suffix("").as_posix(), (None, ""))
    if rule is not None:
        assert rule in refused(override(option))
    cfg = compose("config", [override(option), *company.split()])
    assert cfg.overlap.plan is not None


def test_the_default_job_asks_for_nothing_and_gets_data_parallel_overlap() -> None:
    cfg = compose("config")
    assert all(value in (None, "nccl") for dimension in cfg.comm_overlap.values() for value in dimension.values())
    assert cfg.overlap.effective.ddp_config.overlap_grad_reduce is True
    assert cfg.overlap.effective.world_size == 2


def test_the_bundle_none_switches_everything_off() -> None:
    effective = compose("config", ["comm_overlap=none"]).overlap.effective
    on = [
        f"{node}.{name}"
        for node in ("transformer_config", "optimizer_config", "ddp_config")
        for name, value in effective[node].items()
        if value is True and "overlap" in name
    ]
    assert on == []


@pytest.mark.parametrize("name", option_files.options("comm_overlap"))
def test_every_bundle_resolves_on_its_platform(name: str) -> None:
    cfg = compose("config", [f"comm_overlap={name}", *BUNDLES.get(name, "").split()])
    if name in BUNDLES:
        tp, platform = name.removeprefix("tp").removesuffix("_fp8").split("_")
        assert cfg.platform.name == platform
        assert cfg.parallelism.tensor_model_parallel_size == int(tp)
        assert cfg.userbuffers.tuned_for.tp == int(tp)
        assert cfg.userbuffers.tuned_for.gpu == platform
        assert cfg.userbuffers.tuned_for.precision in ("fp8" if name.endswith("_fp8") else "bf16", None)
        assert cfg.overlap.effective.transformer_config.tp_comm_overlap is True
        assert (
            OmegaConf.to_container(cfg.overlap.effective.userbuffers)
            == loaded("userbuffers", cfg.userbuffers.name)["layers"]
        )
        assert cfg.overlap.effective.software.origin == "assumed"


# models and platforms, against their makers' figures


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "ffn", "heads", "groups", "vocab", "rope", "channels"),
    [
        ("llama3_8b", 32, 4096, 14336, 32, 8, 128256, 500000, 128),
        ("llama3_70b", 80, 8192, 28672, 64, 8, 128256, 500000, 128),
        ("llama31_405b", 126, 16384, 53248, 128, 8, 128256, 500000, 128),
        ("qwen3_30b_a3b", 48, 2048, 6144, 32, 4, 151936, 1000000, 128),
        ("qwen3_235b_a22b", 94, 4096, 12288, 64, 4, 151936, 1000000, 128),
        ("gpt3_175b", 96, 12288, 49152, 96, 96, 51200, None, 128),
    ],
)  # fmt: skip
def test_a_model_has_its_published_shape(
    name: str, layers: int, hidden: int, ffn: int, heads: int, groups: int, vocab: int, rope: int | None, channels: int
) -> None:
    model = compose("config", [f"model={name}"]).model
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size) == (layers, hidden, ffn)
    assert (model.num_attention_heads, model.num_query_groups or model.num_attention_heads) == (heads, groups)
    assert (model.kv_channels or model.hidden_size // model.num_attention_heads) == channels
    assert model.vocab_size == vocab
    assert (model.rotary_base if model.position_embedding_type == "rope" else None) == rope


def test_the_mixture_of_experts_has_its_published_experts() -> None:
    model = compose("config", ["model=qwen3_30b_a3b"]).model
    assert (model.num_moe_experts, model.moe_router_topk, model.moe_ffn_hidden_size) == (128, 8, 768)
    assert (model.qk_layernorm, model.share_embeddings_and_output_weights, model.layernorm_epsilon) == (
        True,
        False,
        1e-6,
    )


def test_gpt3_is_no_llama() -> None:
    model = compose("config", ["model=gpt3_175b"]).model
    assert (model.normalization, model.activation_func, model.gated_linear_unit) == ("LayerNorm", "gelu", False)
    assert (model.add_bias_linear, model.share_embeddings_and_output_weights) == (True, True)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama3_8b", 8.03e9), ("llama3_70b", 70.6e9), ("llama31_405b", 405.9e9), ("gpt3_175b", 175e9), ("qwen3_30b_a3b", 30.5e9), ("qwen3_235b_a22b", 235e9)],
)  # fmt: skip
def test_the_shape_of_a_model_gives_its_published_number_of_parameters(name: str, parameters: float) -> None:
    assert parameters_of(compose("config", [f"model={name}"]).model) == pytest.approx(parameters, rel=0.01)


def parameters_of(m: DictConfig) -> int:
    """Weights of attention, MLP or experts, embeddings; norms, biases and routers are below the test's 1 %."""
    width = (m.kv_channels or m.hidden_size // m.num_attention_heads) * m.num_attention_heads
    groups = m.num_query_groups or m.num_attention_heads
    attention = 2 * m.hidden_size * width + 2 * m.hidden_size * width * groups // m.num_attention_heads
    matrices = 3 if m.gated_linear_unit else 2
    mlp = matrices * m.hidden_size * (m.moe_ffn_hidden_size or m.ffn_hidden_size) * (m.num_moe_experts or 1)
    embeddings = m.vocab_size * m.hidden_size * (1 if m.share_embeddings_and_output_weights else 2)
    return m.num_layers * (attention + mlp) + embeddings


@each("name", [n for n in option_files.options("platform") if n not in ("cpu", "auto")])
def test_the_facts_of_a_platform_are_plausible(name: str) -> None:
    gpu = loaded("platform", name)
    assert gpu["name"] == name
    generation = {"a": 80, "h": 90, "b2": 100, "gb2": 100, "b3": 103, "gb3": 103}
    assert gpu["sm"] == next(sm for prefix, sm in generation.items() if name.startswith(prefix))
    whole = {80: 600, 90: 900}.get(gpu["sm"], 1800)
    assert gpu["nvlink_gbps"] == (400 if name in ("a800", "h800") else whole)
    assert (gpu["gpus_per_node"], gpu["nvlink_domain_size"]) == ((4, 72) if name.startswith("gb") else (8, 8))
    assert 80 <= gpu["memory_gib"] <= 288
    assert 2000 <= gpu["memory_bandwidth_gbps"] <= 8000
    assert gpu["num_sms"] in (None, 78, 108, 132, 148)


# types


WRONG = {
    "parallelism": "parallelism.tensor_model_parallel_size=four",
    "comm_overlap": "comm_overlap.tp.tp_comm_overlap=perhaps",
    "userbuffers": "userbuffers.tuned_for.tp=wide",
    "model": "model.hidden_size=wide",
    "precision": "precision.bf16=sometimes",
    "ddp": "ddp.use_distributed_optimizer=sometimes",
    "optimizer": "optimizer.lr=fast",
    "training": "training.train_iters=many",
    "data": "data.files=3",
    "platform": "platform.sm=hopper",
    "launch": "launch.max_ranks=all",
    "software": "software.torch=[1]",
    "overlap": "overlap.env_copy=3",
}


@pytest.mark.parametrize("group", WRONG)
def test_a_wrong_type_is_refused_in_every_group(group: str) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        compose("config", [WRONG[group]])
    said = f"{error.value} {error.value.__cause__}"
    assert WRONG[group].partition("=")[0] in said


@pytest.mark.parametrize("group", [name for name in Request.__dataclass_fields__ if name != "gating"])
def test_an_unknown_key_is_refused_in_every_group(group: str) -> None:
    with pytest.raises(ConfigCompositionException, match=f"{group}.no_such_key"):
        compose("config", [f"{group}.no_such_key=1"])
    assert refused(f"+{group}.no_such_key=1") == ["CFG001"]
