"""Facts of the machine that composes: read with NVML and package metadata, and filled in where `auto` stands."""

from importlib import metadata

import pytest

from hydra_overlap import option_files
from hydra_overlap.compose.enforce import judged
from hydra_overlap.machine import local
from tests.compose.commands import Compose


@pytest.fixture(autouse=True)
def _fresh_facts() -> None:
    local.local_platform.cache_clear()
    local.installed_software.cache_clear()


def with_gpus(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(local, "gpu_names", lambda: names)


@pytest.mark.parametrize(
    ("gpu", "name", "sm"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", 90),
        ("NVIDIA H200", "h200", 90),
        ("NVIDIA A100-SXM4-80GB", "a100", 80),
        ("NVIDIA B200", "b200", 100),
        ("NVIDIA GB200", "gb200", 100),
        ("NVIDIA B300 SXM6 AC", "b300", 103),
        ("NVIDIA GB300", "gb300", 103),
    ],
)
def test_a_gpu_is_known_by_the_name_nvml_gives_it(
    monkeypatch: pytest.MonkeyPatch, gpu: str, name: str, sm: int
) -> None:
    with_gpus(monkeypatch, gpu, gpu)
    here = local.local_platform()
    assert (here["name"], here["sm"], here["gpus_per_node"]) == (name, sm, 2)


def test_an_unknown_gpu_keeps_its_own_name_and_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "NVIDIA RTX A6000")
    monkeypatch.setattr(local, "_compute_capability", lambda: 86)
    here = local.local_platform()
    assert (here["name"], here["sm"], here["gpus_per_node"]) == ("nvidia_rtx_a6000", 86, 1)


def test_a_machine_without_a_driver_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)
    assert local.local_platform()["name"] == "cpu"


def test_a_plan_for_this_machine_takes_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)
    request = {"platform": {"name": "auto"}, "software": {"torch": "auto", "origin": "auto"}}
    local.fill(request)
    assert request["platform"]["name"] == "cpu"
    assert request["software"]["origin"] == "installed"
    assert request["software"]["torch"] == local.installed_software()["torch"]


def test_a_plan_for_another_machine_assumes_the_reference_stack_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)
    request = {
        "platform": {"name": "h100"},
        "software": {"torch": "auto", "transformer_engine": "auto", "origin": "auto"},
    }
    local.fill(request)
    assert request["software"] == {"torch": "2.11.0", "transformer_engine": "2.11.0", "origin": "assumed"}


def test_a_pinned_version_stays_beside_assumed_ones(composed: Compose) -> None:
    cfg = composed("comm_overlap=tp4_h100", "software.transformer_engine=2.9.0")
    assert cfg.overlap.effective.software.transformer_engine == "2.9.0"
    assert cfg.overlap.effective.software.megatron_core == "0.16.1"


def test_a_value_said_beside_platform_auto_wins_over_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "NVIDIA H100 80GB HBM3")
    request = {"platform": {"name": "auto", "gpus_per_node": 4, "sm": None}}
    local.fill(request)
    assert (request["platform"]["gpus_per_node"], request["platform"]["sm"]) == (4, 90)


def test_transformer_engine_counts_only_with_its_torch_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta package alone makes `import megatron.core` crash."""
    found = {"transformer-engine": "2.11.0", "torch": "2.11.0+cu128", "megatron-core": "0.16.1"}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(metadata, "version", version)
    assert local.installed_software() == {"torch": "2.11.0", "megatron_core": "0.16.1", "transformer_engine": None}
    local.installed_software.cache_clear()
    found["transformer-engine-torch"] = "2.11.0"
    assert local.installed_software()["transformer_engine"] == "2.11.0"


def test_facts_filled_in_are_shown_and_do_not_decide_the_fingerprint(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same plan on the same kind of machine with another number of GPUs, or another torch, is the same plan."""
    with_gpus(monkeypatch, *["NVIDIA H100 80GB HBM3"] * 8)
    cfg = composed("comm_overlap=dp")
    assert cfg.platform.name == "auto"
    assert cfg.overlap.effective.platform.name == "h100"
    local.local_platform.cache_clear()
    with_gpus(monkeypatch, *["NVIDIA H100 80GB HBM3"] * 4)
    judged(cfg)


def test_options_of_a_group_are_listed() -> None:
    assert option_files.options("comm_overlap/tp") == ("default", "none", "userbuffers")
    assert option_files.options("no/such/group") == ()
