"""Importing torch and megatron-core, with what they print meanwhile kept from the terminal.

Without Transformer Engine and Apex megatron-core warns four times at import, its FSDP logs what it found, and the process
that starts ranks would show it all between our lines. It goes to a file beside the ranks' output; errors are raised.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..launch.streams import redirected


def load(log: str | Path) -> bool:
    """Import everything a rank trains with. log: the file for what libraries print meanwhile.

    Where there is no CUDA, or the environment hides it, torch is prepared for the CPU first (cpu.install).
    -> whether ranks may be forked from this process: not from one that has CUDA, or that made a dry run before, in which
    CUDA's names mean the meta device.
    """
    with kept_from_terminal(log), _without_garbage_collection():
        from . import cpu

        on_cpu = cpu.install()
        import megatron.core.datasets.blended_megatron_dataset_builder
        import megatron.core.datasets.gpt_dataset
        import megatron.core.dist_checkpointing
        import megatron.core.distributed
        import megatron.core.models.gpt.gpt_layer_specs
        import megatron.core.optimizer
        import megatron.core.optimizer_param_scheduler
        import megatron.core.pipeline_parallel
        import megatron.core.transformer.torch_norm  # noqa: F401
        import torch
        import torch._dynamo  # which every optimizer imports when it is made

        from . import build, checkpoint, data, evaluate, nonfinite, readback, step, userbuffers  # noqa: F401

        cpu.finish()
        return on_cpu and torch.cuda.current_device() == torch.device("cpu")


@contextmanager
def kept_from_terminal(log: str | Path) -> Iterator[None]:
    """Append to `log` what this process, C++ libraries included, writes to its output and error streams within."""
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file, redirected({1: file.fileno(), 2: file.fileno()}):
        yield


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Imports make little garbage, and looking for it takes a fifth of their time; what they made is not looked at later."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
