"""Lets unmodified megatron-core 0.16.1 train on CPU: torch's CUDA entry points answer for the CPU.

megatron-core names CUDA in its Python code (`device="cuda"`, `torch.cuda.current_device()`, streams, tensor type
names). On a machine without CUDA those names are redirected, once, to what the CPU has. Operators stay torch's, but for
products of 16-bit matrices (matmul.py). Two gaps of megatron-core itself are filled as well, each named where it is. Where
CUDA is available nothing changes.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import matmul

_SHAPED = ("empty", "zeros", "ones", "full", "rand", "randn")  # each has a `_like` beside it
_FACTORIES = (*_SHAPED, *(f"{name}_like" for name in _SHAPED), "tensor", "as_tensor", "arange")

_installed = False


def install() -> bool:
    """Redirect CUDA names to the CPU unless CUDA is there. Returns whether this process rehearses on CPU.

    Call before anything imports megatron.core: about sixty of its functions are decorated with torch.compile, and the
    streams it creates at import are looked up by name.
    """
    global _installed
    import torch

    if torch.cuda.is_available():
        return False
    torch.set_num_threads(threads(os.environ))
    if _installed:
        return True
    _installed = True
    _keep_freed_memory()
    _skip_compilation()
    _redirect_device_and_random_state()
    _redirect_streams()
    _redirect_tensors()
    _accept_split_tensors()
    matmul.install()
    return True


def threads(environment: Mapping[str, str]) -> int:
    """OMP_NUM_THREADS as OpenMP reads it: the first of its numbers; one thread where it says no number that can be."""
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and 0 < int(first[:6]) <= 4096 and len(first) <= 6 else 1


def finish() -> None:
    """Fill the gaps that are only reachable once megatron.core is imported.

    The MoE router asks whether `te_general_gemm` is None, and megatron-core 0.16.1 defines the name only where
    Transformer Engine is installed (moe_utils.py:23-35, 1192): None is the answer that means "no Transformer Engine".
    """
    if not _installed:
        return
    from megatron.core.transformer.moe import moe_utils

    moe_utils.te_general_gemm = None


def _keep_freed_memory() -> None:
    """Blocks that a step frees stay in the process for the next one: without this a step takes thousands of page faults.

    Settings of glibc's malloc, in bytes (mallopt(3)); another C library keeps its own.
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)  # the largest it takes


def _skip_compilation() -> None:
    """torch.compile becomes the identity: no compiler is needed, and start-up is seconds shorter."""
    import torch

    def compile(model: Any = None, **_: Any) -> Any:
        return model if model is not None else lambda function: function

    torch.compile = compile  # type: ignore[assignment]


class _Generators:
    """Every CUDA device's default generator is the CPU's."""

    def __getitem__(self, index: Any) -> Any:
        import torch

        return torch.default_generator

    def __len__(self) -> int:
        return 1


def _redirect_device_and_random_state() -> None:
    import torch

    cuda = torch.cuda
    replacements: dict[str, Any] = {
        "is_initialized": lambda: True,
        "current_device": lambda: torch.device("cpu"),
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "default_generators": _Generators(),
        "get_rng_state": lambda device="cuda": torch.default_generator.get_state(),
        "set_rng_state": lambda state, device="cuda": torch.default_generator.set_state(state),
        # torch.manual_seed calls manual_seed_all itself, after it has seeded the CPU's generator.
        "manual_seed": lambda seed: torch.default_generator.manual_seed(seed) and None,
        "manual_seed_all": lambda seed: None,
    }
    for name, value in replacements.items():
        setattr(cuda, name, value)
        if hasattr(cuda.random, name):  # megatron-core's RNG tracker goes through torch.cuda.random
            setattr(cuda.random, name, value)
    for name in ("range_push", "range_pop", "mark"):
        setattr(cuda.nvtx, name, lambda *args, **kwargs: None)


def _redirect_streams() -> None:
    """Streams and events of the CPU, which do nothing, behind CUDA's signatures.

    They are classes, because megatron-core uses `torch.cuda.Stream` in annotations and isinstance checks.
    """
    import torch

    class Stream(torch.cpu.Stream):  # type: ignore[misc]
        def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
            super().__init__()

        def record_event(self, event: Any = None) -> Any:  # type: ignore[override]
            return event if event is not None else Event()

        def synchronize(self) -> None:
            return None

    class Event(torch.cpu.Event):  # type: ignore[misc]
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def elapsed_time(self, end: Any) -> float:
            return 0.0

    default = Stream()

    @contextlib.contextmanager
    def stream(_: Any = None) -> Iterator[None]:
        yield

    cuda: Any = torch.cuda
    cuda.Stream, cuda.Event, cuda.stream = Stream, Event, stream
    cuda.current_stream = cuda.default_stream = lambda device=None: default
    cuda.set_stream = lambda _: None


def _redirect_tensors() -> None:
    """`device="cuda"` means the CPU in factory functions and moves; `Tensor.type()` answers CUDA's names.

    The distributed optimizer tells parameters apart by those names (distrib_optimizer.py:361, optimizer.py:671).
    """
    import torch

    for name in _FACTORIES:
        if hasattr(torch, name):
            setattr(torch, name, _on_cpu(getattr(torch, name)))
    tensor: Any = torch.Tensor
    original_type = tensor.type

    @functools.wraps(original_type)
    def type_of(self: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None:
            return str(original_type(self)).replace("torch.", "torch.cuda.", 1)
        return original_type(self, dtype, *args, **kwargs)

    tensor.type = type_of
    tensor.cuda = lambda self, *args, **kwargs: self
    tensor.record_stream = lambda self, stream: None
    tensor.pin_memory = lambda self, *args: self


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same factory, with CUDA devices mapped to the CPU and pinned memory left out."""

    @functools.wraps(function)
    def factory(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return function(*args, **kwargs)

    return factory


def _accept_split_tensors() -> None:
    """Gloo's all_to_all_single takes split sizes as lists; the token dispatcher hands over tensors or arrays."""
    import torch.distributed as dist

    original = dist.all_to_all_single

    @functools.wraps(original)
    def all_to_all_single(
        output: Any, input: Any, output_splits: Any = None, input_splits: Any = None, **kw: Any
    ) -> Any:
        output_splits = kw.pop("output_split_sizes", output_splits)
        input_splits = kw.pop("input_split_sizes", input_splits)
        return original(output, input, _as_list(output_splits), _as_list(input_splits), **kw)

    dist.all_to_all_single = all_to_all_single


def _as_list(splits: Any) -> Any:
    return splits.tolist() if hasattr(splits, "tolist") else splits
