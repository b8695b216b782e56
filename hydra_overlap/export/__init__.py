"""A resolved plan in the words of another launcher: text, made from a Resolution alone, the same text each time.

`export(target, resolution, command)` answers with file names and contents. What a target cannot say is refused with
the field and the reason (ExportError); nothing is left out.
"""

from collections.abc import Callable
from importlib import import_module

from ..resolver.resolution import Resolution
from ._base import ExportError, Files

TARGETS = {
    "megatron-lm": "flags of pretrain_gpt.py, the file for --tp-comm-overlap-cfg, the environment",
    "megatron-bridge": "YAML for its ConfigContainer, the same in Python, the environment",
    "te": "the dictionary Transformer Engine's initialize_ub takes, as YAML",
    "env": "the launch environment as a shell file",
}


def export(target: str, resolution: Resolution, command: str = "") -> Files:
    """File name -> content. target: a key of TARGETS. command: what made it, for the header. Raises ExportError."""
    make: Callable[[Resolution, str], Files] = import_module(f"{__name__}.{target.replace('-', '_')}").export
    return make(resolution, command)


__all__ = ["TARGETS", "ExportError", "Files", "export"]
