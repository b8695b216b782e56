"""Transformer Engine's own initialize_ub, cut out of its pure-Python wheel and run without a GPU.

The wheel is read as a zip and never installed: installed without its CUDA half it makes `import megatron.core` fail. Kept
are initialize_ub (add_ub is inside it), get_ub, destroy_ub, UserBufferQuantizationMode and the globals these use. The
stubs are `tex`, the compiled extension, whose constructors record their arguments, and GPU memory for cuBLAS.
"""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

KEPT = ("initialize_ub", "get_ub", "destroy_ub", "UserBufferQuantizationMode")
BASE = "transformer_engine/pytorch/module/base.py"
GEMM = "transformer_engine/pytorch/cpp_extensions/gemm.py"
STREAMS = "_NUM_MAX_UB_STREAMS"


@dataclass
class Communicator:
    """A recorded constructor call. kind: P2P (ring exchange) or Base (pipeline, bulk, external)."""

    kind: str
    shape: list[int]
    dtype: Any
    tp_size: int
    collective: str | None  # AG or RS, where the constructor is told
    arguments: dict[str, Any]


def download(version: str, folder: Path) -> Path:
    """The wheel of one version in `folder`, fetched with pip unless it is there. Raises CalledProcessError."""
    found = list(folder.glob(f"transformer_engine-{version}-*.whl"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run(
            [*pip, "-d", str(folder), f"transformer-engine=={version}"], check=True, timeout=120, capture_output=True
        )
        found = list(folder.glob(f"transformer_engine-{version}-*.whl"))
    return found[0]


def cut(wheel: Path) -> SimpleNamespace:
    """The kept part of module/base.py, executed in a namespace of its own. Needs torch."""
    import os
    import typing
    import warnings
    from enum import Enum

    import torch

    with zipfile.ZipFile(wheel) as archive:
        base, gemm = (ast.parse(archive.read(path)) for path in (BASE, GEMM))
    functions = [node for node in base.body if getattr(node, "name", None) in KEPT]
    used = {node.id for kept in functions for node in ast.walk(kept) if isinstance(node, ast.Name)}
    used |= {
        name for kept in functions for node in ast.walk(kept) if isinstance(node, ast.Global) for name in node.names
    }
    state = [node for node in (*gemm.body, *base.body) if _assigned(node) & (used | {STREAMS})]
    module = ast.Module(body=[*state, *functions], type_ignores=[])
    namespace: dict[str, Any] = {
        **vars(typing), "Enum": Enum, "torch": torch, "os": os, "warnings": warnings, "tex": extension(),
        # 2.8 and 2.9 also make cuBLAS's workspace there, in GPU memory.
        "get_workspace": lambda: torch.empty(1, dtype=torch.uint8), "get_cublas_workspace_size_bytes": lambda: 1,
    }  # fmt: skip
    exec(compile(module, f"{wheel.name}/{BASE}", "exec"), namespace)
    assert set(KEPT) <= set(namespace)
    return SimpleNamespace(namespace=namespace, **{name: namespace[name] for name in KEPT})


def _assigned(node: ast.stmt) -> set[str]:
    """Names that a module-level assignment binds."""
    if not isinstance(node, ast.Assign):
        return set()
    return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def extension() -> SimpleNamespace:
    """What initialize_ub asks of transformer_engine_torch, recording."""

    def ring(shape: Any, dtype: Any, helper: Any, tp_size: int, collective: str, **arguments: Any) -> Communicator:
        return Communicator("P2P", shape, dtype, tp_size, collective, arguments)

    def base(shape: Any, dtype: Any, helper: Any, tp_size: int, **arguments: Any) -> Communicator:
        return Communicator("Base", shape, dtype, tp_size, arguments.pop("comm_type", None), arguments)

    return SimpleNamespace(
        device_supports_multicast=lambda: True,
        ubuf_built_with_mpi=lambda: False,
        get_stream_priority_range=lambda: (0, -5),
        CommOverlapHelper=lambda *groups: groups,
        CommOverlapType=SimpleNamespace(AG="AG", RS="RS"),
        CommOverlapP2P=ring,
        CommOverlap=base,
    )


@contextmanager
def world(ranks: int) -> Iterator[None]:
    """This process as rank 0 of `ranks`, with a backend that communicates nothing; new groups are such groups too."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    new_group, by_enumeration = dist.new_group, dist.new_subgroups_by_enumeration

    def group(*ranks: Any, **arguments: Any) -> Any:
        return new_group(*ranks, **{**arguments, "backend": "fake"})

    def groups(ranks_of_each: Any, backend: str) -> Any:
        return by_enumeration(ranks_of_each, backend="fake")

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with (
            mock.patch.object(dist, "new_group", group),
            mock.patch.object(dist, "new_subgroups_by_enumeration", groups),
        ):
            yield
    finally:
        dist.destroy_process_group()


def communicators(engine: SimpleNamespace, **arguments: Any) -> dict[tuple[str, str], Communicator]:
    """(GEMM, quantization mode) -> communicator, from one initialize_ub; destroyed afterwards, whatever it raised."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine.initialize_ub(**arguments)
        return {(gemm, mode.value): made for (gemm, mode), made in engine.namespace["_ub_communicators"].items()}
    finally:
        engine.destroy_ub()
