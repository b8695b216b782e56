"""Published recipes as experiments: each composes, asks what its recipe asks, and differs from it only as listed here."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from hydra_overlap import judged, option_files
from hydra_overlap.compose.enforce import refusal_in
from hydra_overlap.machine import local
from tests.each import each
from tests.overrides import errors_of

ROOT = Path(__file__).parents[2]
NAMES = option_files.options("experiment")
BRIDGE = {
    recipe["recipe"]: recipe
    for recipe in json.loads((ROOT / "tests/reference/bridge_recipes.json").read_text())["recipes"]
}


def source_of(name: str) -> str:
    """What the third line of an experiment says after `source: `."""
    line = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()[2]
    return line.removeprefix("# source: ").partition(";")[0]


RECIPES = {name: BRIDGE[source_of(name).split()[-1]] for name in NAMES if source_of(name).startswith("Megatron-Bridge")}
DOCS = (ROOT / "docs" / "presets.md").read_text()

# Experiments that ask for less than their recipe, which Megatron-Bridge would change in silence: what the recipe says, and
# the rule that refuses it.
ASKED = {
    name: ("comm_overlap/tp=userbuffers", "TP001") for name, recipe in RECIPES.items() if recipe["bridge_warnings"]
} | {"llama31_405b_128gpu_gb300_bf16": ("userbuffers=bf16_b200_h16384_tp4_cp2_mbs1_seq8192", "UB001")}

WITHDRAWN_PP = {"deepseek_v3_256gpu_b200_bf16": 8, "deepseek_v3_256gpu_b200_fp8cs": 8}
"""Stages of recipes that upstream changed after v0.6.0, because with 16 they hang: Megatron-Bridge pull 6096."""
WITHDRAWN = "overlap_param_gather_with_optimizer_step"
"""What 0.6.2 withdrew from every recipe that asked for it: pulls 5847 and 5999."""

pytestmark = pytest.mark.xdist_group("experiments")  # each composed once, by one worker

# variable -> (ours, the recipes'), None = not set; docs/presets.md gives the reason of each.
ENVIRONMENT: dict[str, tuple[set[str | None], set[str | None]]] = {
    "CUDA_DEVICE_MAX_CONNECTIONS": ({"8"}, {"32"}),
    "NCCL_NVLS_ENABLE": ({None}, {"0"}),
    "NCCL_GRAPH_REGISTER": ({None}, {"0"}),
    "PYTORCH_CUDA_ALLOC_CONF": ({None}, {"expandable_segments:True", "expandable_segments:True,graph_capture_record_stream_reuse:True"}),
    "TORCH_NCCL_AVOID_RECORD_STREAMS": ({None}, {"0", "1"}),
    "TORCH_NCCL_HIGH_PRIORITY": ({None}, {"1"}),
    "NVTE_NORM_FWD_USE_CUDNN": ({None}, {"1"}),
    "NVTE_NORM_BWD_USE_CUDNN": ({None}, {"1"}),
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": ({None}, {"0"}),
    "NCCL_CTA_POLICY": ({None}, {"1"}),
    "NUM_OF_TOKENS_PER_CHUNK_COMBINE_API": ({None}, {"64", "128"}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "gpu_names", lambda: ())  # the plans are for other machines
        local.local_platform.cache_clear()
        GlobalHydra.instance().clear()
        with initialize_config_module("hydra_overlap.conf", version_base=None):
            yield
    local.local_platform.cache_clear()


@pytest.fixture(scope="module")
def composed() -> dict[str, DictConfig]:
    """Every experiment, composed once."""
    return {}


def config(composed: dict[str, DictConfig], name: str) -> DictConfig:
    if name not in composed:
        composed[name] = compose("config", [f"experiment={name}"])
    return composed[name]


@each("name", NAMES)
def test_an_experiment_opens_with_the_command_that_runs_it(composed: dict[str, DictConfig], name: str) -> None:
    lines = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()
    built = config(composed, name).launch.trainer == "train.py"
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# {'python train.py' if built else 'hydra-overlap check'} experiment={name}: ")
    assert re.fullmatch(r"# source: .+; measured by us: no", lines[2])


@each("name", NAMES)
def test_an_experiment_names_another_program_just_where_train_py_does_not_build_it(
    composed: dict[str, DictConfig], name: str
) -> None:
    request = judged(config(composed, name)).request
    for_us = {**request, "launch": {**request["launch"], "trainer": "train.py"}}
    refused = [finding.rule for finding in errors_of(for_us)]
    assert bool(refused) == (request["launch"]["trainer"] == "other"), refused


@each("name", NAMES)
def test_an_experiment_composes_and_is_the_layout_its_first_line_says(
    composed: dict[str, DictConfig], name: str
) -> None:
    cfg = config(composed, name)
    said = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    layout = cfg.parallelism
    sizes = {
        "TP": layout.tensor_model_parallel_size, "PP": layout.pipeline_model_parallel_size,
        "VPP": layout.virtual_pipeline_model_parallel_size or 1, "CP": layout.context_parallel_size,
        "EP": layout.expert_model_parallel_size,
    }  # fmt: skip
    found = {key: int(value) for key, value in re.findall(r"\b(VPP|TP|PP|CP|EP)(\d+)", said)}
    assert {**dict.fromkeys(sizes, 1), **found} == sizes
    assert f"{cfg.overlap.effective.world_size} {cfg.platform.name.upper()}," in said
    assert cfg.overlap.plan is not None


@each("name", RECIPES)
def test_an_experiment_has_the_layout_and_batch_of_its_recipe(composed: dict[str, DictConfig], name: str) -> None:
    cfg, recipe = config(composed, name), RECIPES[name] | {"pp": WITHDRAWN_PP.get(name, RECIPES[name]["pp"])}
    layout, training = cfg.parallelism, cfg.training
    assert recipe["recipe"].replace("_pretrain", "").removesuffix("_config") == name
    assert {
        "tp": layout.tensor_model_parallel_size, "pp": layout.pipeline_model_parallel_size, "cp": layout.context_parallel_size,
        "vp": layout.virtual_pipeline_model_parallel_size, "ep": layout.expert_model_parallel_size,
        "etp": layout.expert_tensor_parallel_size, "sp": layout.sequence_parallel, "gpus": layout.world_size,
        "mbs": training.micro_batch_size, "gbs": training.global_batch_size, "seq": cfg.model.seq_length,
        "fsdp": cfg.ddp.use_megatron_fsdp,
    } == {key: recipe[key] for key in ("tp", "pp", "cp", "vp", "ep", "etp", "sp", "gpus", "mbs", "gbs", "seq", "fsdp")}  # fmt: skip


@each("name", RECIPES)
def test_an_experiment_resolves_to_what_bridge_makes_of_its_recipe(composed: dict[str, DictConfig], name: str) -> None:
    cfg, recipe = config(composed, name), RECIPES[name]
    effective = cfg.overlap.effective
    ours: dict[str, Any] = {**effective.transformer_config, **effective.optimizer_config, **effective.ddp_config}
    bridge = recipe["comm_overlap_effective"]
    different = {key: (ours[key], value) for key, value in bridge.items() if ours[key] != value}
    assert different.pop("wgrad_deferral_limit") == (0, -1)  # unused without deferral
    if recipe["fsdp"]:
        assert different.pop("bucket_size") == (None, 134217728)  # FSDP reads none
    assert different.pop(WITHDRAWN, (False, True)) == (False, True)
    assert different == {}
    if ours["tp_comm_overlap"] and name not in ASKED:
        assert cfg.userbuffers.source.endswith(recipe["ub_preset"])


@pytest.mark.parametrize("name", ASKED)
def test_what_bridge_would_change_in_silence_is_refused(name: str) -> None:
    asks, rule = ASKED[name]
    with pytest.raises(Exception) as error:  # noqa: PT011  Hydra's wrapper differs by version; what it wraps is asserted
        compose("config", [f"experiment={name}", asks])
    refusal = refusal_in(error.value)
    assert refusal is not None
    assert rule in [finding.rule for finding in refusal.findings]
    assert rule in (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()


def environments(composed: dict[str, DictConfig]) -> Iterator[tuple[str, str | None, str | None]]:
    """(variable, ours, the recipe's) of every difference in every experiment."""
    for name, recipe in RECIPES.items():
        ours = dict(config(composed, name).overlap.env)
        theirs = {variable: str(value) for variable, value in recipe["env_vars"].items()}
        for variable in ours | theirs:
            if ours.get(variable) != theirs.get(variable):
                yield variable, ours.get(variable), theirs.get(variable)


def test_the_environment_differs_from_the_recipes_only_as_listed(composed: dict[str, DictConfig]) -> None:
    found: dict[str, tuple[set[str | None], set[str | None]]] = {}
    for variable, ours, theirs in environments(composed):
        pair = found.setdefault(variable, (set(), set()))
        pair[0].add(ours)
        pair[1].add(theirs)
    assert found == ENVIRONMENT
    for variable in ENVIRONMENT:
        assert re.search(rf"^\|[^|]*`{variable}`.*\| \S[^|]+ \|$", DOCS, re.MULTILINE), variable


def test_every_recipe_is_an_experiment() -> None:
    assert sorted(set(NAMES) - set(RECIPES)) == ["gpt3_175b_128gpu_h100_bf16", "gpt3_175b_128gpu_h100_fp8ds"]
    assert len(RECIPES) == 36
