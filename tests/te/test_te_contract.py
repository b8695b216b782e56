"""The userbuffers contract with Transformer Engine: it takes every dictionary we emit, and what it refuses we refuse.

Its own initialize_ub runs here without a GPU (upstream.py), once for each version. The wheels are downloaded once into
pytest's cache; where that is impossible these tests are skipped.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydra_overlap import GatingError, Resolution, option_files, resolve
from hydra_overlap.launch import plan as plans
from hydra_overlap.megatron import userbuffers
from hydra_overlap.rules.ub import GEMMS, METHODS, REDUCE_SCATTER
from tests import needs
from tests.each import each
from tests.overrides import errors_of, overridden, remarks, request_of
from tests.te import upstream

pytestmark = [needs.TORCH, needs.IN_PROCESS]
torch = needs.Late("torch")

VERSIONS = ("2.10.0", "2.12.0", "2.20.2")
PRESETS = [
    name for name in option_files.options("userbuffers") if "tuned_for" in option_files.option("userbuffers", name)
]
EDITS = 4  # pasted fixes after which a preset that is refused as published is legal
CASES = json.loads((Path(__file__).parents[1] / "reference" / "te_userbuffers_cases.json").read_text())["cases"]
REFUSALS = (AssertionError, KeyError, RuntimeError, TypeError, ValueError)
BF16, FP8 = ("precision.bf16=true",), ("precision.bf16=true", "precision.fp8=hybrid", "precision.fp8_recipe=tensorwise")
FORMATS = {
    "bf16": (BF16, ("none",)),
    "fp8": (FP8, ("fp8",)),
    "fp8 with bf16 layers": ((*FP8, "precision.first_last_layers_bf16=true"), ("fp8", "none")),
}
REPLICAS = 2  # two NVLink domains, so that the groups of one are made


def asked(tp: int, *overrides: str) -> dict[str, Any]:
    """A request for TP overlap on `tp` ranks."""
    return request_of(
        "comm_overlap.tp.tp_comm_overlap=true", f"parallelism.tensor_model_parallel_size={tp}",
        "parallelism.sequence_parallel=true", f"parallelism.world_size={REPLICAS * tp}",
        "comm_overlap.tp.tp_comm_bootstrap_backend=gloo",  # the one that a torch without CUDA has
        "software.transformer_engine=2.11.0", "model.seq_length=8192", "model.hidden_size=8192", *overrides,
    )  # fmt: skip


def arguments(resolution: Resolution, engine: SimpleNamespace) -> dict[str, Any]:
    """What train.py would hand to initialize_ub."""
    plan = plans.make(resolution, overrides=[], config="", output_dir=Path("nowhere"))
    return userbuffers.arguments(plan, engine.UserBufferQuantizationMode)


def tuned(name: str) -> dict[str, Any]:
    found: dict[str, Any] = option_files.option("userbuffers", name)["tuned_for"]
    return found


def resolved(name: str, *overrides: str) -> Resolution:
    """A preset on its shape. Where it is refused as published (LoRA, atomic GEMMs): what the printed fixes make of it."""
    shape = tuned(name)
    request = asked(
        shape["tp"], f"userbuffers={name}", f"model.hidden_size={shape['hidden_size']}",
        f"model.seq_length={shape['seq_length']}", f"training.micro_batch_size={shape['mbs']}", *overrides,
    )  # fmt: skip
    for _ in range(EDITS):
        for error in errors_of(request)[:1]:
            assert error.rule.startswith("UB"), error.message
            request = overridden(request, error.fixes[0].override)
    return resolve(request)


@pytest.fixture(scope="session", params=VERSIONS)
def engine(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Initialize_ub of one version."""
    folder = Path(request.config.cache.mkdir("transformer-engine"))  # type: ignore[union-attr]
    try:
        wheel = upstream.download(request.param, folder)
    except (subprocess.SubprocessError, OSError, IndexError) as error:
        pytest.skip(f"transformer-engine {request.param} cannot be downloaded: {error}")
    found = upstream.cut(wheel)
    found.version = request.param
    return found


