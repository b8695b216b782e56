"""A resolved plan in the words of another launcher: text, made from a Resolution alone, the same text each time.

`export(target, resolution, command)` answers with file names and contents. What a target cannot say is refused with
the field and the reason (ExportError); nothing is left out.
"""

from collections.abc import Callable, Collection
from importlib import import_module

from ..resolver.resolution import Resolution
from ._base import ExportError, Files

TARGETS = {
    "megatron-lm": "flags of pretrain_gpt.py, the file for --tp-comm-overlap-cfg, the environment",
    "megatron-bridge": "YAML for its ConfigContainer, the same in Python, the environment",
    "te": "the dictionary Transformer Engine's initialize_ub takes, as YAML",
    "env": "the launch environment as a shell file",
}


def export(target: str, resolution: Resolution, command: str = "", *, asked: Collection[str] | None = None) -> Files:
    """File name -> content. Raises ExportError.

    target: a key of TARGETS. command: what made it, for the header. asked: the keys that the user set; what is of a run and not
    of a plan, such as the learning rate, is written only then, else it is a comment. None: all that the plan says was asked for.
    """
    made: Callable[..., Files] = import_module(f"{__name__}.{target.replace('-', '_')}").export
    return made(resolution, command, asked=asked)


__all__ = ["TARGETS", "ExportError", "Files", "export"]
