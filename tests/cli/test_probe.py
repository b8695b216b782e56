"""A Transformer Engine that is half there is found out without importing it here."""

import sys

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import preflight
from hydra_overlap.machine import transformer_engine
from tests.plans import plan_of


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(versions, package)`: distributions of Transformer Engine, and what importing it does."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(versions, init="", extension="", base=""):
        for name, version in versions.items():
            info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        module = tmp_path / "transformer_engine" / "pytorch" / "module"
        module.mkdir(parents=True)
        (tmp_path / "transformer_engine" / "__init__.py").write_text(init)
        (module.parent / "__init__.py").write_text("")
        (module / "__init__.py").write_text("")
        (module / "base.py").write_text(base)
        if extension:
            (tmp_path / "transformer_engine_torch.py").write_text(extension)
        transformer_engine.transformer_engine.cache_clear()

    yield put
    transformer_engine.transformer_engine.cache_clear()


WHOLE = {"transformer-engine": "2.11.0", "transformer-engine-cu13": "2.11.0", "transformer-engine-torch": "2.11.0"}
SYMBOLS = "\n".join(f"{name} = None" for name in transformer_engine.NEEDED_SYMBOLS)
BASE = "def initialize_ub(shape, tp_size, use_fp8=False, quantization_modes=None): ..."


def test_without_its_distributions_nothing_is_started(monkeypatch):
    monkeypatch.setattr(transformer_engine, "_installed", dict)
    monkeypatch.setattr(transformer_engine.subprocess, "run", None)
    transformer_engine.transformer_engine.cache_clear()
    assert transformer_engine.transformer_engine().state == "absent"


def test_a_whole_one_works(install):
    install(WHOLE, extension=SYMBOLS, base=BASE)
    assert transformer_engine.transformer_engine() == transformer_engine.Probe(
        state="works", detail="2.11.0", installed=tuple(f"{name} {version}" for name, version in WHOLE.items())
    )
    assert "transformer_engine" not in sys.modules


@pytest.mark.parametrize(
    ("installation", "detail"),
    [
        (
            {"versions": {"transformer-engine": "2.11.0"}, "init": "raise RuntimeError('empty meta package')"},
            "empty meta package",
        ),
        ({"versions": {**WHOLE, "transformer-engine-torch": "2.10.0"}}, "different versions"),
        ({"versions": WHOLE}, "No module named 'transformer_engine_torch'"),
        ({"versions": WHOLE, "extension": "CommOverlap = None", "base": BASE}, "it lacks CommOverlapP2P"),
        ({"versions": WHOLE, "extension": SYMBOLS, "base": "def initialize_ub(shape): ..."}, "quantization_modes"),
    ],
    ids=["meta package alone", "mixed versions", "no extension", "old extension", "before 2.8"],
)
def test_a_half_installed_one_is_broken_and_says_why(install, installation, detail):
    install(**installation)
    found = transformer_engine.transformer_engine()
    assert found.state == "broken" and detail in found.detail


def test_a_broken_one_stops_a_run_before_its_ranks_fail_on_it(install):
    install({"transformer-engine": "2.11.0"}, init="raise RuntimeError('empty meta package')")
    with pytest.raises(LaunchError, match="does not work") as refusal:
        preflight.require_software(plan_of())
    assert "pip uninstall transformer-engine" in str(refusal.value)


def test_a_gpu_machine_without_one_does_not_start_a_plan_with_tp_overlap(monkeypatch):
    monkeypatch.setattr(
        transformer_engine,
        "transformer_engine",
        lambda: transformer_engine.Probe(state="absent", detail="not installed"),
    )
    monkeypatch.setattr(preflight, "gpu_names", lambda: ("NVIDIA H100",) * 8)
    with pytest.raises(LaunchError, match="this machine has no Transformer Engine"):
        preflight.require_software(plan_of("comm_overlap=tp4_h100"))
    with pytest.raises(LaunchError, match="judged for versions other") as refusal:
        preflight.require_software(plan_of("platform=h100", "software=reference"))
    assert "software.torch=2.11.0, here" in str(refusal.value)