@pytest.fixture(params=[2, 4, 8])
def ranks(request: pytest.FixtureRequest) -> Iterator[int]:
    """A world of two replicas of so many tensor-parallel ranks."""
    with upstream.world(REPLICAS * request.param):
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize("numbers", FORMATS)
def test_transformer_engine_accepts_every_preset(engine: SimpleNamespace, ranks: int, numbers: str) -> None:
    precision, modes = FORMATS[numbers]
    presets = [name for name in PRESETS if tuned(name)["tp"] == ranks]
    assert presets
    for name in presets:
        resolution = resolved(name, *precision)
        made = upstream.communicators(engine, **arguments(resolution, engine))
        assert set(made) == {(gemm, mode) for gemm in GEMMS for mode in modes}, name
        shape = tuned(name)
        for (gemm, mode), communicator in made.items():
            assert communicator.shape == [shape["seq_length"] * shape["mbs"], shape["hidden_size"]]
            assert communicator.tp_size == ranks
            as_asked(communicator, resolution.userbuffers, gemm, mode)


def as_asked(communicator: upstream.Communicator, layers: Any, gemm: str, mode: str) -> None:
    """Every argument of our entry reached the communicator."""
    entry = layers.get(gemm, {})
    ring = communicator.kind == "P2P"
    names = {"num_sm": "num_comm_sm", "cga_size": "comm_cga_size", "set_sm_margin": "set_sm_margin"}
    names |= {"aggregate": "aggregate", "use_ce": "use_ce"} if ring else {"num_splits": "num_splits"}
    for ours, theirs in names.items():
        assert communicator.arguments[theirs] == entry.get(ours, communicator.arguments[theirs]), (gemm, ours)
    if "method" in entry:
        assert ring == (entry["method"] == "ring_exchange"), gemm
    if ring:
        assert communicator.collective == (
            "RS" if gemm in REDUCE_SCATTER or gemm.endswith(("v_dgrad", "1_dgrad")) else "AG"
        )
    if mode == "none":
        assert communicator.dtype is torch.bfloat16
    elif gemm in ("proj_fprop", "fc2_fprop"):
        assert communicator.dtype is (torch.uint8 if entry.get("fp8_buf") else torch.bfloat16), gemm


@pytest.mark.slow
def test_transformer_engine_accepts_its_defaults(engine: SimpleNamespace, ranks: int) -> None:
    made = upstream.communicators(engine, **arguments(resolve(asked(ranks, *BF16)), engine))
    rings = [communicator for communicator in made.values() if communicator.kind == "P2P"]
    assert (len(made), len(rings)) == (12, 4)
    assert {ring.arguments["num_comm_sm"] for ring in rings} == {1}


