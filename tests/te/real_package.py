"""The real transformer_engine package out of its pure-Python wheel, importable without CUDA; for a child process of its own.

Fake is what is compiled, and nothing else: the extension `transformer_engine_torch` (whatever is asked of it exists and
does nothing; initialize_ub's constructors record their arguments), the shared libraries that the package loads, and three
packages that its import wants and no layer needs here (onnxscript, triton, pydantic's checking dataclass).
"""

import dataclasses
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from tests.te import upstream

WANTED = ("onnx", "onnxscript", "triton", "triton.language", "triton.language.core", "triton.language.standard")


def install(wheel: Path, folder: Path) -> None:
    """Put the package of `wheel`, unpacked into `folder`, on this process's path. Needs hydra_overlap.megatron.cpu."""
    target = folder / wheel.stem
    if not target.exists():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    sys.path.insert(0, str(target))
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # transformer_engine/common/__init__.py: load no library
    import torch._dynamo  # noqa: F401 - asks for triton itself, and must find none

    for name in WANTED:
        sys.modules[name] = _everything(name)
    sys.modules["triton"].__version__ = "3.0.0"  # type: ignore[attr-defined]
    checked = _everything("pydantic.dataclasses")
    checked.dataclass = _tolerant_dataclass  # type: ignore[attr-defined]
    sys.modules["pydantic.dataclasses"] = checked
    sys.modules["pydantic"] = _everything("pydantic")

    import transformer_engine.common

    extension = _everything("transformer_engine_torch")
    answers = {"get_cudnn_version": lambda: 91_900, "get_cublasLt_version": lambda: 130_100}  # of torch 2.11's CUDA 13
    for name, value in {**vars(upstream.extension()), **answers}.items():
        setattr(extension, name, value)
    sys.modules["transformer_engine_torch"] = extension
    transformer_engine.common.load_framework_extension = lambda framework: None


def _tolerant_dataclass(**options: Any) -> Callable[[type], type]:
    """A dataclass that drops arguments it has no field for, as pydantic's does (megatron-core hands such to a recipe)."""

    def make(kind: type) -> type:
        made = dataclasses.dataclass(**options)(kind)
        original, names = made.__init__, {field.name for field in dataclasses.fields(made)}

        def initialise(self: Any, *values: Any, **named: Any) -> None:
            original(self, *values, **{name: value for name, value in named.items() if name in names})

        made.__init__ = initialise
        return made

    return make


def _everything(name: str) -> ModuleType:
    """A module that has every attribute."""

    class Everything(ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            value = mock.MagicMock(name=f"{name}.{attribute}")
            setattr(self, attribute, value)
            return value

    return Everything(name)
