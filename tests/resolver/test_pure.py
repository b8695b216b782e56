"""`resolve` reads its argument and nothing else: no device file, no installed package, no option file."""

import builtins
import importlib.metadata
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from hydra_overlap import GatingError, resolve
from hydra_overlap.compose.enforce import judged
from hydra_overlap.machine import local

AUTO = ("platform=auto", "software=auto", "userbuffers=auto", "comm_overlap=tp4_h100")
REQUESTS: list[tuple[str, ...]] = [
    (), ("comm_overlap=tp4_h100",), AUTO, ("platform=auto", "software=auto"), ("software=auto", "platform=h100"),
    (*AUTO, "+userbuffers.layers.proj_fprop.num_sm=8"), (*AUTO, "platform.num_sms=100"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine that composes: eight H100 and a working Transformer Engine."""
    installed = {"torch": "2.9.0", "megatron_core": "0.16.1", "transformer_engine": "2.11.0"}
    monkeypatch.setattr(local, "gpu_names", lambda: ("NVIDIA H100 80GB HBM3",) * 8)
    monkeypatch.setattr(local, "installed_software", lambda: installed)
    local.local_platform.cache_clear()
    yield
    local.local_platform.cache_clear()


@contextmanager
def _nothing_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever looks at a file, a device or an installed package fails; so do the readers of the machine."""

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(f"resolve looked outside its argument: {arguments}")

    class NoDriver:
        def __getattr__(self, name: str) -> Any:
            refuse("pynvml", name)

    with monkeypatch.context() as patch:
        for name in ("gpu_names", "local_platform", "installed_software"):
            patch.setattr(local, name, refuse)
        patch.setitem(sys.modules, "pynvml", NoDriver())
        for owner, names in (
            (os.path, ("exists", "isfile", "isdir")), (os, ("open", "stat", "listdir", "scandir")), (io, ("open",)),
            (builtins, ("open",)), (importlib.metadata, ("version", "distribution")), (subprocess, ("run", "Popen")),
            (Path, ("open", "read_text", "exists", "is_file")),
        ):  # fmt: skip
            for name in names:
                patch.setattr(owner, name, refuse)
        yield


@pytest.mark.parametrize("overrides", REQUESTS, ids=" ".join)
@pytest.mark.parametrize("with_hydra", [False, True])
def test_resolve_of_a_composed_config_looks_at_nothing_else(
    overrides: tuple[str, ...], with_hydra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = compose("config", list(overrides), return_hydra_config=with_hydra)
    in_job = judged(cfg, foreign_nodes=True)
    resolve({})  # what is imported on first use is no part of the question
    resolve(cfg)
    with _nothing_outside(monkeypatch):
        answer = resolve(cfg)
    assert answer.request == in_job.request
    for name in ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env"):
        assert getattr(answer, name) == getattr(in_job, name)
    assert [finding.rule for finding in answer.findings] == [finding.rule for finding in in_job.findings]


def test_resolve_of_a_plain_request_looks_at_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"platform": {"name": "h100", "sm": 90}, "parallelism": {"tensor_model_parallel_size": 2}}
    resolve(request), resolve(OmegaConf.create(request))
    with _nothing_outside(monkeypatch):
        assert resolve(request).env == resolve(OmegaConf.create(request)).env


def test_what_was_planned_for_another_machine_is_not_filled_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config composed on a machine with GPUs means the same where there are none."""
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = compose("config", ["platform=auto"])
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(local, "gpu_names", lambda: ())
        local.local_platform.cache_clear()
        platform = resolve(cfg).request["platform"]
    assert (platform["name"], platform["sm"], platform["gpus_per_node"]) == ("h100", 90, 8)


def test_a_choice_that_was_not_recorded_is_refused_and_not_made_anew() -> None:
    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = compose("config", list(AUTO))
    with open_dict(cfg.overlap.effective):
        del cfg.overlap.effective["preset"]
    with pytest.raises(GatingError, match=r"Compose\s+it\s+again,\s+or\s+name\s+the\s+preset"):
        resolve(cfg)