def requested(case: dict[str, Any]) -> dict[str, Any]:
    """Our request for a recorded case."""
    precision = (
        (*FP8, "precision.first_last_layers_bf16=true") if case.get("mixed") else FP8 if case.get("fp8") else BF16
    )
    overrides = [f"model.seq_length={case['seq_length']}"] if "seq_length" in case else []
    overrides += [f"comm_overlap.tp.tp_comm_bootstrap_backend={case['bootstrap']}"] if "bootstrap" in case else []
    return {**asked(4, *precision, *overrides), "userbuffers": {"name": "mine", "layers": case["layers"]}}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_transformer_engine_says_what_is_recorded(
    engine: SimpleNamespace, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = engine.UserBufferQuantizationMode
    quantization = [modes.FP8, modes.NONE] if case.get("mixed") else [modes.FP8 if case.get("fp8") else modes.NONE]
    given = {
        "shape": [case.get("seq_length", 8192), 8192], "tp_size": 4, "quantization_modes": quantization,
        "ub_cfgs": case["layers"], "bootstrap_backend": case.get("bootstrap", "gloo"),
    }  # fmt: skip
    if case.get("bootstrap") == "nccl" and torch.distributed.is_nccl_available():
        pytest.skip("this torch has NCCL")
    monkeypatch.setattr(engine.namespace["tex"], "device_supports_multicast", lambda: case.get("multicast", True))
    with upstream.world(8):
        if case["transformer_engine"] == "accepts":
            assert len(upstream.communicators(engine, **given)) == 12 * len(quantization)
            return
        with pytest.raises(REFUSALS) as refusal:
            upstream.communicators(engine, **given)
    if engine.version == "2.20.2":
        assert f"{type(refusal.value).__name__}: {refusal.value}".startswith(case["message"]["2.20.2"])


@each("case", CASES, ids=lambda case: case["case"])
def test_what_transformer_engine_refuses_our_rules_refuse(case: dict[str, Any]) -> None:
    """And mistakes that it takes without a word: wherever a rule is named."""
    assert [error.rule for error in errors_of(requested(case))] == case["we_refuse"]
    assert case["transformer_engine"] == "accepts" or case["we_refuse"] or case.get("besides") == "machine"


@pytest.mark.parametrize(
    "case", [case for case in CASES if "note" in case.get("besides", "")], ids=lambda case: case["case"]
)
def test_arguments_that_transformer_engine_drops_get_a_note(case: dict[str, Any]) -> None:
    (gemm, entry), *_ = case["layers"].items()
    said = ",".join(f"{name}:{value}" for name, value in entry.items()).replace("True", "true")
    base = ("comm_overlap.tp.tp_comm_overlap=true", "parallelism.tensor_model_parallel_size=4", *BF16)
    found = remarks(
        *base, "parallelism.sequence_parallel=true", "software.transformer_engine=2.11.0",
        f"userbuffers.layers.{gemm}={{{said}}}",
    )  # fmt: skip
    assert case["besides"] == f"note {found[0]}"


def entries() -> st.SearchStrategy[dict[str, Any]]:
    """One GEMM's arguments, some of them wrong."""
    return st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from([*METHODS, "ring_exchange", "bulk", "foo"]), "num_sm": st.sampled_from([1, 2, 16, 33]),
            "cga_size": st.sampled_from([1, 2]), "num_splits": st.sampled_from([1, 4, 7]), "set_sm_margin": st.booleans(),
            "aggregate": st.booleans(), "atomic_gemm": st.sampled_from([False, False, True]), "use_ce": st.booleans(),
            "fp8_buf": st.booleans(), "is_reduce_scatter": st.booleans(), "num_sms": st.just(4),
        },
    )  # fmt: skip


@st.composite
def dictionaries(draw: st.DrawFn) -> dict[str, Any]:
    """A request for TP overlap with a dictionary that is often legal."""
    precision, _ = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    layers: dict[str, Any] = {}
    for gemm in draw(st.lists(st.sampled_from([*GEMMS, "qkv_fwd"]), unique=True, max_size=4)):
        entry = draw(entries())
        names = draw(st.lists(st.sampled_from(sorted(entry)), unique=True, max_size=3)) if entry else []
        layers[gemm] = {name: entry[name] for name in names}
    return {**asked(4, *precision), "userbuffers": {"name": "drawn", "layers": layers}}


@pytest.mark.slow
def test_transformer_engine_accepts_whatever_we_accept(engine: SimpleNamespace) -> None:
    """In other words: whatever it refuses, we refuse."""
    accepted = 0

    @settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(dictionaries())
    def judged(request: dict[str, Any]) -> None:
        nonlocal accepted
        try:
            resolution = resolve(request)
        except GatingError:
            return
        accepted += bool(request["userbuffers"]["layers"])
        made = upstream.communicators(engine, **arguments(resolution, engine))
        for (gemm, mode), communicator in made.items():
            as_asked(communicator, resolution.userbuffers or {}, gemm, mode)

    with upstream.world(8):
        judged()
    assert accepted > 50
