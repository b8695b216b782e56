"""The GPU path up to the first step, in Transformer Engine's own Python modules: what was promised is what layers hold.

The real transformer_engine package 2.11.0 (the newest that megatron-core 0.16.1 admits), with fakes where it calls compiled
code (real_package.py): megatron-core's Transformer Engine layers, DDP and Transformer Engine's FusedAdam are constructed by
their own code. No layer runs: GEMMs, quantization, and with it parameters made in FP8, are compiled for CUDA.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.te import upstream

pytestmark = needs.MEGATRON
VERSION = "2.11.0"
TP4 = ("comm_overlap=tp4_h100", "userbuffers=none")
BF16_PARAMETERS = "precision.fp8_param_gather=false"
MOE = (
    "model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall", "model.moe_shared_expert_intermediate_size=128",
)  # fmt: skip

COLUMN = ["ag_fprop", "bulk_dgrad", "bulk_wgrad"]
ROW = ["ag_dgrad", "rs_fprop"]
# settings -> overlaps that are on in (qkv, proj, fc1, fc2)
FLAGS: dict[tuple[str, ...], tuple[list[str], list[str], list[str], list[str]]] = {
    (): (COLUMN, ROW, COLUMN, ROW),
    ("comm_overlap.tp.tp_comm_bulk_dgrad=false", "comm_overlap.tp.tp_comm_bulk_wgrad=false"): (
        ["ag_fprop"], ROW, ["ag_fprop"], ROW,
    ),
    ("comm_overlap.tp.tp_comm_overlap_ag=false",): (
        ["bulk_dgrad", "bulk_wgrad"], ["rs_fprop"], ["bulk_dgrad", "bulk_wgrad"], ["rs_fprop"],
    ),
    ("comm_overlap.tp.tp_comm_overlap_rs=false",): (COLUMN, ["ag_dgrad"], COLUMN, ["ag_dgrad"]),
    ("comm_overlap.tp.tp_comm_overlap_disable_qkv=true",): (["bulk_dgrad", "bulk_wgrad"], ROW, COLUMN, ROW),
    ("comm_overlap.tp.tp_comm_overlap_disable_fc1=true",): (COLUMN, ROW, ["bulk_dgrad", "bulk_wgrad"], ROW),
    (
        "comm_overlap.tp.tp_comm_overlap_rs_dgrad=true", "comm_overlap.tp.tp_comm_bulk_dgrad=false",
        "comm_overlap.tp.tp_comm_bulk_wgrad=false",
    ): (["ag_fprop", "rs_dgrad"], ROW, ["ag_fprop", "rs_dgrad"], ROW),
}  # fmt: skip
# precision, and what it needs -> recipe, layers of four in FP8
RECIPES = {
    ("precision=fp8_delayed", "platform=h100"): ("TEDelayedScaling", [0, 1, 2, 3]),
    ("precision=fp8_current", "platform=h100"): ("Float8CurrentScaling", [1, 2]),
    ("precision=fp8_blockwise", "comm_overlap.tp.tp_comm_overlap=false"): ("Float8BlockScaling", [0, 1, 2, 3]),
    ("precision=fp8_mxfp8", "platform=b200"): ("MXFP8BlockScaling", [0, 1, 2, 3]),
}
ASKED = (
    [[*TP4, *settings] for settings in FLAGS]
    + [[*TP4, *case, BF16_PARAMETERS, "model.num_layers=4"] for case in RECIPES]
    + [[*TP4, *MOE, "model.moe_ffn_hidden_size=128"], ["parallelism=dp2", "platform=h100"], ["MLA", *TP4]]
)


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest) -> dict[tuple[str, ...], Any]:
    """Overrides -> what was built of them, all from one child process."""
    folder = Path(request.config.cache.mkdir("transformer-engine"))  # type: ignore[union-attr]
    try:
        wheel = upstream.download(VERSION, folder)
    except (subprocess.SubprocessError, OSError, IndexError) as error:
        pytest.skip(f"transformer-engine {VERSION} cannot be downloaded: {error}")
    command = [sys.executable, "-m", "tests.te.real_layers", str(wheel), str(folder)]
    done = subprocess.run(command, input=json.dumps(ASKED), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {tuple(overrides): answer for overrides, answer in zip(ASKED, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("settings", FLAGS, ids=lambda settings: " ".join(settings) or "as decided")
def test_every_linear_layer_overlaps_what_was_promised(answers: Any, settings: tuple[str, ...]) -> None:
    built = answers[(*TP4, *settings)]
    expected = dict(zip(("qkv", "proj", "fc1", "fc2"), FLAGS[settings], strict=True))
    assert {name for _, name, _ in built["linears"]} == set(expected)
    for kind, name, on in built["linears"]:
        assert on == expected[name], name
        assert kind.startswith("TE")
    assert built["differences"] == []
    assert sum(".ag_fprop of linear layer" in where for where in built["compared"]) == 8


@pytest.mark.slow
def test_userbuffers_are_made_before_the_layers_that_name_them(answers: Any) -> None:
    built = answers[TP4]
    assert {f"{name}_{part}" for _, name, _ in built["linears"] for part in ("fprop", "dgrad", "wgrad")} == set(
        built["communicators"]
    )
    assert built["layers"] == "Transformer Engine's"
    assert built["optimizer"].startswith("transformer_engine.pytorch.optimizers")


@pytest.mark.slow
def test_read_back_catches_the_overlap_that_megatron_core_clears_under_latent_attention(answers: Any) -> None:
    found = answers[("MLA", *TP4)]["differences"]
    assert "rank 0: TransformerConfig.tp_comm_overlap of chunk 0 is false, promised true" in found
    assert "rank 0: userbuffers of a layer's qkv of chunk 0 is false, promised true" in found


@pytest.mark.slow
def test_routed_experts_have_no_buffers_and_shared_ones_do(answers: Any) -> None:
    built = answers[(*TP4, *MOE, "model.moe_ffn_hidden_size=128")]
    assert built["differences"] == []
    assert ["TEColumnParallelLinear", "fc1", ["ag_fprop"]] in built["linears"]


@pytest.mark.slow
def test_a_plan_without_tp_overlap_makes_no_userbuffers(answers: Any) -> None:
    built = answers["parallelism=dp2", "platform=h100"]
    assert built["communicators"] == []
    assert built["differences"] == []


@pytest.mark.slow
@pytest.mark.parametrize("case", RECIPES, ids=lambda case: case[0])
def test_an_fp8_recipe_reaches_transformer_engine_layer_by_layer(answers: Any, case: tuple[str, str]) -> None:
    built = answers[(*TP4, *case, BF16_PARAMETERS, "model.num_layers=4")]
    assert (built["recipe"], built["in_fp8"]) == RECIPES[case]
    assert built["differences"] == []
